package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A direction that is quiet waits with a small buffer of its own. One whose small
// buffer was filled borrows a large one, and gives it back once nothing has come
// for a while, so that connections which only wait cost little.
const (
	smallBuffer = 512
	largeBuffer = 64 << 10
	holdLarge   = 250 * time.Millisecond
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// relay carries bytes between a program and its destination.
type relay struct {
	conn, upstream net.Conn // the program's, the destination's
	idle           time.Duration
	account        *account
	counts         *counts
	began          time.Time

	out, in atomic.Int64 // bytes written to upstream, to conn
	active  atomic.Int64 // when a byte last moved, since began

	// over is set before both connections get a deadline in the past, and looked
	// at after one gets another, so that no wait outlasts stop.
	over atomic.Bool
	mu   sync.Mutex
	code string // why it is over
}

// half is one direction of a relay.
type half struct {
	src, dst    net.Conn
	moved       *atomic.Int64 // of the relay
	total       *atomic.Int64 // of the broker
	ended, back *atomic.Bool  // whether src, and whether dst has sent its last byte
}

// run carries until both sides have ended, one has failed, the budget is spent,
// nothing moves, or ctx ends. Both connections are then closed. It returns the
// code of the end, which is empty for the sides' own.
func (r *relay) run(ctx context.Context) string {
	r.active.Store(int64(time.Since(r.began)))
	cancelled := context.AfterFunc(ctx, func() { r.stop(codeCancelled) })
	defer cancelled()
	var programEnded, destinationEnded atomic.Bool
	var out sync.WaitGroup
	out.Go(func() {
		r.carry(half{r.conn, r.upstream, &r.out, &r.counts.bytesOut, &programEnded, &destinationEnded})
	})
	r.carry(half{r.upstream, r.conn, &r.in, &r.counts.bytesIn, &destinationEnded, &programEnded})
	out.Wait()
	r.stop("")
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.code
}

// stop ends both directions. The first code counts.
func (r *relay) stop(code string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over.Load() {
		return
	}
	r.code = code
	r.over.Store(true)
	for _, c := range []net.Conn{r.conn, r.upstream} {
		_ = c.SetDeadline(time.Unix(1, 0)) // closing a stream need not wake who reads it
		_ = c.Close()                      // whatever it says, nobody uses it any more
	}
}

// carry moves bytes from h.src to h.dst until the first has none left, and says so
// to the second.
func (r *relay) carry(h half) {
	small := make([]byte, smallBuffer)
	var large *[largeBuffer]byte
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	for !r.over.Load() {
		buffer, wait := small, r.idle-r.quiet()
		if large != nil {
			buffer, wait = large[:], min(wait, holdLarge)
		}
		_ = h.src.SetReadDeadline(time.Now().Add(wait)) // where it fails, so does Read
		if r.over.Load() {
			return
		}
		n, err := h.src.Read(buffer)
		if n > 0 && !r.write(h, buffer[:n]) {
			return
		}
		switch {
		case err == nil:
			if large == nil && n == len(buffer) {
				large = largeBuffers.Get().(*[largeBuffer]byte)
			}
		case errors.Is(err, io.EOF):
			r.finish(h)
			return
		case !isTimeout(err):
			r.stop(codeBroken)
		case r.quiet() >= r.idle:
			r.stop(codeIdle)
		case large != nil:
			largeBuffers.Put(large)
			large = nil
		}
	}
}

// write writes p to h.dst, as far as the budget goes. It reports whether the
// relay goes on.
func (r *relay) write(h half, p []byte) bool {
	r.touch()
	granted := r.account.take(int64(len(p)))
	spent := granted < int64(len(p))
	for p = p[:granted]; len(p) > 0; {
		_ = h.dst.SetWriteDeadline(time.Now().Add(r.idle))
		if r.over.Load() {
			return false
		}
		n, err := h.dst.Write(p)
		if n > 0 {
			r.touch()
			h.moved.Add(int64(n))
			h.total.Add(int64(n))
			p = p[n:]
		}
		switch {
		case err == nil:
		case !isTimeout(err) && h.back.Load():
			r.stop("") // it had ended, and now takes no more either
			return false
		case !isTimeout(err):
			r.stop(codeBroken)
			return false
		case r.quiet() >= r.idle:
			r.stop(codeIdle)
			return false
		}
	}
	if spent {
		r.stop(codeBytesSpent)
	}
	return !spent
}

// finish tells h.dst that nothing more comes. What cannot be told that is closed.
func (r *relay) finish(h half) {
	h.ended.Store(true)
	if c, ok := h.dst.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		return
	}
	r.stop("")
}

func (r *relay) touch() { r.active.Store(int64(time.Since(r.began))) }

// quiet is for how long no byte has moved.
func (r *relay) quiet() time.Duration { return time.Since(r.began) - time.Duration(r.active.Load()) }

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
