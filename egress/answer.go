package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/scrub"
)

// carry sends the request and passes the answer on. It returns a code where that did
// not come to a good end.
func (x *exchange) carry(t *http.Transport) string {
	res, err := t.RoundTrip(x.out) // one round trip: redirects are the program's affair
	if err != nil {
		return x.failure(err, failureCode(err))
	}
	defer res.Body.Close()
	if !isFinal(res.StatusCode) {
		return codeUpstream
	}
	x.status = res.StatusCode
	x.keeps = (x.bound.tool == "" || x.bound.lasting) && !sticks(x.out.Header, res.Header)
	known := x.account.known()
	if x.withheld(res) {
		return codeUnscrubbable
	}
	if head := size(res.Header, res.Status); x.account.take(head) < head {
		return codeBytesSpent
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return x.socket(res, known)
	}
	x.begun = true
	x.writeHead(res, known)
	if code := x.copyBody(res, known); code != "" {
		return code
	}
	for name, values := range res.Trailer {
		for _, value := range values {
			if value, ok := x.scrubbed(known, name, value); ok {
				x.w.Header().Add(http.TrailerPrefix+name, value)
			}
		}
	}
	return ""
}

// isFinal reports whether a status can be that of an answer (RFC 9110, 15). net/http reads
// any number, and panics where it is to write one that has not three digits.
func isFinal(status int) bool {
	return status == http.StatusSwitchingProtocols || status >= 200 && status <= 999
}

// failure says how an exchange ended that failed; code is what it looked like.
func (x *exchange) failure(err error, code string) string {
	switch {
	case errors.Is(context.Cause(x.ctx), errIdle):
		return codeIdle
	case errors.Is(err, errOutput):
		return codeOutputLimit
	case x.ended() != nil:
		return codeCancelled
	case errors.Is(err, errBytesSpent) || x.body.spent.Load():
		return codeBytesSpent
	case x.body.broken.Load() || x.guard != nil && x.guard.broken.Load():
		return codeBodyInvalid
	case x.r.Context().Err() != nil:
		return codeDisconnected
	}
	return code
}

// withheld reports whether the program must not see an answer: one that cannot be
// searched, where the binding says that it has to be.
func (x *exchange) withheld(res *http.Response) bool {
	if !x.bound.strict {
		return false
	}
	encodings := res.Header.Values("Content-Encoding")
	return res.StatusCode == http.StatusPartialContent || res.StatusCode == http.StatusSwitchingProtocols ||
		slices.ContainsFunc(encodings, func(v string) bool { return v != "" && !strings.EqualFold(strings.TrimSpace(v), "identity") }) ||
		len(res.TransferEncoding) > 0 && !slices.Equal(res.TransferEncoding, []string{"chunked"})
}

// writeHead passes the head of an answer on.
func (x *exchange) writeHead(res *http.Response, known *scrub.Set) {
	h := x.w.Header()
	length := res.Header.Get("Content-Length")
	removeHops(res.Header)
	res.Header.Del("Alt-Svc") // it would lead to where nothing is carried
	for name, values := range res.Header {
		for _, value := range values {
			if value, ok := x.scrubbed(known, name, value); ok {
				h.Add(name, value)
			}
		}
	}
	if h.Values("Content-Type") == nil {
		h["Content-Type"] = nil // net/http would guess one
	}
	// With something to search for, the length is known at the end only.
	if length != "" && (known == nil || x.q.method == http.MethodHead || res.StatusCode == http.StatusNotModified) {
		h.Set("Content-Length", length)
	}
	x.w.WriteHeader(res.StatusCode)
}

// scrubbed returns a header's value without secrets; ok is false where its name has one.
func (x *exchange) scrubbed(known *scrub.Set, name, value string) (clean string, ok bool) {
	if known == nil {
		return value, true
	}
	return known.Text(value), known.Text(name) == name && !x.account.spells(name)
}

// copyBody passes the body of an answer on, without secrets, and without holding more
// of it than what may become one.
func (x *exchange) copyBody(res *http.Response, known *scrub.Set) string {
	live := res.ContentLength < 0 || strings.HasPrefix(strings.ToLower(res.Header.Get("Content-Type")), "text/event-stream")
	out := newOutlet(x, known, live)
	defer out.close()
	if live { // its first byte may be long in coming
		_ = out.control.Flush() // where it fails, so does the first write
	}
	buffer := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buffer)
	for {
		n, err := res.Body.Read(buffer[:])
		x.watch.touch()
		if n > 0 {
			if code := out.write(buffer[:n]); code != "" {
				return code
			}
		}
		if errors.Is(err, io.EOF) {
			return out.end()
		}
		if err != nil {
			return x.failure(err, codeBroken)
		}
	}
}

// sent is the body of a request on its way out.
type sent struct {
	from io.Reader
	x    *exchange
	n    atomic.Int64

	// Why it has ended early: net/http then gives the request up, and says only that.
	spent, broken atomic.Bool
}

var errBytesSpent = errors.New("the budget of bytes is spent")

// Read implements io.Reader.
func (s *sent) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	s.x.watch.touch()
	if granted := s.count(int64(n)); granted < int64(n) {
		s.spent.Store(true)
		return int(granted), errBytesSpent
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.broken.Store(true)
	}
	return n, err
}

// count takes n bytes out of the budget, and returns how many there were.
func (s *sent) count(n int64) int64 {
	granted := s.x.account.take(n)
	s.n.Add(granted)
	s.x.broker.counts.bytesOut.Add(granted)
	return granted
}

// again returns what makes the body anew, of a content that is in memory. What was sent
// before, over a connection that was over, is not counted twice.
func (s *sent) again(content []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		return io.NopCloser(&repeated{from: bytes.NewReader(content), sent: s}), nil
	}
}

// repeated is a body that may have been sent before.
type repeated struct {
	from *bytes.Reader
	at   int64
	sent *sent
}

// Read implements io.Reader.
func (r *repeated) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.sent.x.watch.touch()
	if more := r.at + int64(n) - r.sent.n.Load(); more > 0 && r.sent.count(more) < more {
		r.sent.spent.Store(true)
		return 0, errBytesSpent
	}
	r.at += int64(n)
	return n, err
}

// watch calls an action when nothing has moved for too long, unless it was stopped.
type watch struct {
	idle time.Duration

	mu    sync.Mutex
	timer *time.Timer // nil once it was stopped
}

func newWatch(idle time.Duration, action func()) *watch {
	w := &watch{idle: idle}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(idle, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.timer != nil {
			action()
		}
	})
	return w
}

func (w *watch) touch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Reset(w.idle)
	}
}

// stop returns once the action is not under way, and will not be.
func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.timer = nil
}
