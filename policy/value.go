package policy

import (
	"encoding/json"
	"strconv"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
)

// value is the document as the evaluator takes it. It is written out by hand
// because it is made anew for every question: a round trip through JSON costs
// as much as the evaluation. It must hold what json.Marshal makes of the
// document of a question; a test compares the two.
func (in *input) value() ast.Value {
	if in.isEgress() {
		return in.egressValue()
	}
	return ast.NewObject(append(in.head(),
		member("action", in.Action.value()),
		member("context", in.Context.value()),
	)...)
}

// head are the members that every kind has alike.
func (in *input) head() [][2]*ast.Term {
	return append(make([][2]*ast.Term, 0, 8),
		member("v", number(int64(in.V))),
		member("request", object(
			member("id", text(in.Request.ID)),
			member("time_ns", number(in.Request.TimeNS)),
			member("trace_id", text(in.Request.TraceID)),
		)),
		member("principal", object(
			member("subject", text(in.Principal.Subject)),
			member("tenant", text(in.Principal.Tenant)),
			member("roles", texts(in.Principal.Roles)),
			member("method", text(in.Principal.Method)),
		)),
		member("agent", object(
			member("name", text(in.Agent.Name)),
			member("session", text(in.Agent.Session)),
			member("purpose", text(in.Agent.Purpose)),
		)),
	)
}

// egressValue is value of the kind egress.
func (in *input) egressValue() ast.Value {
	members := append(in.head(), member("action", egressAction), member("context", object(member("environment", text(in.Context.Environment)))))
	if r := in.Egress; r != nil {
		request := append(make([][2]*ast.Term, 0, 5),
			member("host", text(r.Host)),
			member("port", number(int64(r.Port))),
			member("method", text(r.Method)),
			member("path", text(r.Path)),
		)
		if r.Bytes != nil {
			request = append(request, member("bytes", number(*r.Bytes)))
		}
		members = append(members, member("egress", object(request...)))
	}
	return ast.NewObject(members...)
}

// egressAction is the action of the kind egress: of all of them the same.
var egressAction = object(member("kind", text(string(execution.ActionEgress))))

func (c *contextInput) value() *ast.Term {
	members := [][2]*ast.Term{
		member("counters", object(append(countersOf(c.Counters.Counters), member("principal", object(countersOf(c.Counters.Principal)...)))...)),
		member("environment", text(c.Environment)),
	}
	if a := c.Approval; a != nil {
		members = append(members, member("approval", object(
			member("id", text(a.ID)),
			member("by", text(a.By)),
			member("at", text(a.At)),
			member("comment", text(a.Comment)),
			member("request_sha256", text(a.RequestSHA256)),
		)))
	}
	return object(members...)
}

func countersOf(c execution.Counters) [][2]*ast.Term {
	return [][2]*ast.Term{
		member("running", number(c.Running)),
		member("executions_1m", number(c.Executions1M)),
		member("cpu_ms_1h", number(c.CPUMS1H)),
		member("egress_bytes_1h", number(c.EgressBytes1H)),
		member("leases_1h", number(c.Leases1H)),
	}
}

func (a *actionInput) value() *ast.Term {
	members := [][2]*ast.Term{
		member("kind", text(a.Kind)),
		member("language", text(a.Language)),
		member("code", a.Code.value()),
		member("image", object(
			member("name", text(a.Image.Name)),
			member("digest", text(a.Image.Digest)),
		)),
		member("runtime", text(a.Runtime)),
		member("request_sha256", text(a.RequestSHA256)),
		member("env_names", texts(a.EnvNames)),
		member("files", a.filesValue()),
		member("limits", a.limitsValue()),
		member("network", a.networkValue()),
		member("tools", texts(a.Tools)),
	}
	if a.Tool != "" {
		members = append(members, member("tool", text(a.Tool)))
	}
	if a.args != nil {
		members = append(members, member("args", ast.NewTerm(a.args)))
	}
	if a.ArgsSHA256 != "" {
		members = append(members, member("args_sha256", text(a.ArgsSHA256)))
	}
	return object(members...)
}

func (c *codeInput) value() *ast.Term {
	members := [][2]*ast.Term{
		member("sha256", text(c.SHA256)),
		member("bytes", number(c.Bytes)),
	}
	if c.Text != nil {
		members = append(members, member("text", text(*c.Text)))
	}
	return object(members...)
}

func (a *actionInput) filesValue() *ast.Term {
	terms := make([]*ast.Term, len(a.Files))
	for i, f := range a.Files {
		terms[i] = object(
			member("path", text(f.Path)),
			member("bytes", number(f.Bytes)),
		)
	}
	return array(terms)
}

func (a *actionInput) limitsValue() *ast.Term {
	var members [][2]*ast.Term
	for _, limit := range execution.AllLimits() {
		if asked := *limit.Of(&a.Limits); asked != 0 {
			members = append(members, member(limit.Name, number(asked)))
		}
	}
	return object(members...)
}

func (a *actionInput) networkValue() *ast.Term {
	terms := make([]*ast.Term, len(a.Network))
	for i, d := range a.Network {
		terms[i] = object(
			member("host", text(d.Host)),
			member("port", number(int64(d.Port))),
		)
	}
	return array(terms)
}

func object(members ...[2]*ast.Term) *ast.Term { return ast.NewTerm(ast.NewObject(members...)) }

func member(key string, value *ast.Term) [2]*ast.Term {
	return [2]*ast.Term{keys[key], value}
}

// keys are the terms of the document's keys, which never change: making them
// anew would be a third of the document's cost.
var keys = func() map[string]*ast.Term {
	terms := make(map[string]*ast.Term)
	for _, key := range []string{
		"v", "request", "id", "time_ns", "trace_id", "principal", "subject", "tenant", "roles", "method",
		"agent", "name", "session", "purpose", "action", "kind", "language", "code", "sha256", "bytes",
		"text", "image", "digest", "runtime", "request_sha256", "env_names", "files", "path", "limits",
		"network", "host", "port", "tools", "context", "counters", "running", "executions_1m", "cpu_ms_1h", "egress_bytes_1h", "leases_1h",
		"environment", "approval", "by", "at", "comment", "tool", "args", "args_sha256", "egress",
	} {
		terms[key] = ast.StringTerm(key)
	}
	for _, limit := range execution.AllLimits() {
		terms[limit.Name] = ast.StringTerm(limit.Name)
	}
	return terms
}()

// The evaluator keeps one term each of small numbers, of the empty string and of
// the empty array, which are most of what a document holds.

func text(s string) *ast.Term { return ast.InternedTerm(s) }

func number(n int64) *ast.Term {
	if small := int(n); int64(small) == n { // what is interned is an int, of 32 bits on some machines
		return ast.InternedTerm(small)
	}
	return ast.NumberTerm(json.Number(strconv.FormatInt(n, 10)))
}

func array(terms []*ast.Term) *ast.Term {
	if len(terms) == 0 {
		return ast.InternedEmptyArray
	}
	return ast.NewTerm(ast.NewArray(terms...))
}

func texts(list []string) *ast.Term {
	terms := make([]*ast.Term, len(list))
	for i, s := range list {
		terms[i] = text(s)
	}
	return array(terms)
}
