package audit

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Witness keeps signed checkpoints where whoever can change the log cannot change
// them. It may be slow, or not there: that delays nothing else.
type Witness interface {
	// Name is short and the same for the life of the process.
	Name() string
	// Keep returns nil once the checkpoint is kept.
	Keep(ctx context.Context, checkpoint []byte) error
	// Kept returns checkpoints that are kept, one after another, the latest among
	// them; none where there are none.
	Kept(ctx context.Context) ([]byte, error)
}

// WitnessState is how one witness does.
type WitnessState struct {
	Name     string
	Size     uint64 // of the last checkpoint that it kept since the log was opened
	Failures uint64 // times that it did not
	Err      error  // why not, the last time; nil where it did
}

const (
	// witnessPace is the least time between two checkpoints to one witness.
	witnessPace = time.Second
	// witnessTimeout bounds one attempt, and maxWitnessPause the time between two
	// that fail.
	witnessTimeout  = 10 * time.Second
	maxWitnessPause = time.Minute
	// lastWitnessing bounds what the stop of a log waits for its witnesses.
	lastWitnessing = 5 * time.Second
)

// signedCheckpoint is a checkpoint as it is handed to witnesses.
type signedCheckpoint struct {
	size uint64
	text []byte
}

// courier takes the newest checkpoint to one witness. Those that it has no time
// for are passed over: the next one covers what they did.
type courier struct {
	log     *Log
	witness Witness
	newest  *atomic.Pointer[signedCheckpoint]
	due     chan struct{}

	mu    sync.Mutex
	state WitnessState
	took  *signedCheckpoint // the last that was kept

	// hanging is where the answer comes to an attempt that was given up; nil where
	// there is none. It belongs to run.
	hanging chan error
}

// run takes checkpoints until ctx ends, and then the newest once more.
func (c *courier) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-c.due:
		case <-ctx.Done():
		}
		for pause := witnessPace; ctx.Err() == nil; {
			err := c.take(ctx, witnessTimeout)
			wait := time.NewTimer(pause)
			select {
			case <-wait.C:
			case <-ctx.Done():
			}
			wait.Stop()
			if err == nil {
				break
			}
			pause = min(2*pause, maxWitnessPause)
		}
	}
	_ = c.take(context.WithoutCancel(ctx), lastWitnessing) // is in the state, and the next start makes up for it
}

// take hands over the newest checkpoint, if the witness does not have it.
func (c *courier) take(ctx context.Context, timeout time.Duration) error {
	newest := c.newest.Load()
	if newest == nil || newest == c.took {
		return nil
	}
	err := c.keep(ctx, newest.text, timeout)
	if err != nil && ctx.Err() != nil {
		return err // the log stops, and tries once more
	}
	c.mu.Lock()
	failed := c.state.Err != nil
	c.state.Err = err
	if err != nil {
		c.state.Failures++
	} else {
		c.state.Size, c.took = newest.size, newest
	}
	c.mu.Unlock()
	if logger := c.log.cfg.Logger; err != nil && !failed {
		logger.Warn("audit log witness does not keep checkpoints, it is tried again", "witness", c.witness.Name(), "error", err)
	} else if err == nil && failed {
		logger.Info("audit log witness keeps checkpoints again", "witness", c.witness.Name(), "records", newest.size)
	}
	return err
}

// keep has the witness keep a checkpoint, and waits no longer than timeout, also for
// one that ignores its context, as a file on a mount that is gone. Such an attempt
// goes on by itself, and no other is begun before it ends.
func (c *courier) keep(ctx context.Context, text []byte, timeout time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if c.hanging != nil {
		select {
		case <-c.hanging:
		case <-bounded.Done():
			return fmt.Errorf("it does not answer: %w", bounded.Err())
		}
	}
	c.hanging = make(chan error, 1)
	go func(answer chan<- error) { answer <- c.witness.Keep(bounded, text) }(c.hanging)
	select {
	case err := <-c.hanging:
		c.hanging = nil
		return err
	case <-bounded.Done():
		return fmt.Errorf("it does not answer: %w", bounded.Err())
	}
}

// Witnesses returns how the witnesses do.
func (l *Log) Witnesses() []WitnessState {
	var states []WitnessState
	for _, c := range l.couriers {
		c.mu.Lock()
		states = append(states, c.state)
		c.mu.Unlock()
	}
	return states
}

// startCouriers lets every witness be told of checkpoints. The function that it
// returns ends that: it waits for the newest checkpoint to be kept, but not for a
// witness that hangs.
func (l *Log) startCouriers() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, c := range l.couriers {
		wake(c.due) // what was there at the start may not be kept yet
		all.Go(func() { c.run(ctx) })
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// newCheckpoint tells the couriers of a checkpoint.
func (l *Log) newCheckpoint(size uint64, signed []byte) {
	l.newest.Store(&signedCheckpoint{size, signed})
	for _, c := range l.couriers {
		wake(c.due)
	}
}

// keptCheckpoint is one of the checkpoints that a witness keeps.
type keptCheckpoint struct {
	origin string
	text   []byte
	line   int   // where it begins, from 1
	offset int64 // bytes
	// whole is not set where what follows shows that its write broke off.
	whole bool
}

// readKept calls visit with each checkpoint of r, in order: one begins with the
// line that names its log. Lines before the first are passed over.
func readKept(r io.Reader, visit func(keptCheckpoint) error) error {
	lines := bufio.NewReaderSize(r, maxCheckpointBytes)
	var now *keptCheckpoint
	line, offset := 0, int64(0)
	end := func(last bool) error {
		if now == nil {
			return nil
		}
		now.whole = bytes.HasSuffix(now.text, []byte("\n\n")) || last && bytes.HasSuffix(now.text, []byte("\n"))
		now.text = append(bytes.TrimRight(now.text, "\n"), '\n')
		return visit(*now)
	}
	for {
		text, err := lines.ReadSlice('\n')
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return fmt.Errorf("read the checkpoints: %w", err)
		}
		line++
		origin := strings.TrimSuffix(string(text), "\n")
		if _, parseErr := parseOrigin(origin); parseErr == nil && len(origin) < len(text) {
			if err := end(false); err != nil {
				return err
			}
			now = &keptCheckpoint{origin: origin, line: line, offset: offset}
		}
		if now != nil && len(now.text)+len(text) <= maxCheckpointBytes {
			now.text = append(now.text, text...)
		}
		offset += int64(len(text))
		if err == io.EOF {
			return end(true)
		}
	}
}
