package egress

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/execgate/execgate/scrub"
)

// A live answer is shown as it comes. Up to maxShown bytes with which a secret may
// begin are held back until nothing has come for showAfter: the end of an event is
// often one of them. More of a secret is not shown before it is known to be none.
const (
	maxShown  = 4
	showAfter = 20 * time.Millisecond
)

// shown counts what was shown of what may still become a secret.
type shown int

// may reports whether what is held back may be shown, after the last n bytes, and
// counts it. Where less than these are held back, nothing that was shown before is the
// beginning of a secret any more.
func (s *shown) may(held, n int) bool {
	if held < n {
		*s = 0
	}
	if held == 0 || int(*s)+held > maxShown {
		return false
	}
	*s += shown(held)
	return true
}

// outlet writes the body of an answer to the program.
type outlet struct {
	x       *exchange
	control *http.ResponseController
	live    bool

	mu    sync.Mutex // the timer's and the writer's
	known *scrub.Set
	to    *scrub.Writer // nil where nothing is searched for
	timer *time.Timer
	shown shown
	err   error
}

func newOutlet(x *exchange, known *scrub.Set, live bool) *outlet {
	o := &outlet{x: x, control: http.NewResponseController(x.w), live: live}
	o.use(known)
	return o
}

// use has what is written from now on searched for known.
func (o *outlet) use(known *scrub.Set) {
	switch {
	case known == o.known:
	case o.to == nil:
		o.to = scrub.NewWriter(o, known)
	default:
		o.err = o.to.Use(known)
	}
	o.known = known
}

// write passes p on. A code says why no more is to come.
func (o *outlet) write(p []byte) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	granted := o.x.account.take(int64(len(p)))
	spent := granted < int64(len(p))
	p = p[:granted]
	o.x.in += granted
	o.x.broker.counts.bytesIn.Add(granted)
	o.use(o.x.account.known()) // another request may have been lent something meanwhile
	switch {
	case o.err != nil:
	case o.to == nil:
		_, o.err = o.Write(p)
	default:
		_, o.err = o.to.Write(p)
	}
	if o.err == nil && o.live {
		o.err = o.control.Flush()
		o.showLater(len(p))
	}
	switch {
	case o.err != nil:
		return o.x.failure(o.err, codeDisconnected)
	case spent:
		return codeBytesSpent
	}
	return ""
}

// Write implements io.Writer for what was searched.
func (o *outlet) Write(p []byte) (int, error) {
	n, err := o.x.w.Write(p)
	o.x.watch.touch()
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// showLater shows what little is held back, if nothing more comes after the last n
// bytes.
func (o *outlet) showLater(n int) {
	if o.to == nil {
		return
	}
	if o.to.Held() < n {
		o.shown = 0
	}
	switch {
	case o.to.Held() == 0 || int(o.shown)+o.to.Held() > maxShown:
	case o.timer == nil:
		o.timer = time.AfterFunc(showAfter, o.show)
	default:
		o.timer.Reset(showAfter)
	}
}

func (o *outlet) show() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer == nil || o.err != nil || !o.shown.may(o.to.Held(), 0) {
		return
	}
	if o.err = o.to.Flush(); o.err == nil {
		o.err = o.control.Flush()
	}
}

// end writes what is held back, after the last byte.
func (o *outlet) end() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to != nil && o.err == nil {
		o.err = o.to.Close()
	}
	if o.err != nil {
		return o.x.failure(o.err, codeDisconnected)
	}
	return ""
}

// close keeps the timer from writing any more.
func (o *outlet) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
	}
}
