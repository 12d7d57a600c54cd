package policy

import (
	"encoding/json"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
)

// inputVersion is the value of input.v. It rises when the meaning of a field
// changes, not when one is added.
const inputVersion = 1

// input is the document that a policy reads, as input.schema.json describes it.
// The very same values are enforced, so that nothing can be decided about one
// value and done with another. What is not known is absent and not zero: a rule
// that compares an absent counter is undefined, whereas a false 0 would allow.
type input struct {
	V         int            `json:"v"`
	Request   requestInput   `json:"request"`
	Principal principalInput `json:"principal"`
	Agent     agentInput     `json:"agent"`
	Action    actionInput    `json:"action"`
	Egress    *egressInput   `json:"egress,omitempty"` // kind egress only
	Context   contextInput   `json:"context"`
}

type requestInput struct {
	ID      string `json:"id"`
	TimeNS  int64  `json:"time_ns"` // since 1970, UTC
	TraceID string `json:"trace_id"`
}

type principalInput struct {
	Subject string   `json:"subject"`
	Tenant  string   `json:"tenant"`
	Roles   []string `json:"roles"`
	Method  string   `json:"method"`
}

// agentInput is what the caller claims. It proves nothing.
type agentInput struct {
	Name    string `json:"name"`
	Session string `json:"session"`
	Purpose string `json:"purpose"`
}

type actionInput struct {
	Kind          string                  `json:"kind"`
	Tool          string                  `json:"tool,omitempty"`        // kind tool_call only
	Args          json.RawMessage         `json:"args,omitempty"`        // kind tool_call only
	ArgsSHA256    string                  `json:"args_sha256,omitempty"` // kind tool_call only
	Language      string                  `json:"language"`
	Code          codeInput               `json:"code"`
	Image         execution.Image         `json:"image"`
	Runtime       string                  `json:"runtime"` // empty: not asked
	RequestSHA256 string                  `json:"request_sha256"`
	EnvNames      []string                `json:"env_names"` // sorted
	Files         []fileInput             `json:"files"`
	Limits        execution.Limits        `json:"limits"` // those that were asked for
	Network       []execution.Destination `json:"network"`
	Tools         []string                `json:"tools"`

	args ast.Value // of Args, where there are any
}

type codeInput struct {
	SHA256 string  `json:"sha256"` // hex; empty where there is no code
	Bytes  int64   `json:"bytes"`
	Text   *string `json:"text,omitempty"` // only where Config.InputCode is set
}

type fileInput struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

type contextInput struct {
	Counters    countersInput  `json:"counters"`
	Approval    *approvalInput `json:"approval,omitempty"` // nil: it has none
	Environment string         `json:"environment"`
}

// approvalInput is the approval that a request resumes with. The gateway has checked
// that it was given to this very request.
type approvalInput struct {
	ID            string `json:"id"`
	By            string `json:"by"` // subject
	At            string `json:"at"` // RFC 3339, UTC
	Comment       string `json:"comment"`
	RequestSHA256 string `json:"request_sha256"`
}

func approvalOfQuestion(given *execution.ApprovalGiven) *approvalInput {
	if given == nil {
		return nil
	}
	return &approvalInput{
		ID: given.ID, By: given.By, At: given.At.UTC().Format(time.RFC3339Nano), Comment: given.Comment,
		RequestSHA256: given.RequestSHA256,
	}
}

// countersInput are the tenant's, and within them those of the principal alone.
type countersInput struct {
	execution.Counters
	Principal execution.Counters `json:"principal"`
}

// wantsSession reports whether the question is about a session: to open one, or
// to run something in one.
func (in *input) wantsSession() bool {
	return in.Agent.Session != "" || in.Action.Kind == string(execution.ActionSession)
}

// runsNothing reports whether the question is about a call of a tool that has no image:
// a request that the gateway makes, or a tool that there is not.
func (in *input) runsNothing() bool {
	return in.Action.Kind == string(execution.ActionToolCall) && in.Action.Image == (execution.Image{})
}

// newInput makes the document of a question, in the one form of every value in
// which it is compared: hosts normalised, paths clean, names sorted. What has no
// such form is refused.
func newInput(q execution.Question, config Config) (*input, *execution.Reason) {
	if q.Action == execution.ActionEgress {
		return newEgressInput(q, config)
	}
	network, refusal := normaliseDestinations(q.Request.Network)
	if refusal != nil {
		return nil, refusal
	}
	r := q.Request
	in := &input{
		V:         inputVersion,
		Request:   requestInput{ID: q.ID, TimeNS: q.Time.UnixNano(), TraceID: q.TraceID},
		Principal: newPrincipalInput(q.Principal),
		Agent:     newAgentInput(r),
		Action: actionInput{
			Kind: string(q.Action), Language: r.Language, Image: q.Image, Runtime: r.Runtime,
			RequestSHA256: q.RequestSHA256,
			EnvNames:      slices.AppendSeq(make([]string, 0, len(r.Env)), maps.Keys(r.Env)),
			Files:         make([]fileInput, len(r.Files)),
			Limits:        r.Limits, Network: network, Tools: r.Tools,
		},
		Context: contextInput{
			Counters:    countersInput{q.Counters, q.PrincipalCounters},
			Environment: config.Environment,
			Approval:    approvalOfQuestion(q.Approval),
		},
	}
	slices.Sort(in.Action.EnvNames)
	for i, file := range r.Files {
		in.Action.Files[i] = fileInput{Path: path.Clean(file.Path), Bytes: int64(len(file.Content))}
	}
	if in.Action.Tools == nil {
		in.Action.Tools = []string{}
	}
	if r.Code != "" {
		in.Action.Code = codeInput{
			SHA256: execution.HexSHA256([]byte(r.Code)), Bytes: int64(len(r.Code)),
		}
	}
	if config.InputCode {
		in.Action.Code.Text = &r.Code
	}
	if q.Action == execution.ActionToolCall {
		in.Action.Tool, in.Action.Args, in.Action.ArgsSHA256 = q.Tool.Name, q.Tool.Args, q.Tool.ArgsSHA256
		if err := in.Action.readArgs(); err != nil {
			return nil, &execution.Reason{
				Code: codeArgsUnreadable, Rule: ruleTools, Message: "No policy can read the arguments: " + err.Error() + ".",
				Remediation: "Send numbers that a 64-bit float can hold, and less nesting.",
			}
		}
	}
	return in, nil
}

func newPrincipalInput(p execution.Principal) principalInput {
	in := principalInput{Subject: p.Subject, Tenant: p.Tenant, Roles: make([]string, len(p.Roles)), Method: string(p.Method)}
	for i, role := range p.Roles {
		in.Roles[i] = string(role)
	}
	return in
}

func newAgentInput(r execution.Request) agentInput {
	return agentInput{Name: r.Metadata["agent"], Session: r.Session, Purpose: r.Metadata["purpose"]}
}

// codeArgsUnreadable is of arguments that the evaluator does not take.
const codeArgsUnreadable = "arguments_unreadable"

// readArgs makes the evaluator's value of Args.
func (a *actionInput) readArgs() error {
	if len(a.Args) == 0 {
		return nil
	}
	plain, err := strictJSON(a.Args)
	if err == nil {
		a.args, err = ast.InterfaceToValue(plain)
	}
	return err
}
