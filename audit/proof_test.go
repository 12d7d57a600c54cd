package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"golang.org/x/mod/sumdb/tlog"
)

// writtenLog returns a closed log of three segments or more, and its key.
func writtenLog(t testing.TB) (Config, string) {
	t.Helper()
	cfg := folders(t)
	l, stop := running(t, cfg)
	for len(segments(t, cfg)) < 3 {
		fill(t, l, 1)
	}
	fill(t, l, 5)
	stop()
	return cfg, l.Verifier()
}

func latest(t testing.TB, cfg Config) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cfg.Dir, checkpointName))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustProve(t testing.TB, cfg Config, key string, o ProveOptions) *Proof {
	t.Helper()
	p, err := Prove(cfg.Dir, key, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func proofText(t testing.TB, p *Proof) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := p.Encode(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func mustCheck(t testing.TB, data []byte, key string) ProofReport {
	t.Helper()
	report, err := CheckProof(data, key)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// A tree knows its subtrees by the numbers that tlog stores them under, and grows
// by whole subtrees to the same root.
func TestTreeOfSubtrees(t *testing.T) {
	const size = 133
	leaf := func(n uint64) tlog.Hash { return tlog.RecordHash(fmt.Append(nil, n)) }
	seen := nodes{}
	for index := range tlog.StoredHashCount(size) {
		seen[index] = tlog.Hash{}
	}
	var whole tree
	snapshots := []tree{whole}
	for n := range uint64(size) {
		whole.addSeen(leaf(n), seen.see)
		snapshots = append(snapshots, whole)
	}
	for n := int64(0); n <= size; n++ {
		root, err := tlog.TreeHash(n, seen)
		if err != nil || root != snapshots[n].root() {
			t.Fatalf("the root of %d leaves is %v, want %v, %v", n, snapshots[n].root(), root, err)
		}
	}
	for from := range uint64(size + 1) {
		grown, at := snapshots[from], from
		for _, level := range subtreesBetween(from, size) {
			grown.addSubtree(level, seen[tlog.StoredHashIndex(level, int64(at>>level))])
			at += 1 << level
		}
		if !grown.equal(&whole) {
			t.Fatalf("grown from %d leaves the tree is another", from)
		}
	}
}

// Every record can be proven, also without showing it, with the public key alone.
func TestProveEveryRecord(t *testing.T) {
	cfg, key := writtenLog(t)
	var seqs []uint64
	for rec, err := range Read(cfg.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, rec.Seq)
	}
	for i, seq := range seqs {
		if i > 5 && i < len(seqs)-5 && rand.IntN(10) > 0 {
			continue
		}
		for _, redacted := range []bool{false, true} {
			data := proofText(t, mustProve(t, cfg, key, ProveOptions{Seq: &seq, Redacted: redacted}))
			report := mustCheck(t, data, key)
			if !report.Integrity.OK || report.First != seq || report.Records != 1 || report.Redacted != redacted {
				t.Fatalf("record %d: %+v", seq, report)
			}
			if redacted == bytes.Contains(data, []byte(`\"type\"`)) || redacted == bytes.Contains(data, []byte(`"salt"`)) {
				t.Errorf("record %d: redacted is %v and the proof is %s", seq, redacted, data)
			}
		}
	}
	beyond := uint64(len(seqs))
	if _, err := Prove(cfg.Dir, key, ProveOptions{Seq: &beyond}); err == nil || !strings.Contains(err.Error(), "not covered") {
		t.Errorf("a record that is not there: %v", err)
	}
	if _, err := Prove(cfg.Dir, key, ProveOptions{}); err == nil {
		t.Error("nothing was proven")
	}
}

// A proof against the checkpoint that somebody kept, and that the log extends it.
func TestProveAgainstEarlierCheckpoints(t *testing.T) {
	cfg := folders(t)
	var kept [][]byte
	var key string
	for range 4 {
		l, stop := running(t, cfg)
		fill(t, l, 3+rand.IntN(4))
		stop()
		key = l.Verifier()
		kept = append(kept, latest(t, cfg))
	}
	empty := kept[0]
	{
		l, err := New(folders(t)) // another log
		if err != nil {
			t.Fatal(err)
		}
		empty = latest(t, l.cfg)
		l.Close()
	}
	first := uint64(1)
	for i, from := range kept {
		for j, to := range kept {
			p, err := Prove(cfg.Dir, key, ProveOptions{Seq: &first, From: from, Checkpoint: to})
			if i > j {
				if err == nil || !strings.Contains(err.Error(), "records are gone") {
					t.Errorf("a log that shrinks: %v", err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if report := mustCheck(t, proofText(t, p), key); !report.Integrity.OK || report.ExtendsSize == 0 || report.ExtendsSize > report.Size {
				t.Errorf("from %d to %d: %+v", i, j, report)
			}
		}
	}
	if _, err := Prove(cfg.Dir, key, ProveOptions{From: empty}); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("another log's checkpoint: %v", err)
	}
}

// Each case alters a proof; the finding must name the part.
func TestAlteredProofsShow(t *testing.T) {
	cfg, key := writtenLog(t)
	l, stop := running(t, cfg)
	early := latest(t, cfg)
	fill(t, l, 20)
	stop()
	other, otherKey := writtenLog(t)
	seq, neighbour := uint64(7), uint64(8)
	cases := []struct {
		name   string
		change func(p *Proof)
		where  string
	}{
		{"a flipped bit in the payload", func(p *Proof) { p.Record.Payload = strings.Replace(p.Record.Payload, "e", "f", 1) }, "record 7"},
		{"another salt", func(p *Proof) { p.Record.Salt[3] ^= 1 }, "record 7"},
		{"another number", func(p *Proof) { p.Record.Seq = 6 }, "record 6"},
		{"another frame type", func(p *Proof) { p.Record.FrameType ^= 1 }, "record 7"},
		{"a frame type that no record has", func(p *Proof) { p.Record.FrameType = uint8(frameVoid) }, "record 7"},
		{"another decision", func(p *Proof) { p.Record.Ref++ }, "record 7"},
		{"the proof of another record", func(p *Proof) { p.Record.Path = mustProve(t, cfg, key, ProveOptions{Seq: &neighbour}).Record.Path }, "record 7"},
		{"the record of another proof", func(p *Proof) {
			n := mustProve(t, cfg, key, ProveOptions{Seq: &neighbour})
			p.Record.Payload, p.Record.Salt = n.Record.Payload, n.Record.Salt
		}, "record 7"},
		{"a shorter path", func(p *Proof) { p.Record.Path = p.Record.Path[1:] }, "record 7"},
		{"a longer path", func(p *Proof) { p.Record.Path = append(p.Record.Path, tlog.Hash{}) }, "record 7"},
		{"a flipped bit in the path", func(p *Proof) { p.Record.Path[2][0] ^= 1 }, "record 7"},
		{"a record past the checkpoint", func(p *Proof) { p.Record.Seq = 1 << 40 }, "record"},
		{"a digest beside the payload", func(p *Proof) { p.Record.Digest = make([]byte, 32) }, "record 7"},
		{"no record and no extension", func(p *Proof) { p.Record, p.Extends = nil, nil }, "the proof"},
		{"a forged checkpoint", func(p *Proof) { p.Checkpoint = strings.Replace(p.Checkpoint, "\n", "\n1", 1) }, "checkpoint"},
		{"another log's checkpoint", func(p *Proof) { p.Checkpoint = string(latest(t, other)) }, "checkpoint"},
		{"another log's proof", func(p *Proof) { *p = *mustProve(t, other, otherKey, ProveOptions{Seq: &seq}) }, "checkpoint"},
		{"the checkpoints exchanged", func(p *Proof) { p.Checkpoint, p.Extends.Checkpoint = p.Extends.Checkpoint, p.Checkpoint }, "extends"},
		{"an extension that was altered", func(p *Proof) { p.Extends.Path[0][5] ^= 1 }, "extends"},
		{"an extension of another log", func(p *Proof) { p.Extends.Checkpoint = string(latest(t, other)) }, "extends.checkpoint"},
		{"a rotation of the key that is none", func(p *Proof) { p.KeyRotations = []string{p.Checkpoint} }, "key_rotations"},
		{"another format", func(p *Proof) { p.Format = "execgate/audit-proof/9" }, "format"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := mustProve(t, cfg, key, ProveOptions{Seq: &seq, From: early})
			if report := mustCheck(t, proofText(t, p), key); !report.Integrity.OK {
				t.Fatalf("before: %+v", report)
			}
			c.change(p)
			report := mustCheck(t, proofText(t, p), key)
			if report.Integrity.OK || !strings.Contains(report.Integrity.Findings[0].File, c.where) {
				t.Errorf("%+v", report)
			}
			if report.Record != nil || report.Records != 0 {
				t.Errorf("the report shows a record: %+v", report)
			}
		})
	}
}

// Two programs must not read one proof differently.
func TestAmbiguousProofsAreRefused(t *testing.T) {
	cfg, key := writtenLog(t)
	seq := uint64(3)
	good := string(proofText(t, mustProve(t, cfg, key, ProveOptions{Seq: &seq})))
	for name, data := range map[string]string{
		"a field twice":     strings.Replace(good, `"payload":`, `"payload": "{}", "payload":`, 1),
		"other letters":     strings.Replace(good, `"payload":`, `"Payload":`, 1),
		"an unknown field":  strings.Replace(good, `"payload":`, `"note": "harmless", "payload":`, 1),
		"something after":   good + "{}",
		"cut short":         good[:len(good)/2],
		"not JSON":          "no",
		"null":              "null",
		"nothing":           "",
		"a list":            "[" + good + "]",
		"a negative number": strings.Replace(good, `"seq": 3`, `"seq": -3`, 1),
	} {
		if report := mustCheck(t, []byte(data), key); report.Integrity.OK {
			t.Errorf("%s was taken", name)
		}
	}
	var p Proof
	if err := json.Unmarshal([]byte(good), &p); err != nil {
		t.Fatal(err)
	}
	compact, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if report := mustCheck(t, compact, key); !report.Integrity.OK {
		t.Errorf("a proof on one line: %v", report.Integrity)
	}
}

// A proof is not made of a log that was altered.
func TestNoProofOfAnAlteredLog(t *testing.T) {
	cfg, key := writtenLog(t)
	path := filepath.Join(cfg.Dir, segmentName(2))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bounds(t, data)
	data[at[20]+frameHeaderBytes+recordHeaderBytes+30] ^= 1
	reseal(data, at[20])
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	seq := uint64(2)
	if _, err := Prove(cfg.Dir, key, ProveOptions{Seq: &seq}); err == nil || !strings.Contains(err.Error(), segmentName(3)) {
		t.Errorf("prove: %v", err)
	}
	if _, err := Export(&bytes.Buffer{}, cfg.Dir, key, Range{}); err == nil || !strings.Contains(err.Error(), segmentName(3)) {
		t.Errorf("export: %v", err)
	}
	last := segments(t, cfg)
	path = filepath.Join(cfg.Dir, segmentName(last[len(last)-1]))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Prove(cfg.Dir, key, ProveOptions{Seq: &seq}); err == nil {
		t.Errorf("prove of a log without its end: %v", err)
	}
}

// A log that begins at a later segment, as after retention, proves what it has.
func TestProofsOfALogThatBeginsLater(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	for len(segments(t, cfg)) < 2 {
		fill(t, l, 1)
	}
	fill(t, l, 5)
	stop()
	key, kept := l.Verifier(), latest(t, cfg)
	l, stop = running(t, cfg)
	for len(segments(t, cfg)) < 3 {
		fill(t, l, 1)
	}
	stop()
	header, _, err := readSegmentHeader(osFileSystem{}, cfg.Dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	begins := header.tree.size
	gone, there := begins-1, begins
	want := mustProve(t, cfg, key, ProveOptions{Seq: &there, From: kept})
	if err := os.Remove(filepath.Join(cfg.Dir, segmentName(1))); err != nil {
		t.Fatal(err)
	}
	if got := mustProve(t, cfg, key, ProveOptions{Seq: &there, From: kept}); !bytes.Equal(proofText(t, got), proofText(t, want)) {
		t.Error("the proof is another one than that of the whole log")
	}
	if _, err := Prove(cfg.Dir, key, ProveOptions{Seq: &gone}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("begins at record %d", begins)) {
		t.Errorf("a record that is gone: %v", err)
	}
	var out bytes.Buffer
	summary, err := Export(&out, cfg.Dir, key, Range{})
	if err != nil || summary.From != begins {
		t.Fatalf("export: %+v %v", summary, err)
	}
	if report, err := CheckExport(&out, key); err != nil || !report.Integrity.OK || report.First != begins {
		t.Errorf("%+v %v", report, err)
	}
}

// Void numbers have no proof, and an export says that they are void.
func TestProofsAcrossAGap(t *testing.T) {
	cfg, key, voids := logWithGap(t)
	var out bytes.Buffer
	if _, err := Export(&out, cfg.Dir, key, Range{}); err != nil {
		t.Fatal(err)
	}
	report, err := CheckExport(bytes.NewReader(out.Bytes()), key)
	if err != nil || !report.Integrity.OK || report.Voids != uint64(len(voids)) || report.Records+report.Voids != report.Size {
		t.Errorf("%+v %v", report, err)
	}
	for _, seq := range voids {
		if _, err := Prove(cfg.Dir, key, ProveOptions{Seq: &seq}); err == nil || !strings.Contains(err.Error(), "void") {
			t.Errorf("a void number: %v", err)
		}
		after := seq + 1
		if slices.Contains(voids, after) {
			continue
		}
		if report := mustCheck(t, proofText(t, mustProve(t, cfg, key, ProveOptions{Seq: &after})), key); !report.Integrity.OK {
			t.Errorf("the record after a void number: %+v", report)
		}
	}
}

// logWithGap returns a closed log in which one write failed.
func logWithGap(t *testing.T) (cfg Config, key string, voids []uint64) {
	t.Helper()
	cfg = folders(t)
	disk := &faulty{}
	cfg.FileSystem = disk
	l, stop := running(t, cfg)
	fill(t, l, 3)
	failOnce(disk, "datasync")
	if _, err := l.Append(t.Context(), decided(1, execution.EffectDeny)); err == nil {
		t.Fatal("a record was acknowledged on a disk that failed")
	}
	fill(t, l, 3)
	stop()
	for rec, err := range Read(cfg.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Gap != nil {
			for seq := rec.Gap.FirstVoid; seq <= rec.Gap.LastVoid; seq++ {
				voids = append(voids, seq)
			}
		}
	}
	if len(voids) == 0 {
		t.Fatal("there is no gap")
	}
	return cfg, l.Verifier(), voids
}
