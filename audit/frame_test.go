package audit

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/execgate/execgate/execution"
	"golang.org/x/mod/sumdb/tlog"
)

func encoded(t testing.TB, rec execution.Record, seq uint64) []byte {
	t.Helper()
	e, err := newEntry(rec)
	if err != nil {
		t.Fatal(err)
	}
	buf := e.appendFrame(nil, seq)
	if len(buf) > e.bytes() {
		t.Fatalf("the frame has %d bytes, its bound is %d", len(buf), e.bytes())
	}
	return buf
}

// Whatever a file holds, decoding neither panics nor accepts what encoding
// would not have written.
func FuzzDecode(f *testing.F) {
	f.Add(encoded(f, decided(1, execution.EffectAllow), 7))
	f.Add(encodeSegmentHeader(segmentHeader{index: 2, prev: 1, tree: treeOf(3, make([]tlog.Hash, 2))}))
	one := append(make([]byte, batchHeaderBytes), encoded(f, ended(1, 7), 8)...)
	putBatchHeader(one, batchHeader{first: 8, count: 1, bytes: uint32(len(one) - batchHeaderBytes), durable: 8})
	f.Add(one)
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, data []byte) {
		if frame, n, err := decodeFrame(data); err == nil {
			again := beginFrame(nil, frame.typ, frame.seq)
			again = append(again, frame.body...)
			endFrame(again, 0)
			if !bytes.Equal(again, data[:n]) {
				t.Errorf("decoded from %x, encoded as %x", data[:n], again)
			}
			if frame.isLeaf() {
				hashFrame(frame)
				_, _ = recordOf(frame)
			}
		}
		if h, n, err := decodeSegmentHeader(data); err == nil && !bytes.Equal(encodeSegmentHeader(h), data[:n]) {
			t.Errorf("the header decoded from %x is encoded as %x", data[:n], encodeSegmentHeader(h))
		}
		reader := newSegmentReader(bytes.NewReader(data), 0, -1)
		p := replay{open: map[uint64]place{}}
		for {
			b, err := reader.next()
			if err != nil {
				break
			}
			if err := p.add(1, b); err != nil {
				break
			}
		}
		if _, err := reader.laterBatch(); err != nil && err != io.EOF {
			t.Error(err)
		}
	})
}

// The log's number stands in the record's JSON as well as in its frame.
func TestARecordIsTheJSONOfTheRecord(t *testing.T) {
	rec := decided(1, execution.EffectAllow)
	frame, _, err := decodeFrame(encoded(t, rec, 12345678901234567890))
	if err != nil {
		t.Fatal(err)
	}
	got, err := recordOf(frame)
	if err != nil {
		t.Fatal(err)
	}
	rec.Seq, rec.V, rec.Time = 12345678901234567890, execution.RecordVersion, got.Time
	want, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(frame.payload(), want) {
		t.Errorf("payload is %s, want %s", frame.payload(), want)
	}
}

// Newlines, escape codes and what else a terminal acts on reach the file
// escaped, and a reader unchanged.
func TestHostileFields(t *testing.T) {
	hostile := "a\nb\r\x1b[2J\x00\x7f\u009b31m\u2028<script>é" + `"\`
	rec := decided(1, execution.EffectDeny)
	rec.RequestID = hostile
	frame, _, err := decodeFrame(encoded(t, rec, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range string(frame.payload()) {
		if r < 0x20 || r >= 0x7f && r <= 0x9f || r == 0x2028 {
			t.Errorf("the payload holds %U: %q", r, frame.payload())
		}
	}
	if got, err := recordOf(frame); err != nil || got.RequestID != hostile {
		t.Errorf("read back %q, %v", got.RequestID, err)
	}
}

// The tree is the one of golang.org/x/mod/sumdb/tlog, whose proofs and clients
// then work on it.
func TestTreeEqualsTlog(t *testing.T) {
	var mine tree
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		var hashes []tlog.Hash
		for _, i := range indexes {
			hashes = append(hashes, stored[i])
		}
		return hashes, nil
	})
	for n := range int64(300) {
		root, err := tlog.TreeHash(n, reader)
		if err != nil {
			t.Fatal(err)
		}
		if mine.root() != root {
			t.Fatalf("the root of %d leaves is %v, want %v", n, mine.root(), root)
		}
		if again := treeOf(mine.size, mine.peaks()); !again.equal(&mine) {
			t.Fatalf("the tree of %d leaves is not what its peaks say", n)
		}
		payload := [32]byte{byte(n), byte(n >> 8)}
		// The leaf's encoding, spelled out: it must never change.
		leaf := append([]byte{1, 16, 0, 0, 0, 0, 0, 0, byte(n >> 8), byte(n), 0, 0, 0, 0, 0, 0, 0, 9}, payload[:]...)
		hashes, err := tlog.StoredHashes(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		mine.add(leafHash(frameRecord, uint64(n), 9, payload))
	}
}
