package audit

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
)

// The states of an entry. Whoever moves it out of entryWaiting decides what
// becomes of it.
const (
	entryWaiting   int32 = iota
	entryAnswered        // the writer gave the answer
	entryAbandoned       // the caller no longer waits
)

// entry is one record on its way to the disk.
type entry struct {
	typ     frameType
	ref     uint64
	reserve int64 // bytes to keep for the end of what this record opens
	salt    [saltBytes]byte
	// rest is the record's JSON after jsonPrefix: the writer knows the number.
	rest []byte

	// subject is set where typ is frameOpen.
	subject Open

	// lost is set where nobody waits: it is told of a refusal.
	lost func(error)

	state atomic.Int32
	done  chan struct{} // closed once seq and err are set
	seq   uint64
	err   error
}

// jsonPrefix is how the JSON of a Record without a number begins.
const jsonPrefix = `{"seq":0`

// newEntry encodes rec. It does everything that can be done without knowing the
// record's number, in the goroutine of the caller.
func newEntry(rec execution.Record) (*entry, error) {
	e := &entry{typ: frameRecord, done: make(chan struct{})}
	switch rec.Type {
	case "":
		return nil, errors.New("the record has no type")
	case execution.RecordGap, execution.RecordSegmentsRemoved, execution.RecordHeartbeat:
		return nil, fmt.Errorf("a record of the type %s is written by the log alone", rec.Type)
	case execution.RecordDecided:
		if rec.Decided == nil {
			return nil, errors.New("a decided record needs its body")
		}
		// A session has records of its own, and its executions their decisions.
		if rec.Decided.Decision.Allowed() && rec.Decided.Action != execution.ActionSession {
			e.typ = frameOpen
			e.reserve = reserveFor(rec.Decided.Decision.Grant)
			e.subject = openOf(rec)
		}
	case execution.RecordSession:
		if rec.Session == nil {
			return nil, errors.New("a session record needs its body")
		}
	case execution.RecordEnded:
		if rec.Ended == nil {
			return nil, errors.New("an ended record needs its body")
		}
		e.typ, e.ref = frameClose, rec.Ended.DecidedSeq
	}
	if err := e.encode(rec); err != nil {
		return nil, err
	}
	return e, nil
}

// encode sets the entry's JSON and salt.
func (e *entry) encode(rec execution.Record) error {
	rec.Seq, rec.V = 0, execution.RecordVersion
	if rec.Time.IsZero() {
		rec.Time = time.Now().UTC()
	}
	text, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode a record: %w", err)
	}
	rest, ok := bytes.CutPrefix(text, []byte(jsonPrefix))
	if !ok {
		return errors.New("encode a record: its JSON does not begin with its number")
	}
	e.rest = escapeControls(rest)
	rand.Read(e.salt[:])
	return nil
}

// bytes returns an upper bound of the size of the entry's frame.
func (e *entry) bytes() int {
	return frameHeaderBytes + recordHeaderBytes + len(jsonPrefix) + 20 + len(e.rest)
}

// appendFrame appends the entry's frame with number seq.
func (e *entry) appendFrame(buf []byte, seq uint64) []byte {
	start := len(buf)
	buf = beginFrame(buf, e.typ, seq)
	buf = binary.LittleEndian.AppendUint64(buf, e.ref)
	buf = append(buf, e.salt[:]...)
	buf = append(buf, jsonPrefix[:len(jsonPrefix)-1]...)
	buf = strconv.AppendUint(buf, seq, 10)
	buf = append(buf, e.rest...)
	endFrame(buf, start)
	return buf
}

// answer gives the entry its answer and reports whether somebody waited for it.
func (e *entry) answer(seq uint64, err error) bool {
	e.seq, e.err = seq, err
	if !e.state.CompareAndSwap(entryWaiting, entryAnswered) {
		return false
	}
	close(e.done)
	return true
}

// escapeControls escapes what encoding/json leaves as it is and a terminal may
// act on: DEL and the C1 controls U+0080 to U+009F (ECMA-48).
func escapeControls(text []byte) []byte {
	if bytes.IndexByte(text, 0x7f) < 0 && bytes.IndexByte(text, 0xc2) < 0 {
		return text
	}
	out := make([]byte, 0, len(text)+64)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r >= 0x7f && r <= 0x9f {
			out = fmt.Appendf(out, `\u%04x`, r)
		} else {
			out = append(out, text[:n]...)
		}
		text = text[n:]
	}
	return out
}
