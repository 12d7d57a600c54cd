package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"github.com/execgate/execgate/execution"
	"golang.org/x/mod/sumdb/note"
)

// rotatedName returns the name of the checkpoint of size records by which the log's
// key was rotated. It is kept as long as the log.
func rotatedName(size uint64) string {
	return "rotated-" + strconv.FormatUint(size, 10) + checkpointSuffix
}

// RotateKey gives the log a new signing key: the log must not be in use. It returns
// the old and the new public key. A record says so, and a checkpoint that both keys
// sign ends with it; the old key is then gone. Where it fails or breaks off, the
// next New finishes it, or nothing has happened.
func RotateKey(ctx context.Context, cfg Config) (old, new string, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return "", "", err
	}
	// The record of the rotation must be the log's last: nothing else is written.
	cfg.RetainAge, cfg.DropExported, cfg.Heartbeat = 0, false, 0
	if _, err := cfg.FileSystem.Identify(filepath.Join(cfg.KeyDir, keyName)); err != nil {
		return "", "", fmt.Errorf("rotate the audit log's key: there is none yet: %w", err)
	}
	l, err := New(cfg)
	if err != nil {
		return "", "", err
	}
	old = l.Verifier()
	next, err := makeKey(cfg.FileSystem, cfg.KeyDir, l.id.origin(), nextKeyName, nextVerifierName)
	if err != nil {
		return "", "", errors.Join(fmt.Errorf("rotate the audit log's key: %w", err), l.Close())
	}
	err = l.during(ctx, func() error {
		_, err := l.Append(ctx, execution.Record{
			Type: execution.RecordAuditKeyRotated, AuditKey: &execution.AuditKeyRotation{Old: old, New: next.public},
		})
		return err
	})
	if err != nil {
		return "", "", fmt.Errorf("rotate the audit log's key: %w", err)
	}
	if l, err = New(cfg); err != nil {
		return "", "", err
	}
	// Running it takes the checkpoint to the witnesses.
	if err := l.during(ctx, func() error { return nil }); err != nil {
		return "", "", err
	}
	if l.Verifier() != next.public {
		return "", "", errors.New("rotate the audit log's key: it was not durable, try again")
	}
	return old, next.public, nil
}

// during runs the log while do works.
func (l *Log) during(ctx context.Context, do func() error) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(running) }()
	err := do()
	stop()
	return errors.Join(err, <-ended)
}

// finishRotation completes a rotation of the key whose record is the last of the
// log, and forgets one that did not come so far.
func (r *recovery) finishRotation() error {
	l := r.log
	fsys, dir, keyDir := l.cfg.FileSystem, l.cfg.Dir, l.cfg.KeyDir
	if _, err := fsys.Identify(filepath.Join(keyDir, nextKeyName)); errors.Is(err, fs.ErrNotExist) {
		return r.currentKey()
	} else if err != nil {
		return fmt.Errorf("look for the audit log's next key: %w", err)
	}
	last, err := r.lastRecord()
	if err != nil {
		return err
	}
	next, err := readIdentity(fsys, keyDir, nextKeyName, nextVerifierName)
	if last.AuditKey == nil || err == nil && *last.AuditKey != (execution.AuditKeyRotation{Old: l.id.public, New: next.public}) {
		if err := r.currentKey(); err != nil {
			return err
		}
		return errors.Join(fsys.Remove(filepath.Join(keyDir, nextKeyName)), fsys.Remove(filepath.Join(keyDir, nextVerifierName)))
	}
	if err != nil {
		return fmt.Errorf("finish the rotation of the audit log's key: %w", err)
	}
	t := l.writer.tip.tree
	text := checkpointText(l.id, t.size, t.root()) + keyRotationPrefix + l.id.public + " " + next.public + "\n"
	signed, err := note.Sign(&note.Note{Text: text}, l.id.signer, next.signer)
	if err != nil {
		return fmt.Errorf("sign the rotation of the audit log's key: %w", err)
	}
	// Both keys open these, so that it does not matter where this breaks off.
	for _, file := range []struct{ dir, name string }{{dir, rotatedName(t.size)}, {dir, checkpointName}, {keyDir, rememberedName}} {
		if err := replaceFile(fsys, file.dir, file.name, signed, 0o600); err != nil {
			return err
		}
	}
	// From here on the old key is gone. See loadIdentity for what is in between.
	for _, move := range [][2]string{{nextKeyName, keyName}, {nextVerifierName, verifierName}} {
		if err := moveFile(fsys, keyDir, move[0], move[1]); err != nil {
			return fmt.Errorf("finish the rotation of the audit log's key: %w", err)
		}
	}
	stated := signedTree{size: t.size, root: t.root()}
	r.dir, r.keyDir = &foundCheckpoint{stated, signed}, &foundCheckpoint{stated, signed}
	l.id = next
	l.cfg.Logger.Info("audit log key rotated", "records", t.size)
	return nil
}

// currentKey refuses a key that the log had replaced: what it signs does not count.
func (r *recovery) currentKey() error {
	if key := r.ring.find(r.log.id.public); key.next != "" {
		return fmt.Errorf("open the audit log: %s is not the log's key any more, it was rotated at %d records: restore the newer one",
			filepath.Join(r.log.cfg.KeyDir, keyName), key.until)
	}
	return nil
}

// lastRecord returns the last record of the log, or an empty one where there is none
// in the last segment.
func (r *recovery) lastRecord() (rec execution.Record, err error) {
	if r.end == r.lastBatch {
		return rec, nil
	}
	b, err := newSegmentReader(r.log.writer.file, r.lastBatch, r.end).next()
	if err != nil {
		return rec, fmt.Errorf("read the last record of the audit log: %w", err)
	}
	return recordOf(b.frames[len(b.frames)-1])
}
