package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Revisions name what decided: "sha256:" and 64 hex digits each, empty where
// there was none.
type Revisions struct {
	Organisation string // the organisation's policy and data
	Own          string // the tenant's own policy
	Terms        string // what the operator's configuration adds
}

// Input is one decision: exactly what policy was asked, and what it answered.
type Input struct {
	Execution string // id of the execution, or of the session
	Seq       uint64 // of the decision's record
	Tenant    string
	Subject   string // who asked; empty where it is not known any more
	Time      time.Time
	Revisions Revisions
	Asked     []byte // JSON; callers' data
	Answered  []byte // JSON
	// Documents are what Revisions name. Each is kept once, together with the
	// first input that names it, and for as long as one does.
	Documents []Document
}

// The kinds of a Document.
const (
	DocumentBundle = "bundle"
	DocumentTerms  = "terms"
)

// Document is something that a decision can only be replayed with.
type Document struct {
	Kind    string
	Digest  string // as Revisions name it
	Tenant  string // whose it is; empty for the organisation's
	Content []byte
}

// The reasons why a decision cannot be replayed that are counted and not kept.
const (
	LostOverflow = "overflow" // more were decided than could be written
	LostFailed   = "failed"   // the database could not be written
	LostRoom     = "room"     // given up to stay within MaxBytes
)

// Bounds of what waits to be written, and of one transaction.
const (
	inputsWaiting      = 4096
	inputsWaitingBytes = 64 << 20
	inputsBatch        = 256
)

// inputsSweep is how often what is too old is forgotten.
const inputsSweep = time.Minute

// InputsConfig is where inputs are kept, and for how long.
type InputsConfig struct {
	// Store should be a database of its own, so that nobody waits for its writer.
	Store   *Store
	KeyFile string // of the key over all keys; made where there is none
	// Retain is how long an input is kept; zero: 30 days.
	Retain time.Duration
	// MaxBytes bounds what the inputs take up; zero: 1 GiB. Past it the oldest of
	// the tenant that holds most are given up.
	MaxBytes int64
	// WriteTimeout bounds one transaction; zero: 10 s.
	WriteTimeout time.Duration
	Logger       *slog.Logger // nothing is logged where it is nil
}

// Inputs keeps what policy was asked, encrypted: each input under a key of its
// own, that under its tenant's, that under the one in the key file. Whatever's key
// is deleted is erased. It is safe for concurrent use.
type Inputs struct {
	*InputsReader
	retain   time.Duration
	maxBytes int64
	within   time.Duration // one transaction
	log      *slog.Logger

	waiting      chan Input
	waitingBytes atomic.Int64
	due          chan struct{} // holds one where something waits that Run was not told of
	kept         atomic.Uint64

	writing  chan struct{}   // holds one where somebody writes to the database, see lock
	known    map[string]bool // documents that are there for sure; guarded by writing
	erasures []erasure       // the latest; guarded by writing

	mu     sync.Mutex
	lost   map[string]uint64 // since the start, by reason
	untold map[string]uint64 // those of them that the database does not know of yet
}

// NewInputs reads the key, or makes it. It starts nothing.
func NewInputs(config InputsConfig) (*Inputs, error) {
	if config.Store == nil || config.KeyFile == "" || min(config.Retain, config.WriteTimeout) < 0 || config.MaxBytes < 0 {
		return nil, errors.New("inputs: no store, no file for the key, or a negative bound")
	}
	if config.Retain == 0 {
		config.Retain = 30 * 24 * time.Hour
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = 1 << 30
	}
	if config.WriteTimeout == 0 {
		config.WriteTimeout = 10 * time.Second
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	keys, err := openInputKeys(config.KeyFile, true)
	if err != nil {
		return nil, err
	}
	return &Inputs{
		InputsReader: &InputsReader{store: config.Store, keys: keys},
		retain:       config.Retain, maxBytes: config.MaxBytes, within: config.WriteTimeout, log: config.Logger,
		waiting: make(chan Input, inputsWaiting), due: make(chan struct{}, 1), writing: make(chan struct{}, 1), known: map[string]bool{},
		lost: map[string]uint64{}, untold: map[string]uint64{},
	}, nil
}

// Keep has the input written soon, and returns at once. Where too much waits
// already it is not kept, and counted. What in refers to must not be changed.
func (s *Inputs) Keep(in Input) {
	size := int64(len(in.Asked) + len(in.Answered))
	if s.waitingBytes.Add(size) <= inputsWaitingBytes {
		select {
		case s.waiting <- in:
			s.tell()
			return
		default:
		}
	}
	s.waitingBytes.Add(-size)
	s.lose(LostOverflow, 1)
}

// tell has Run write what waits. It does not wait.
func (s *Inputs) tell() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// InputCounts are counts since the start.
type InputCounts struct {
	Kept    uint64
	Lost    map[string]uint64 // by reason
	Waiting int
}

// Counts returns how many inputs were kept and lost.
func (s *Inputs) Counts() InputCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return InputCounts{Kept: s.kept.Load(), Lost: maps.Clone(s.lost), Waiting: len(s.waiting)}
}

func (s *Inputs) lose(why string, n uint64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[why] += n
	s.untold[why] += n
}

// Run writes what Keep was given, and forgets what is too old or too much, until
// ctx ends. It returns when nothing waits any more.
func (s *Inputs) Run(ctx context.Context) error {
	sweep := time.NewTicker(inputsSweep)
	defer sweep.Stop()
	for {
		select {
		case <-s.due:
			s.writeBatch(context.WithoutCancel(ctx))
		case <-sweep.C:
			if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "recorded inputs could not be swept", "error", err)
			}
		case <-ctx.Done():
			return s.Flush(context.WithoutCancel(ctx)) // nobody decides any more
		}
	}
}

// Flush writes what waits.
func (s *Inputs) Flush(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return fmt.Errorf("keep inputs: %w", err)
	}
	defer s.unlock()
	return s.flush(ctx)
}

// lock waits until nobody else writes, or ctx ends.
func (s *Inputs) lock(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Inputs) unlock() { <-s.writing }

func (s *Inputs) flush(ctx context.Context) error {
	for left := len(s.waiting); left > 0; left -= inputsBatch {
		if err := s.write(ctx, s.take()); err != nil {
			return fmt.Errorf("keep inputs: %w", err)
		}
	}
	return nil
}

// take takes what waits, up to a batch. The caller holds s.writing: what was taken and
// is not written yet would be seen by nobody, and missing from what an erasure counts.
func (s *Inputs) take() (batch []Input) {
	for len(batch) < inputsBatch {
		select {
		case in := <-s.waiting:
			batch = append(batch, in)
		default:
			return batch
		}
	}
	return batch
}
