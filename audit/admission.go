package audit

// admits reports whether there is space for e. A decision needs space for its
// own end beside the ends of everything that is open, every other record must
// leave those; an end may use them.
func (w *writer) admits(e *entry) bool {
	if e.typ == frameClose {
		if _, running := w.open[e.ref]; running {
			return true // the space is its own; if it is too large, writing it says so
		}
	}
	need := int64(e.bytes()) + w.reserved + w.promised + w.forRemoval(e.typ)
	if e.typ == frameOpen {
		need += e.reserve
	}
	if w.available() >= need {
		return true
	}
	// A removal makes room, so that it may have some past the log's largest size.
	if w.log.space.ready.Load() || w.log.space.ensurePast(e.typ == frameRemoved) != nil {
		return false
	}
	w.noteFull() // there is a spare now, and provision did not make it
	return w.available() >= need
}

// available returns how many bytes are allocated and not used. What a segment
// may lose at its end, because the next record does not fit, is not counted.
func (w *writer) available() int64 {
	loss := w.log.cfg.maxReserveBytes()
	n := max(0, w.identity.Size-w.off-int64(len(w.buf))-loss)
	if w.log.space.ready.Load() {
		n += w.log.cfg.SegmentBytes - int64(maxHeaderBytes) - loss
	}
	return n
}

// commonDecision is the space for a decision of common size with its end: the
// grant of 64 artifacts, which is as many as are listed, reserves 26 KiB.
const commonDecision = 32 << 10

// noteFull tells whether another decision of common size would be refused. It is
// called wherever space comes or goes.
func (w *writer) noteFull() {
	need := w.reserved + w.promised + w.forRemoval(frameOpen) + min(commonDecision, 2*w.log.cfg.maxReserveBytes())
	w.log.health.noteFull(w.fault.err == nil && w.available() < need)
}
