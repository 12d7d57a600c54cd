package gateway

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// heartbeat is how often a stream says that it is still there, so that nothing
// on the way takes it for dead.
const heartbeat = 15 * time.Second

var errStreamClosed = errors.New("the stream is closed")

// eventStream is a response of server-sent events (HTML, section 9.2). Every
// message has the whole WriteTimeout to be taken; the first that is not, fails
// the stream, and nothing is written after it. It is safe for concurrent use:
// whoever sends waits for what is being sent.
type eventStream struct {
	x *exchange

	mu     sync.Mutex
	open   bool   // the header is sent
	err    error  // why nothing more is sent
	newest uint64 // id of the last message that took one
}

// send sends m.
func (s *eventStream) send(m message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendLocked(m)
}

func (s *eventStream) sendLocked(m message) error {
	var out bytes.Buffer
	out.Grow(len(m.data) + 64)
	if m.id > 0 {
		out.WriteString("id: " + strconv.FormatUint(m.id, 10) + "\n")
		s.newest = m.id
	}
	out.WriteString("event: " + m.kind + "\ndata: ")
	out.Write(m.data) // JSON has no line breaks
	out.WriteString("\n\n")
	return s.put(out.Bytes())
}

// comment sends text where a client skips it; an empty one is the heartbeat. It
// opens the stream.
func (s *eventStream) comment(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put([]byte(":" + text + "\n\n"))
}

// put writes, opening the stream where it is not yet. The caller holds mu.
func (s *eventStream) put(p []byte) error {
	if s.err != nil {
		return s.err
	}
	w := s.x.gin.Writer
	if !s.open {
		s.open = true
		h := w.Header()
		h.Set("Content-Type", mediaEvents)
		h.Set("X-Accel-Buffering", "no") // of nginx, which would hold events back
		w.WriteHeader(http.StatusOK)
	}
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(s.x.writeTimeout)) // fails as in write
	if _, s.err = w.Write(p); s.err == nil {
		s.err = control.Flush()
	}
	return s.err
}

// close ends the stream: what is sent later fails. It waits for what is being
// sent, after which the response may be given back.
func (s *eventStream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = errStreamClosed
	}
}

// beat sends heartbeats on a stream that is open, until done closes.
func (s *eventStream) beat(done <-chan struct{}) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			s.mu.Lock()
			if s.open {
				s.put([]byte(":\n\n")) // a failure shows at the next message, and ends the request
			}
			s.mu.Unlock()
		}
	}
}
