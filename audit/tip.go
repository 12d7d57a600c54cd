package audit

import "sync"

// tip is the durable state that the checkpointer, and who follows, reads.
type tip struct {
	mu     sync.Mutex
	tree   tree
	begin  uint64 // number with which the current segment begins
	sealed uint64 // index of the last sealed segment; 0 for none
	// changed is closed at the next change; nil where nobody waits for it.
	changed chan struct{}
}

func (t *tip) snapshot() (tree, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tree, t.sealed
}

// begins is the number with which the segment that is written begins.
func (t *tip) begins() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.begin
}

// follow is how far the log is durable, and what is closed once it is further.
func (t *tip) follow() (size, sealed uint64, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.tree.size, t.sealed, t.changed
}

// change changes the tip, and tells who follows.
func (t *tip) change(to func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	to()
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}
