package audit

// Held is what a log takes up.
type Held struct {
	Segments int
	Bytes    int64  // of the segments' files, with the space after their last record
	Removed  uint64 // segments that retention removed since the log was opened
	Oldest   uint64 // number of the oldest record that is kept
	Waiting  int    // segments that are not to be kept, and may not be removed yet
	For      Hold   // why not; empty where none waits
}

// Held returns what the log takes up now.
func (l *Log) Held() Held {
	h := l.watch.held()
	if h.Segments <= 1 {
		h.Oldest = l.writer.tip.begins()
	}
	h.Waiting, h.For = l.waiting.now()
	return h
}

// Retaining returns why segments that are not to be kept could not be removed the last
// time; nil where they could.
func (l *Log) Retaining() error {
	l.health.mu.Lock()
	defer l.health.mu.Unlock()
	return l.health.retention
}
