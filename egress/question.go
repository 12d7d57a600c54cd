package egress

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
)

// Decider is policy, where it wants to be asked for each request.
type Decider interface {
	// DecideEgress is asked after the grant has allowed the request, and must
	// allow it too.
	DecideEgress(ctx context.Context, job execution.Job, r execution.EgressRequest) execution.Decision
}

// question is what is decided of a request, and forwarded.
type question struct {
	method, path string
	query        string
	bare         bool
	socket       bool // to become a WebSocket
	tls          bool
	reason       execution.Reason // of policy's denial
}

// authority is the host of a request as it is forwarded.
func (d destination) authority(tls bool) string {
	if d.port == defaultPort(tls) {
		return d.host
	}
	return d.host + ":" + strconv.Itoa(d.port)
}

func defaultPort(tls bool) int {
	if tls {
		return 443
	}
	return 80
}

// overrides are headers by which frameworks take another method than the one that
// was decided.
var overrides = []string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"}

// targets are headers by which frameworks, and the proxies before them, take another path
// or another host than the one that was decided.
var targets = []string{
	"X-Original-Url", "X-Rewrite-Url", "X-Original-Uri", "X-Original-Host",
	"X-Forwarded-Host", "X-Forwarded-Server", "X-Http-Host-Override", "X-Host", "Forwarded",
}

// ask reads what a request asks for. Where it has more than one reading, or is for
// another host than the connection, code says so; q is then what is known.
func ask(r *http.Request, d destination, tls, slashes bool) (q question, code string) {
	q = question{method: r.Method, tls: tls}
	if t, code := readTarget(r.RequestURI, slashes); code == "" {
		q.path, q.query, q.bare = t.path, t.query, t.bare
	} else if q.method != http.MethodConnect {
		return q, hostFirst(r, d, tls, code)
	}
	switch {
	case q.method == http.MethodTrace || q.method == "TRACK" || q.method == http.MethodConnect || strings.Trim(q.method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "":
		return q, codeMethodRefused
	case !agrees(r, d, tls):
		return q, codeHostMismatch
	case slices.ContainsFunc(overrides, func(name string) bool { return hasForm(r.Header, name) }):
		return q, codeMethodOverride
	case slices.ContainsFunc(targets, func(name string) bool { return hasForm(r.Header, name) }):
		return q, codeTargetOverride
	}
	// In HTTP/2 net/http takes a length that is none for that of no body.
	if _, code := frame(r.Header.Values("Content-Length"), nil, '1'); code != "" {
		return q, code
	}
	upgrade := r.Header.Values("Upgrade")
	switch {
	case len(upgrade) == 0 && !named(r.Header, "Upgrade") && !hasForm(r.Header, "Http2-Settings"):
		return q, ""
	case len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket") && named(r.Header, "Upgrade") &&
		q.method == http.MethodGet && r.ProtoAtLeast(1, 1) && r.ProtoMajor == 1 && r.ContentLength == 0 && !hasForm(r.Header, "Http2-Settings"):
		q.socket = true
		return q, ""
	}
	return q, codeUpgradeRefused
}

// hostFirst prefers the disagreement about the host to that about the path.
func hostFirst(r *http.Request, d destination, tls bool, code string) string {
	if !agrees(r, d, tls) {
		return codeHostMismatch
	}
	return code
}

// agrees reports whether a request is for the host and port of its connection. In
// HTTP/2 there may be a Host beside :authority.
func agrees(r *http.Request, d destination, tls bool) bool {
	for _, authority := range append([]string{r.Host}, r.Header.Values("Host")...) {
		host, port, found := strings.Cut(authority, ":")
		if !found {
			port = strconv.Itoa(defaultPort(tls))
		}
		if name, err := normaliseHost(host); err != nil || name != d.host || port != strconv.Itoa(d.port) {
			return false
		}
	}
	return true
}

// open finds the rule that opens q. Of all rules for its host those that name it come
// before those for all names below another, which then do not count.
func open(n execution.Network, d destination, q question) (execution.NetworkRule, string) {
	code := codeMethodNotOpen
	for _, r := range n.Rules {
		if r.Mode != execution.NetworkIntercept || (r.Host == d.host) != (d.rule.Host == d.host) || !r.Opens(execution.Destination{Host: d.host, Port: d.port}) {
			continue
		}
		switch {
		case len(r.Methods) > 0 && !slices.Contains(r.Methods, q.method):
		case !matchPath(r.Paths, q.path):
			if code == codeMethodNotOpen {
				code = codePathNotOpen
			}
		case q.socket && !r.WebSocket:
			code = codeSocketNotOpen
		default:
			return r, ""
		}
	}
	return d.rule, code
}

// looksAtPaths reports whether anything is decided by the path of requests to d.
func (b *Broker) looksAtPaths(job *execution.Job, d destination) bool {
	return asksPolicy(job.Grant.Network) ||
		slices.ContainsFunc(job.Grant.Network.Rules, func(r execution.NetworkRule) bool {
			return len(r.Paths) > 0 && r.Opens(execution.Destination{Host: d.host, Port: d.port})
		}) ||
		slices.ContainsFunc(job.Grant.Credentials, func(c execution.Credential) bool {
			return slices.ContainsFunc(c.Bind, func(bind execution.Binding) bool { return bind.Host == d.host && len(bind.Paths) > 0 })
		})
}

// asksPolicy reports whether a grant says more than that it decides itself.
func asksPolicy(n execution.Network) bool { return n.Decide != "" && n.Decide != execution.DecideGrant }

// consult asks policy, where it wants to be, and returns the reason of a denial; its
// code is never empty then.
func (b *Broker) consult(ctx context.Context, job *execution.Job, d destination, q question, length int64) execution.Reason {
	if b.decider == nil {
		if asksPolicy(job.Grant.Network) {
			return execution.Reason{Code: codeDecisionDenied} // there is nobody who could be asked
		}
		return execution.Reason{}
	}
	decision := b.decider.DecideEgress(ctx, *job, execution.EgressRequest{Host: d.host, Port: d.port, Method: q.method, Path: q.path, Bytes: length})
	switch {
	case decision.Allowed():
		return execution.Reason{}
	case len(decision.Reasons) > 0 && decision.Reasons[0].Code != "":
		return decision.Reasons[0]
	}
	return execution.Reason{Code: codeDecisionDenied}
}
