package audit

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	checkpointInterval = time.Second
	checkpointRecords  = 1000
)

// checkpointer signs the tree beside the writer, never in its way: it takes a
// snapshot, and signs and writes on its own.
type checkpointer struct {
	log *Log
	due chan struct{}

	signed     atomic.Uint64 // size of the last checkpoint
	remembered atomic.Uint64 // size of the one in KeyDir
	// wanted is set where retention waits for both checkpoints.
	wanted atomic.Bool
	// The rest belongs to run, and before and after it to New and Run.
	exists bool // there is a checkpoint
	sealed uint64
	kept   bool // KeyDir has a checkpoint
}

// grown tells that the log has size numbers. It does not wait.
func (c *checkpointer) grown(size uint64) {
	if size-c.signed.Load() >= checkpointRecords {
		wake(c.due)
	}
}

// want has both checkpoints written soon.
func (c *checkpointer) want() {
	c.wanted.Store(true)
	wake(c.due)
}

// run writes checkpoints until ctx ends.
func (c *checkpointer) run(ctx context.Context) {
	tick := time.NewTicker(checkpointInterval)
	defer tick.Stop()
	for {
		second := false
		select {
		case <-c.due:
		case <-tick.C:
			second = true
			if err := c.log.watch.all(); err != nil {
				c.log.noteGone(err)
			}
		case <-ctx.Done():
			return
		}
		wanted := c.wanted.Swap(false)
		// An error is in health, and logged when it begins.
		_ = c.write(second || wanted)
		if wanted {
			wake(c.log.writer.spareTaken)
		}
	}
}

// write writes a checkpoint of what is durable now, if there is something new.
// The copy in KeyDir is written if remember is set: once a second is enough for
// noticing that the log's folder was rolled back while the gateway was down.
func (c *checkpointer) write(remember bool) error {
	err := c.writeFiles(remember)
	if c.log.health.noteCheckpoint(err) {
		if err != nil {
			c.log.cfg.Logger.Warn("audit log checkpoint not written", "error", err)
		} else {
			c.log.cfg.Logger.Info("audit log checkpoint written again")
		}
	}
	return err
}

func (c *checkpointer) writeFiles(remember bool) error {
	if err := c.log.health.goneError(); err != nil {
		// What is signed now could cover records that no reader finds.
		return fmt.Errorf("write a checkpoint: %w", err)
	}
	t, sealed := c.log.writer.tip.snapshot()
	size := t.size
	stale := !c.exists || size != c.signed.Load() || sealed != c.sealed
	forgotten := remember && (!c.kept || size != c.remembered.Load())
	if !stale && !forgotten {
		return nil
	}
	signed, err := signCheckpoint(c.log.id, size, t.root())
	if err != nil {
		return err
	}
	fsys, dir := c.log.cfg.FileSystem, c.log.cfg.Dir
	if stale {
		if err := replaceFile(fsys, dir, checkpointName, signed, 0o600); err != nil {
			return err
		}
		c.exists = true
		c.signed.Store(size)
		c.log.newCheckpoint(size, signed)
		if sealed != c.sealed {
			if err := replaceFile(fsys, dir, sealedCheckpointName(sealed), signed, 0o600); err != nil {
				return err
			}
			c.sealed = sealed
		}
	}
	if forgotten {
		if err := replaceFile(fsys, c.log.cfg.KeyDir, rememberedName, signed, 0o600); err != nil {
			return err
		}
		c.kept = true
		c.remembered.Store(size)
	}
	return nil
}

// adopt takes over the checkpoints that were found when the log was opened.
func (c *checkpointer) adopt(dir, keyDir *foundCheckpoint) {
	c.sealed = c.log.writer.tip.sealed
	if dir != nil {
		c.exists = true
		c.signed.Store(dir.size)
		c.log.newCheckpoint(dir.size, dir.signed)
	}
	if keyDir != nil {
		c.kept = true
		c.remembered.Store(keyDir.size)
	}
}
