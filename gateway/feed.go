package gateway

import "sync"

// feedBytes bounds what a feed holds; a message counts its data and 64 bytes.
const (
	feedBytes       = 1 << 20
	messageOverhead = 64
)

// feed keeps the latest messages of one execution for those who follow it. It
// never makes the program wait: what is too much pushes out what came first.
// The last message is kept whatever its size.
type feed struct {
	mu       sync.Mutex
	messages []message // with rising ids, by one
	bytes    int
	sent     uint64 // id of the newest
	over     bool
	more     chan struct{} // closed at the next message; nil where nobody waits
}

// add gives m the next id and keeps it.
func (f *feed) add(m message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	f.sent++
	m.id = f.sent
	f.over = m.last
	f.messages = append(f.messages, m)
	f.bytes += len(m.data) + messageOverhead
	for f.bytes > feedBytes && len(f.messages) > 0 && !f.messages[0].last {
		f.bytes -= len(f.messages[0].data) + messageOverhead
		f.messages[0] = message{} // the array may live on
		f.messages = f.messages[1:]
	}
	if f.more != nil {
		close(f.more)
		f.more = nil
	}
}

// next returns the first message after the one called id: one at a time, so that
// a slow follower holds no more than one. Where there is none yet, ok is false
// and more closes when there is; where none will come, over is true.
func (f *feed) next(id uint64) (m message, ok, over bool, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id < f.sent && len(f.messages) > 0 {
		first := f.messages[0].id
		return f.messages[max(id+1, first)-first], true, false, nil
	}
	if f.over {
		return message{}, false, true, nil
	}
	if f.more == nil {
		f.more = make(chan struct{})
	}
	return message{}, false, false, f.more
}

// newest is the id of the newest message.
func (f *feed) newest() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}
