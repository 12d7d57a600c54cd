package audit

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// bounds returns where the frames of a segment begin and end, header first.
func bounds(t *testing.T, data []byte) (at []int) {
	t.Helper()
	off := 0
	for {
		_, n, err := decodeFrame(data[off:])
		if err != nil {
			return append(at, off)
		}
		at = append(at, off)
		off += n
	}
}

// reseal sets the checksum of the frame at off right again, as a forger would.
func reseal(data []byte, off int) {
	end := off + frameHeaderBytes + int(binary.LittleEndian.Uint32(data[off:]))
	binary.LittleEndian.PutUint32(data[off+4:], frameSum(data[off:end]))
}

// Invariant 9: any edit of the log shows. Each case edits a log that was closed
// in order; where New must also notice, it must name the file.
func TestTamperingShows(t *testing.T) {
	edit := func(segment uint64, change func(t *testing.T, data []byte) []byte) func(*testing.T, Config) {
		return func(t *testing.T, cfg Config) {
			path := filepath.Join(cfg.Dir, segmentName(segment))
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, change(t, data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(names ...string) func(*testing.T, Config) {
		return func(t *testing.T, cfg Config) {
			for _, name := range names {
				if err := os.Remove(filepath.Join(cfg.Dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	const frameInMiddle = 20 // of segment 2; odd frames are batch headers
	cases := []struct {
		name                    string
		change                  func(*testing.T, Config)
		integrity, completeness bool // what remains; completeness may be either where file is a checkpoint
		file                    string
	}{
		{"a flipped bit in a payload", edit(2, func(t *testing.T, data []byte) []byte {
			data[bounds(t, data)[frameInMiddle]+100] ^= 4
			return data
		}), false, false, segmentName(2)},
		{"a flipped bit in the first segment", edit(1, func(t *testing.T, data []byte) []byte {
			data[bounds(t, data)[2]+60] ^= 1
			return data
		}), false, false, segmentName(1)},
		{"a flipped bit in a segment's header", edit(2, func(_ *testing.T, data []byte) []byte {
			data[60] ^= 1
			return data
		}), false, false, segmentName(2)},
		{"a flipped bit in a batch's header", edit(2, func(t *testing.T, data []byte) []byte {
			data[bounds(t, data)[frameInMiddle-1]+30] ^= 1
			return data
		}), false, false, segmentName(2)},
		{"a flipped bit in the last record", edit(3, func(t *testing.T, data []byte) []byte {
			at := bounds(t, data)
			data[at[len(at)-2]+60] ^= 1
			return data
		}), false, false, segmentName(3)},
		{"a rewritten record with a right checksum", edit(2, func(t *testing.T, data []byte) []byte {
			at := bounds(t, data)
			off := at[frameInMiddle]
			frame := data[off:at[frameInMiddle+1]]
			i := bytes.Index(frame, []byte("python"))
			if i < 0 {
				i = bytes.Index(frame, []byte("exited"))
			}
			copy(frame[i:], "harmle")
			reseal(data, off)
			return data
		}), false, true, segmentName(3)},
		{"a rewritten record in the last segment", edit(3, func(t *testing.T, data []byte) []byte {
			off := bounds(t, data)[2]
			data[off+frameHeaderBytes+recordHeaderBytes+20] ^= 1
			reseal(data, off)
			return data
		}), false, true, segmentName(3)},
		{"an end that names another decision", edit(3, func(t *testing.T, data []byte) []byte {
			for _, off := range bounds(t, data) {
				if frameType(data[off+8]) == frameClose {
					data[off+frameHeaderBytes]++
					reseal(data, off)
					return data
				}
			}
			t.Fatal("no end")
			return nil
		}), false, false, segmentName(3)},
		{"two records swapped", edit(2, func(t *testing.T, data []byte) []byte {
			at := bounds(t, data)
			// Record frames stand at even places: each is its batch's only one.
			a, b := data[at[2]:at[3]], data[at[6]:at[7]]
			return slices.Concat(data[:at[2]], b, data[at[3]:at[6]], a, data[at[7]:])
		}), false, false, segmentName(2)},
		{"two batches swapped", edit(2, func(t *testing.T, data []byte) []byte {
			at := bounds(t, data)
			return slices.Concat(data[:at[1]], data[at[3]:at[5]], data[at[1]:at[3]], data[at[5]:])
		}), false, false, segmentName(2)},
		{"a batch deleted", edit(2, func(t *testing.T, data []byte) []byte {
			at := bounds(t, data)
			return slices.Concat(data[:at[5]], data[at[7]:])
		}), false, false, segmentName(2)},
		{"the last batch deleted", edit(3, func(t *testing.T, data []byte) []byte {
			at := bounds(t, data)
			clear(data[at[len(at)-3]:])
			return data
		}), false, false, segmentName(3)},
		{"a sealed segment truncated", edit(2, func(t *testing.T, data []byte) []byte {
			return data[:bounds(t, data)[9]]
		}), false, false, segmentName(2)},
		{"the last segment truncated", edit(3, func(t *testing.T, data []byte) []byte {
			return data[:bounds(t, data)[3]+9]
		}), false, false, segmentName(3)},
		{"a segment emptied", edit(2, func(*testing.T, []byte) []byte { return nil }), false, false, segmentName(2)},
		{"a batch repeated at the end", edit(3, func(t *testing.T, data []byte) []byte {
			at := bounds(t, data)
			end := at[len(at)-1]
			copy(data[end:], data[at[1]:at[3]])
			return data
		}), false, true, segmentName(3)},
		{"a middle segment missing", remove(segmentName(2)), true, false, segmentName(2)},
		{"the first segment missing", remove(segmentName(1)), true, false, segmentName(1)},
		{"the last segment missing", remove(segmentName(3)), false, false, segmentName(2)},
		{"all segments missing", remove(segmentName(1), segmentName(2), segmentName(3)), false, false, segmentName(1)},
		{"the checkpoint missing", remove(checkpointName), false, false, checkpointName},
		{"segments exchanged", func(t *testing.T, cfg Config) {
			a, b, c := filepath.Join(cfg.Dir, segmentName(1)), filepath.Join(cfg.Dir, segmentName(2)), filepath.Join(cfg.Dir, "c")
			for _, move := range [][2]string{{a, c}, {b, a}, {c, b}} {
				if err := os.Rename(move[0], move[1]); err != nil {
					t.Fatal(err)
				}
			}
		}, false, false, segmentName(1)},
		{"another log's checkpoint", func(t *testing.T, cfg Config) {
			other, _ := writtenLog(t)
			if err := os.WriteFile(filepath.Join(cfg.Dir, checkpointName), latest(t, other), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, false, checkpointName},
		{"a checkpoint by another key", func(t *testing.T, cfg Config) {
			id, err := makeKey(osFileSystem{}, t.TempDir(), strings.Split(string(latest(t, cfg)), "\n")[0], keyName, verifierName)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := signCheckpoint(id, 3, [32]byte{})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(cfg.Dir, checkpointName), signed, 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, false, checkpointName},
		{"a checkpoint edited", func(t *testing.T, cfg Config) {
			path := filepath.Join(cfg.Dir, checkpointName)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.SplitN(string(data), "\n", 3)
			if err := os.WriteFile(path, []byte(lines[0]+"\n3\n"+lines[2]), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false, false, checkpointName},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg := folders(t)
			l, stop := running(t, cfg)
			for n := 0; len(segments(t, cfg)) < 3; n++ {
				fill(t, l, 1)
			}
			fill(t, l, 5)
			stop()
			mustVerify(t, cfg, l.Verifier())
			c.change(t, cfg)
			report, err := Verify(cfg.Dir, l.Verifier())
			if err != nil {
				t.Fatal(err)
			}
			if report.Integrity.OK != c.integrity {
				t.Errorf("integrity is %+v", report.Integrity)
			}
			if c.completeness != report.Completeness.OK && c.file != checkpointName {
				t.Errorf("completeness is %+v", report.Completeness)
			}
			l, err = New(cfg)
			if err == nil {
				l.Close()
				t.Fatal("the log was opened")
			}
			if !strings.Contains(err.Error(), c.file) {
				t.Errorf("the error does not name %s: %v", c.file, err)
			}
		})
	}
}

// Another log's segment in the place of one is named, also where its header says
// something else of the segment before it.
func TestAnotherLogsSegmentShows(t *testing.T) {
	cfg, key := writtenLog(t)
	other, _ := writtenLog(t)
	data, err := os.ReadFile(filepath.Join(other.Dir, segmentName(2)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, segmentName(2)), data, 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := Verify(cfg.Dir, key)
	if err != nil {
		t.Fatal(err)
	}
	found := slices.ContainsFunc(report.Integrity.Findings, func(f Finding) bool {
		return f.File == segmentName(2) && strings.Contains(f.Problem, "another log")
	})
	if !found {
		t.Errorf("integrity is %+v", report.Integrity)
	}
	seq := uint64(1)
	if _, err := Prove(cfg.Dir, key, ProveOptions{Seq: &seq}); err == nil {
		t.Error("a record was proven")
	}
	if l, err := New(cfg); err == nil || !strings.Contains(err.Error(), segmentName(2)) {
		if err == nil {
			l.Close()
		}
		t.Errorf("opened: %v", err)
	}
}

// What a forger names a file does not reach a terminal as it is.
func TestFindingsArePrintable(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	fill(t, l, 1)
	stop()
	if err := os.WriteFile(filepath.Join(cfg.Dir, "\x1b[2J\n\u202eintegrity holds\u0085.checkpoint"), []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := Verify(cfg.Dir, l.Verifier())
	if err != nil || len(report.Integrity.Findings) == 0 {
		t.Fatalf("%+v %v", report, err)
	}
	if text := report.Integrity.Findings[0].String(); strings.ContainsAny(text, "\x1b\n\u202e\u0085") {
		t.Errorf("the finding is %q", text)
	}
}

func segments(t testing.TB, cfg Config) []uint64 {
	t.Helper()
	indexes, err := listSegments(osFileSystem{}, cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return indexes
}

// A whole folder rolled back to an earlier state, as from a copy, verifies by
// itself; the checkpoint beside the key knows better.
func TestAFolderRolledBackIsNotOpened(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	fill(t, l, 3)
	stop()
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	_, stop = running(t, cfg)
	stop()
	l, stop = running(t, cfg)
	fill(t, l, 3)
	stop()
	for _, rolledBack := range []bool{true, false} {
		if err := os.RemoveAll(cfg.Dir); err != nil {
			t.Fatal(err)
		}
		if rolledBack {
			if err := os.CopyFS(cfg.Dir, os.DirFS(copied)); err != nil {
				t.Fatal(err)
			}
			mustVerify(t, cfg, l.Verifier())
		}
		if l, err := New(cfg); err == nil {
			l.Close()
			t.Errorf("a log that was rolled back (%v) or emptied was opened", rolledBack)
		}
	}
}

// A torn last batch was never acknowledged: it is cut, durably, and its numbers
// are given to records that are.
func TestATornBatchIsCut(t *testing.T) {
	for _, cut := range []int{1, 9, 30, batchHeaderBytes, batchHeaderBytes + 1, batchHeaderBytes + 200} {
		cfg := folders(t)
		l, stop := running(t, cfg)
		fill(t, l, 2)
		mustAppend(t, l, decided(1, execution.EffectDeny))
		stop()
		path := filepath.Join(cfg.Dir, segmentName(1))
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := bounds(t, whole)
		begin, end := at[len(at)-3], at[len(at)-1]
		// As after a power loss: the batch that follows is there in part.
		torn := bytes.Clone(whole[begin : begin+cut])
		for i := range torn {
			if i >= 17 {
				torn[i] ^= 0xff
			}
		}
		copy(whole[end:], torn)
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := Verify(cfg.Dir, l.Verifier())
		if err != nil || !report.Integrity.OK {
			t.Fatalf("a torn end of %d bytes: %v %v", cut, report.Integrity, err)
		}
		l, stop = running(t, cfg)
		if got := mustAppend(t, l, decided(2, execution.EffectDeny)); got != 5 {
			t.Errorf("after a cut of %d bytes the next record is %d, want 5", cut, got)
		}
		stop()
		if report := mustVerify(t, cfg, l.Verifier()); len(report.Completeness.Notes) > 0 {
			t.Errorf("the cut shows: %v", report.Completeness.Notes)
		}
	}
}

// Damage in the last segment with a later batch behind it is not a torn end,
// whether or not a checkpoint covers it.
func TestDamageBeforeALaterBatchIsNotCut(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	fill(t, l, 3)
	stop()
	path := filepath.Join(cfg.Dir, segmentName(1))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bounds(t, data)
	data[at[3]] ^= 0xff // the length in a batch's header
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = New(cfg)
	if err == nil || !strings.Contains(err.Error(), "a later batch stands at offset") {
		t.Errorf("open: %v", err)
	}
	for _, err = range Read(cfg.Dir) {
	}
	if err == nil || !strings.Contains(err.Error(), segmentName(1)) {
		t.Errorf("read: %v", err)
	}
}
