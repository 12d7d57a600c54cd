package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"time"

	"github.com/execgate/execgate/execution"
)

// Call makes the request of job.Call, in the place of a program: by the rules, the
// bindings and the budget of its grant, decided, recorded and scrubbed like one that a
// program makes. It returns when that is over, at the latest after the grant's
// timeout_ms; of the answer's body no more than its output_kib is kept. What is refused, or
// comes to nothing, is a Result too: its Stdout is the problem. End has to be called
// afterwards.
func (b *Broker) Call(ctx context.Context, job execution.Job) execution.Result {
	began := time.Now()
	limits := job.Grant.Limits
	within, cancel := context.WithTimeout(ctx, time.Duration(limits.TimeoutMS)*time.Millisecond)
	defer cancel()
	a := b.account(ctx, &job)
	if a == nil {
		return execution.Result{Outcome: execution.OutcomeCancelled}
	}
	b.counts.active.Add(1)
	defer b.counts.active.Add(-1)

	if job.Started != nil {
		job.Started(execution.StartCall)
	}
	d, code := b.openTo(&job)
	i := &intercepted{
		broker: b, ended: within.Err, job: &job, account: a, to: d, tls: true, code: code,
		requests: &upstream{broker: b, host: d.host},
	}
	defer i.requests.close()
	kept := &collected{most: int(min(limits.OutputKiB<<10, math.MaxInt32))}
	v := i.handle(kept, requestOf(within, job.Call, d))
	result := execution.Result{
		Outcome: execution.OutcomeExited, Status: kept.status, Stdout: kept.body.Bytes(),
		Usage: execution.Usage{WallMS: time.Since(began).Milliseconds(), OutputBytes: int64(kept.body.Len()), LimitsHit: []string{}},
	}
	switch {
	case v.code == "":
	case ctx.Err() != nil:
		result.Outcome = execution.OutcomeCancelled
	case within.Err() != nil:
		result.Outcome, result.Usage.LimitsHit = execution.OutcomeTimedOut, []string{"timeout_ms"}
	case v.code == codeOutputLimit:
		result.Outcome, result.Truncated.Stdout, result.Usage.LimitsHit = execution.OutcomeOutputLimit, true, []string{"output_kib"}
	default:
		told := &collected{most: math.MaxInt32}
		writeProblem(told, v.to, v.q, v.code)
		result.Status, result.Stdout = 0, told.body.Bytes()
	}
	return result
}

// openTo is where a job's request goes. code says why nothing opens that.
func (b *Broker) openTo(job *execution.Job) (destination, string) {
	host, rule, code := decide(job.Grant.Network, job.Call.To)
	switch {
	case host == "":
		host = printable(job.Call.To.Host)
	case code == "" && (rule.Mode != execution.NetworkIntercept || host == execution.ToolsHost):
		code = codeUnsupported
	}
	return destination{host, job.Call.To.Port, rule}, code
}

// requestOf is the request of call as a program would have made it.
func requestOf(ctx context.Context, call *execution.HTTPCall, d destination) *http.Request {
	r := (&http.Request{
		Method: call.Method, RequestURI: call.Target, Host: d.authority(true), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Accept": {"application/json, */*;q=0.1"}, "User-Agent": {"execgate"}}, Body: http.NoBody,
	}).WithContext(ctx)
	if call.Body != nil {
		r.Header.Set("Content-Type", "application/json")
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(call.Body)), int64(len(call.Body))
	}
	return r
}

// collected is an answer in memory, as far as it is kept.
type collected struct {
	header http.Header
	status int
	body   bytes.Buffer
	most   int // bytes of the body
}

var errOutput = errors.New("no more of the answer is kept")

// Header implements http.ResponseWriter.
func (c *collected) Header() http.Header {
	if c.header == nil {
		c.header = http.Header{}
	}
	return c.header
}

// WriteHeader implements http.ResponseWriter.
func (c *collected) WriteHeader(status int) { c.status = status }

// Write implements http.ResponseWriter.
func (c *collected) Write(p []byte) (int, error) {
	n := min(len(p), c.most-c.body.Len())
	c.body.Write(p[:n])
	if n < len(p) {
		return n, errOutput
	}
	return n, nil
}

// Flush implements http.Flusher: an answer that comes slowly is kept as it comes.
func (*collected) Flush() {}
