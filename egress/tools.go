package egress

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// Tools are the gateway's tools, for the programs that call them. An answer is an HTTP
// status and a JSON document, which from 400 on is a problem.
type Tools interface {
	// CallToolFrom calls a tool for the principal of job, whose program has sent these
	// arguments. It never waits for room. The call ends with ctx, and has then returned
	// once its end is recorded.
	CallToolFrom(ctx context.Context, job execution.Job, name string, arguments []byte) (status int, document []byte)
	// ListToolsFrom lists the tools that the principal of job may call now.
	ListToolsFrom(ctx context.Context, job execution.Job) (status int, document []byte)
}

// maxToolArguments bounds what a program sends to a tool, in bytes.
const maxToolArguments = 256 << 10

// closed says why programs of job cannot call tools by d, which a rule opens; empty where
// they can. A tool calls no tools: that would have no end.
func (b *Broker) closed(job *execution.Job, d destination) string {
	switch {
	case b.tools == nil || d.rule.Mode != execution.NetworkIntercept || d.port != b.plainPort:
		return codeUnsupported
	case job.Tool != "":
		return codeToolNested
	}
	return ""
}

// serveTools answers a request for the gateway's own tools, which may be made. It is
// recorded as one that leaves; what comes of the call is decided and recorded for itself.
func (i *intercepted) serveTools(w http.ResponseWriter, r *http.Request, d destination, q question) verdict {
	name, code := toolOf(q)
	var arguments []byte
	if code == "" {
		arguments, code = i.readArguments(w, r)
	}
	if code != "" {
		return i.refuse(r, d, q, code)
	}
	b, ctx := i.broker, r.Context()
	seq, err := b.records.allowed(ctx, i.job, d, q, "", netip.AddrPort{})
	if err != nil {
		b.counts.request(RequestOutcome{Outcome: Outcome{execution.EffectDeny, codeUnrecorded}})
		return verdict{to: d, q: q, code: codeUnrecorded}
	}
	began := time.Now()
	end := execution.EgressEnded{DecidedSeq: seq, BytesOut: int64(len(arguments))}
	var document []byte
	if name == "" {
		end.Status, document = b.tools.ListToolsFrom(ctx, *i.job)
	} else {
		end.Status, document = b.tools.CallToolFrom(ctx, *i.job, name, arguments)
	}
	if known := i.account.known(); known != nil {
		document = known.Bytes(document)
	}
	switch granted := i.account.take(int64(len(document))); {
	case i.ended() != nil:
		end.Error = codeCancelled
	case ctx.Err() != nil:
		end.Error = codeDisconnected
	case granted < int64(len(document)):
		end.Error = codeBytesSpent
	default:
		end.BytesIn = granted
	}
	took := time.Since(began)
	end.WallMS = took.Milliseconds()
	b.records.ended(ctx, i.job, end)
	b.counts.carried(end.Error, end.Status, end.BytesOut, end.BytesIn, took)
	if end.Error == "" {
		writeDocument(w, end.Status, document)
	}
	return verdict{to: d, q: q, code: end.Error}
}

// toolOf is the tool that a request calls; empty where it asks which there are.
func toolOf(q question) (name, code string) {
	name = strings.TrimPrefix(q.path, "/")
	switch {
	case name == "" && q.method == http.MethodGet && q.query == "":
		return "", ""
	case name != "" && q.method == http.MethodPost && q.query == "" && !strings.Contains(name, "/"):
		return name, ""
	}
	return "", codeToolRequest
}

// readArguments reads the body of a request, within the budget and a time.
func (i *intercepted) readArguments(w http.ResponseWriter, r *http.Request) ([]byte, string) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(headTimeout)) // where it fails, so does reading
	body, err := io.ReadAll(io.LimitReader(r.Body, maxToolArguments+1))
	_ = control.SetReadDeadline(time.Time{})
	switch {
	case err != nil:
		return nil, codeBodyInvalid
	case len(body) > maxToolArguments:
		return nil, codeToolArguments
	case i.account.take(int64(len(body))) < int64(len(body)):
		return nil, codeBytesSpent
	}
	return body, ""
}

// writeDocument writes the answer of a tool.
func writeDocument(w http.ResponseWriter, status int, document []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if status >= http.StatusBadRequest {
		h.Set("Content-Type", "application/problem+json")
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(document)))
	w.WriteHeader(status)
	_, _ = w.Write(document) // who has gone hears nothing
}
