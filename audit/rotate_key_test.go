package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/execgate/execgate/execution"
	"golang.org/x/mod/sumdb/note"
)

func mustRotate(t testing.TB, cfg Config) (old, new string) {
	t.Helper()
	old, new, err := RotateKey(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return old, new
}

// filled appends to the log and returns its key.
func filled(t testing.TB, cfg Config, n int) string {
	t.Helper()
	l, stop := running(t, cfg)
	fill(t, l, n)
	stop()
	return l.Verifier()
}

// Retention does not get between the record of a rotation and its checkpoint: it waits
// for the gateway.
func TestARotationWritesNothingElse(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	grow(t, l, 10)
	stop()
	cfg.MaxBytes, cfg.DropExported, cfg.Heartbeat = 4*minSegmentBytes, true, 1
	before := len(segments(t, cfg))
	old, _ := mustRotate(t, cfg)
	for range 20 {
		mustRotate(t, cfg)
	}
	if after := len(segments(t, cfg)); after != before {
		t.Errorf("%d segments are left of %d", after, before)
	}
	mustVerify(t, cfg, old)
}

// Whoever trusts any key that the log had can check all of it, and every proof.
func TestEachKeyChecksTheWholeLog(t *testing.T) {
	cfg := folders(t)
	keys := []string{filled(t, cfg, 4)}
	early := latest(t, cfg)
	for range 3 {
		old, new := mustRotate(t, cfg)
		if old != keys[len(keys)-1] || old == new {
			t.Fatalf("rotated from %s to %s, the key was %s", old, new, keys[len(keys)-1])
		}
		if got := filled(t, cfg, 3); got != new {
			t.Fatalf("the log signs with %s, want %s", got, new)
		}
		keys = append(keys, new)
	}
	if names, err := filepath.Glob(filepath.Join(cfg.KeyDir, "*.next")); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
	seqOld, seqNew := uint64(2), uint64(20)
	for i, key := range keys {
		report := mustVerify(t, cfg, key)
		if len(report.Keys) != len(keys) || report.Covered != report.TreeSize {
			t.Errorf("key %d: %+v", i, report)
		}
		for j, k := range report.Keys {
			if k.Key != keys[j] || (k.Until == 0) != (j == len(keys)-1) {
				t.Errorf("key %d of the report is %+v", j, k)
			}
		}
		for _, seq := range []uint64{seqOld, seqNew} {
			p := mustProve(t, cfg, key, ProveOptions{Seq: &seq, From: early})
			for _, other := range keys {
				if report := mustCheck(t, proofText(t, p), other); !report.Integrity.OK || report.ExtendsSize != 8 {
					t.Errorf("record %d: %+v", seq, report)
				}
			}
			p.KeyRotations = p.KeyRotations[1:]
			if report := mustCheck(t, proofText(t, p), keys[0]); report.Integrity.OK {
				t.Error("the first key trusted a key that nothing connects it with")
			}
		}
		var out bytes.Buffer
		if _, err := Export(&out, cfg.Dir, key, Range{}); err != nil {
			t.Fatal(err)
		}
		for _, other := range keys {
			if report := checkedExport(t, out.Bytes(), other); !report.Integrity.OK {
				t.Errorf("export: %+v", report.Integrity)
			}
		}
	}
	var rotations []execution.AuditKeyRotation
	for rec, err := range Read(cfg.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Type == execution.RecordAuditKeyRotated {
			rotations = append(rotations, *rec.AuditKey)
		}
	}
	for i, r := range rotations {
		if r.Old != keys[i] || r.New != keys[i+1] {
			t.Errorf("rotation %d is %+v", i, r)
		}
	}
	if len(rotations) != 3 {
		t.Errorf("%d rotations are recorded", len(rotations))
	}
}

// signerOf reads a signing key, as a thief does.
func signerOf(t *testing.T, cfg Config) (logIdentity, func(size uint64, text string, more ...note.Signer) []byte) {
	t.Helper()
	id, err := readIdentity(osFileSystem{}, cfg.KeyDir, keyName, verifierName)
	if err != nil {
		t.Fatal(err)
	}
	return id, func(size uint64, text string, more ...note.Signer) []byte {
		signed, err := note.Sign(&note.Note{Text: checkpointText(id, size, [32]byte{byte(size)}) + text}, append([]note.Signer{id.signer}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
}

// What is forged around a rotation of the key shows, with the file that shows it.
func TestForgedRotationsShow(t *testing.T) {
	put := func(t *testing.T, cfg Config, name string, data []byte) {
		if err := os.WriteFile(filepath.Join(cfg.Dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	thief := func(t *testing.T, cfg Config) (note.Signer, string) {
		_, key, err := RotateKey(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		id, _ := signerOf(t, cfg)
		return id.signer, key
	}
	for _, c := range []struct {
		name string
		// change is given what signs with the key that was replaced.
		change         func(t *testing.T, cfg Config, old logIdentity, sign func(uint64, string, ...note.Signer) []byte)
		where          string
		alsoWhenOpened bool
	}{
		{"a checkpoint by a key that was replaced", func(t *testing.T, cfg Config, _ logIdentity, sign func(uint64, string, ...note.Signer) []byte) {
			put(t, cfg, checkpointName, sign(100, ""))
		}, "had replaced", true},
		{"the rotation removed", func(t *testing.T, cfg Config, _ logIdentity, _ func(uint64, string, ...note.Signer) []byte) {
			if err := os.Remove(filepath.Join(cfg.Dir, rotatedName(9))); err != nil {
				t.Fatal(err)
			}
		}, rotatedName(9), false},
		{"the rotation altered", func(t *testing.T, cfg Config, _ logIdentity, _ func(uint64, string, ...note.Signer) []byte) {
			data, err := os.ReadFile(filepath.Join(cfg.Dir, rotatedName(9)))
			if err != nil {
				t.Fatal(err)
			}
			put(t, cfg, rotatedName(9), bytes.Replace(data, []byte("\n9\n"), []byte("\n8\n"), 1))
		}, rotatedName(9), true},
		{"a second rotation by the old key", func(t *testing.T, cfg Config, old logIdentity, sign func(uint64, string, ...note.Signer) []byte) {
			secret, public, err := note.GenerateKey(rand.Reader, old.origin())
			if err != nil {
				t.Fatal(err)
			}
			signer, err := note.NewSigner(secret)
			if err != nil {
				t.Fatal(err)
			}
			put(t, cfg, rotatedName(90), sign(90, keyRotationPrefix+old.public+" "+public+"\n", signer))
		}, rotatedName(90), true},
		{"a rotation that the new key did not sign", func(t *testing.T, cfg Config, old logIdentity, sign func(uint64, string, ...note.Signer) []byte) {
			_, public, err := note.GenerateKey(rand.Reader, old.origin())
			if err != nil {
				t.Fatal(err)
			}
			put(t, cfg, rotatedName(90), sign(90, keyRotationPrefix+old.public+" "+public+"\n"))
		}, "not signed by both", true},
		{"a rotation by a key of another log", func(t *testing.T, cfg Config, old logIdentity, sign func(uint64, string, ...note.Signer) []byte) {
			other := folders(t)
			filled(t, other, 1)
			signer, public := thief(t, other)
			put(t, cfg, rotatedName(90), sign(90, keyRotationPrefix+old.public+" "+public+"\n", signer))
		}, rotatedName(90), true},
		{"a rotation that no record tells of", func(t *testing.T, cfg Config, _ logIdentity, _ func(uint64, string, ...note.Signer) []byte) {
			id, sign := signerOf(t, cfg)
			secret, public, err := note.GenerateKey(rand.Reader, id.origin())
			if err != nil {
				t.Fatal(err)
			}
			signer, err := note.NewSigner(secret)
			if err != nil {
				t.Fatal(err)
			}
			put(t, cfg, rotatedName(10), sign(10, keyRotationPrefix+id.public+" "+public+"\n", signer))
		}, rotatedName(10), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := folders(t)
			filled(t, cfg, 4)
			old, sign := signerOf(t, cfg)
			_, new := mustRotate(t, cfg)
			filled(t, cfg, 3)
			mustVerify(t, cfg, old.public)
			c.change(t, cfg, old, sign)
			for _, trusted := range []string{old.public, new} {
				report, err := Verify(cfg.Dir, trusted)
				if err != nil {
					t.Fatal(err)
				}
				findings := fmt.Sprint(report.Integrity.Findings, report.Completeness.Findings)
				if report.Integrity.OK && report.Completeness.OK || !strings.Contains(findings, c.where) {
					t.Errorf("with %s: %s", trusted, findings)
				}
			}
			if l, err := New(cfg); (err != nil) != c.alsoWhenOpened {
				t.Errorf("opened: %v", err)
			} else if err == nil {
				l.Close()
			}
		})
	}
}

// Wherever a rotation breaks off, the next start finishes it or it has not
// happened, and both keys check the log.
func TestRotationBreaksOffAnywhere(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 5
	}
	for at := 1; ; at += step {
		cfg := folders(t)
		first := filled(t, cfg, 2)
		disk := &faulty{plan: func(_ string, n int) fault1 {
			if n >= at { // as if the process had died
				return fault1{err: syscall.EIO}
			}
			return fault1{}
		}}
		broken := cfg
		broken.FileSystem = disk
		_, _, err := RotateKey(t.Context(), broken)
		if disk.set(nil) == 0 {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		key := filled(t, cfg, 2)
		report := mustVerify(t, cfg, key)
		if key == first && len(report.Keys) != 1 || key != first && len(report.Keys) != 2 {
			t.Fatalf("at call %d: the key is %s and was %s: %+v", at, key, first, report.Keys)
		}
		mustVerify(t, cfg, first)
		if _, new := mustRotate(t, cfg); new == key {
			t.Fatalf("at call %d: the key stayed", at)
		}
		mustVerify(t, cfg, first)
	}
}

// A state folder from before a rotation is refused by what a witness has, also where
// it has only what the new key signed; and a copy of the log that lacks the rotation
// is checked with the old key where the witness has it.
func TestWitnessKnowsOfARotation(t *testing.T) {
	cfg, k := folders(t), &keeper{}
	cfg.Witnesses = []Witness{k}
	old := filled(t, cfg, 2)
	early := t.TempDir()
	if err := os.CopyFS(early, os.DirFS(filepath.Dir(cfg.Dir))); err != nil {
		t.Fatal(err)
	}
	mustRotate(t, cfg)
	new := filled(t, cfg, 2)
	path := filepath.Join(t.TempDir(), "witness")
	if err := os.WriteFile(path, k.kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(cfg.Dir, rotatedName(5))); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{old, new} {
		report, err := Verify(cfg.Dir, key, path)
		if err != nil || !report.Integrity.OK || !report.Completeness.OK || len(report.Keys) != 2 {
			t.Errorf("with the witness's rotation: %+v %v", report, err)
		}
	}

	whole := bytes.Clone(k.kept)
	newest := whole[bytes.LastIndex(whole, []byte("\nexecgate/audit/")):]
	for _, c := range []struct {
		kept []byte
		want string
	}{
		{whole, "has its checkpoint of 9 records"},
		{newest, "by a key that is not known here"},
	} {
		k.kept = c.kept
		if err := errors.Join(os.RemoveAll(filepath.Dir(cfg.Dir)), os.CopyFS(filepath.Dir(cfg.Dir), os.DirFS(early)), os.Chmod(filepath.Join(cfg.KeyDir, keyName), 0o600)); err != nil {
			t.Fatal(err)
		}
		if l, err := New(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			if err == nil {
				l.Close()
			}
			t.Errorf("opened: %v", err)
		}
	}
	k.kept = nil
	filled(t, cfg, 1)
}

// The key that was replaced does not open the log, and no key is made for one that
// has none.
func TestRotationNeedsTheRightKey(t *testing.T) {
	cfg := folders(t)
	filled(t, cfg, 2)
	kept := filepath.Join(t.TempDir(), "keys")
	if err := os.CopyFS(kept, os.DirFS(cfg.KeyDir)); err != nil {
		t.Fatal(err)
	}
	mustRotate(t, cfg)
	if err := errors.Join(os.RemoveAll(cfg.KeyDir), os.CopyFS(cfg.KeyDir, os.DirFS(kept)), os.Chmod(filepath.Join(cfg.KeyDir, keyName), 0o600)); err != nil {
		t.Fatal(err)
	}
	if l, err := New(cfg); err == nil || !strings.Contains(err.Error(), "rotated at 5 records") {
		if err == nil {
			l.Close()
		}
		t.Errorf("the old key: %v", err)
	}
	if _, _, err := RotateKey(t.Context(), folders(t)); err == nil || !strings.Contains(err.Error(), "none yet") {
		t.Errorf("no log: %v", err)
	}
	cfg = folders(t)
	l, stop := running(t, cfg)
	if _, _, err := RotateKey(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "another gateway") {
		t.Errorf("a log in use: %v", err)
	}
	fill(t, l, 1)
	stop()
}
