package egress

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/execgate/execgate/execution"
)

// verdict is what became of one request.
type verdict struct {
	to   destination
	q    question
	code string // why it was refused, or how it ended; empty: with the end of its answer
	// begun: some of the answer was written. Where not, and there is a code, what is to
	// be told is not written yet.
	begun bool
}

// ServeHTTP answers one request.
func (i *intercepted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !i.begin() {
		return
	}
	defer i.under.Done()
	switch v := i.handle(w, r); {
	case v.code == "":
	case v.begun:
		panic(http.ErrAbortHandler) // the answer is not whole, and must not look so
	default:
		writeProblem(w, v.to, v.q, v.code)
	}
}

// handle decides one request, and carries it if it may leave.
func (i *intercepted) handle(w http.ResponseWriter, r *http.Request) verdict {
	d, q, code := i.decide(r)
	if code == "" {
		if code = i.account.begin(time.Now()); code == "" {
			defer i.account.release()
		}
	}
	switch {
	case code != "":
		return i.refuse(r, d, q, code)
	case d.host == execution.ToolsHost:
		return i.serveTools(w, r, d, q)
	}
	return i.forward(w, r, d, q)
}

// decide says whether a request may leave, as far as that needs no lookup.
func (i *intercepted) decide(r *http.Request) (destination, question, string) {
	d := i.to
	if refused := r.Header.Get(refusedHeader); refused != "" && r.ProtoMajor == 1 {
		return d, question{}, i.or(refused) // the guard's; it lets no other pass
	}
	q, code := ask(r, d, i.tls, i.slashes)
	if i.code != "" || code != "" {
		return d, q, i.or(code)
	}
	if d.rule, code = open(i.job.Grant.Network, d, q); code != "" {
		return d, q, code
	}
	if asksPolicy(i.job.Grant.Network) && !i.account.ask(time.Now()) {
		return d, q, codeRateExceeded
	}
	q.reason = i.broker.consult(r.Context(), i.job, d, q, r.ContentLength)
	return d, q, q.reason.Code
}

func (i *intercepted) refuse(r *http.Request, d destination, q question, code string) verdict {
	i.broker.counts.request(RequestOutcome{Outcome: Outcome{execution.EffectDeny, counted(code)}})
	i.broker.recordRefusal(r.Context(), i.job, i.account, d, q, code)
	return verdict{to: d, q: q, code: code}
}

// forward looks up, records, and sends a request that may leave.
func (i *intercepted) forward(w http.ResponseWriter, r *http.Request, d destination, q question) verdict {
	to := i.requests
	if q.socket {
		to = i.sockets
	}
	addresses, code := to.candidates(r.Context(), d.rule.Private)
	if code != "" {
		return i.refuse(r, d, q, code)
	}
	c, code := choose(i.job.Grant.Credentials, d, q)
	if code != "" {
		return i.refuse(r, d, q, code)
	}
	if i.job.Call != nil {
		c.strict = true // the caller reads it as text: what cannot be searched is of no use, but as a way to hide a key
	}
	x := newExchange(i, w, r, d, q, c)
	defer x.close()
	if i.job.Call != nil {
		addresses = i.broker.kept.prefer(x.use(netip.AddrPort{}), addresses, uint16(d.port))
	}
	for _, addr := range addresses {
		if x.try(to, netip.AddrPortFrom(addr, uint16(d.port))) {
			break
		}
	}
	if x.code == codeUnrecorded {
		i.broker.counts.request(RequestOutcome{Outcome: Outcome{execution.EffectDeny, x.code}})
	} else {
		i.broker.counts.carried(x.code, x.status, x.body.n.Load(), x.in, time.Since(x.began))
	}
	return verdict{d, q, x.code, x.begun}
}

// exchange is one request that may leave, with its answer.
type exchange struct {
	*intercepted
	w     http.ResponseWriter
	r     *http.Request
	to    destination
	q     question
	bound bound

	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *watch
	out    *http.Request
	body   *sent

	began  time.Time
	status int
	in     int64 // bytes of the answer
	code   string
	begun  bool // the answer has begun

	// Of a call: whose connection it may have, and whether that is kept.
	credential [sha256.Size]byte
	keeps      bool
}

var errIdle = errors.New("nothing has moved for too long")

func newExchange(i *intercepted, w http.ResponseWriter, r *http.Request, d destination, q question, c bound) *exchange {
	x := &exchange{intercepted: i, w: w, r: r, to: d, q: q, bound: c, began: time.Now()}
	x.ctx, x.cancel = context.WithCancelCause(r.Context())
	control := http.NewResponseController(w)
	x.watch = newWatch(i.broker.idleTimeout, func() {
		x.cancel(errIdle)
		_ = control.SetReadDeadline(time.Unix(1, 0)) // wakes who waits for the program's body
	})
	x.body = &sent{from: r.Body, x: x}
	return x
}

func (x *exchange) close() {
	x.watch.stop()
	x.cancel(nil)
}

// try sends the request to one address. It reports whether that was the last try:
// where nothing could be connected to, another address may do.
func (x *exchange) try(to *upstream, address netip.AddrPort) bool {
	b := x.broker
	seq, err := b.records.allowed(x.r.Context(), x.job, x.to, x.q, x.bound.tool, address)
	if err != nil {
		x.code = codeUnrecorded
		return true
	}
	began, before := time.Now(), x.body.n.Load()
	x.code = x.prepare()
	if x.code == "" {
		by, over := x.through(to, address)
		x.code = x.carry(by.to(address))
		over()
	}
	b.records.ended(x.r.Context(), x.job, execution.EgressEnded{
		DecidedSeq: seq, BytesOut: x.body.n.Load() - before, BytesIn: x.in, Status: x.status,
		WallMS: time.Since(began).Milliseconds(), Error: x.code,
	})
	return x.code != codeDialFailed && x.code != codeDialTimeout || x.r.Context().Err() != nil
}

// prepare makes the request that leaves, with what is bound to it. It is made once.
func (x *exchange) prepare() string {
	if x.out != nil {
		return ""
	}
	scheme := "http"
	if x.q.tls {
		scheme = "https"
	}
	plain, err := url.PathUnescape(x.q.path)
	if err != nil {
		return codePathInvalid
	}
	out := (&http.Request{
		Method: x.q.method, Host: x.to.authority(x.q.tls), Header: requestHeader(x.r, x.q.socket),
		URL: &url.URL{
			Scheme: scheme, Host: x.to.authority(x.q.tls), Path: plain, RawPath: x.q.path,
			RawQuery: x.q.query, ForceQuery: x.q.bare,
		},
		Body: http.NoBody, ContentLength: x.r.ContentLength, ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(x.ctx)
	if x.r.ContentLength != 0 && x.r.Body != nil && x.r.Body != http.NoBody {
		out.Body = io.NopCloser(x.body)
		if x.job.Call != nil { // a connection that was kept may turn out to be over
			out.GetBody = x.body.again(x.job.Call.Body)
			out.Body, _ = out.GetBody() // it never fails
		}
	} else {
		out.ContentLength = 0
	}
	if code := x.lend(out); code != "" {
		return code
	}
	if head := size(out.Header, out.Method, out.URL.RequestURI(), out.Host); x.account.take(head) < head {
		return codeBytesSpent
	}
	x.out = out
	return ""
}

// lend sets on out what is bound to it, and makes known what must not come back.
func (x *exchange) lend(out *http.Request) string {
	if x.bound.tool == "" {
		return ""
	}
	if x.bound.strict && x.q.socket {
		return codeUnscrubbable // before anything is fetched or sent
	}
	fields, code := x.broker.fetch(x.ctx, x.job, x.bound)
	if code != "" {
		return code
	}
	if x.job.Call != nil {
		x.credential = x.broker.kept.digest(x.bound.binding, fields)
	}
	if x.bound.strict {
		removeForms(out.Header, "Range") // a part of an answer may have a part of a secret
		removeForms(out.Header, "If-Range")
	}
	values, code := inject(x.ctx, out, x.bound.binding, fields)
	if code != "" {
		return code
	}
	if err := x.account.learn(values); err != nil {
		return codeBadCredential
	}
	if parent := x.broker.parentOf(x.job); parent != nil {
		parent.overhear(values)
	}
	return ""
}
