package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
)

// queueLength bounds the records that wait for the writer. Further callers wait
// for a place, within their budget.
const queueLength = 4096

// Log is an open audit log. New makes one, Run drives it, and Append is then
// safe for concurrent use.
type Log struct {
	cfg     Config
	id      logIdentity
	lock    io.Closer
	queue   chan *entry
	stopped chan struct{} // closed when the writer has written its last
	unended []Open
	// recorded is the number from which retention leaves the log, as its records
	// have it. It belongs to New, and then to who provisions.
	recorded uint64
	waiting  waiting

	writer *writer
	proof  *checkpointer
	// newest is the latest checkpoint, which couriers take to the witnesses.
	newest   atomic.Pointer[signedCheckpoint]
	couriers []*courier
	space    *space
	watch    *watch
	health   health

	running atomic.Bool
	once    sync.Once // closes what New opened
}

// New opens the log in cfg.Dir, making it where there is none, and repairs what
// a crash may leave behind: a torn last batch, which was never acknowledged, is
// cut. It reads the headers of all segments, and of the records the last of them
// (Config.StartBytes), from a segment on that begins before the latest checkpoint;
// damage further back shows to Verify. It starts nothing: Run does, once; a log
// that is not run is closed with Close.
//
// Where records that were acknowledged are damaged or gone it changes nothing
// and returns an error that names file and offset and says what to do.
func New(cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.Dir, cfg.KeyDir} {
		if err := cfg.FileSystem.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the audit log's folder: %w", err)
		}
	}
	lock, err := cfg.FileSystem.Lock(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("lock the audit log, is another gateway using it?: %w", err)
	}
	l := &Log{
		cfg: cfg, lock: lock,
		queue:   make(chan *entry, queueLength),
		stopped: make(chan struct{}),
		watch:   &watch{fsys: cfg.FileSystem, dir: cfg.Dir},
	}
	l.space = &space{
		fsys: cfg.FileSystem, dir: cfg.Dir, size: cfg.SegmentBytes,
		max: cfg.MaxBytes, used: func() int64 { return l.watch.held().Bytes },
	}
	l.health.origin = time.Now()
	l.writer = newWriter(l)
	l.writer.opened, l.writer.written = l.health.origin, l.health.origin
	l.proof = &checkpointer{log: l, due: make(chan struct{}, 1)}
	for _, w := range cfg.Witnesses {
		l.couriers = append(l.couriers, &courier{
			log: l, witness: w, newest: &l.newest, due: make(chan struct{}, 1), state: WitnessState{Name: w.Name()},
		})
	}
	if err := l.recover(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close gives up a log that was never run. After Run it does nothing.
func (l *Log) Close() error {
	if l.running.Load() {
		return nil
	}
	return l.close()
}

func (l *Log) close() (err error) {
	l.once.Do(func() {
		l.space.close()
		if l.writer.file != nil {
			err = l.writer.file.Close()
		}
		err = errors.Join(err, l.lock.Close())
	})
	return err
}

// Run writes what is appended, and checkpoints, until ctx ends; it then writes
// what waits and a final checkpoint, hands that to the witnesses, for which it
// waits some seconds at most, and closes the log. A fault of the disk
// does not end it: it is logged, Ready and Append tell of it, and Run goes on
// trying. The error is of closing, or that the final checkpoint could not be
// written. Run may be called once.
func (l *Log) Run(ctx context.Context) error {
	if !l.running.CompareAndSwap(false, true) {
		return errors.New("run the audit log: it was run before")
	}
	var all sync.WaitGroup
	written, finish := context.WithCancel(context.WithoutCancel(ctx))
	all.Go(func() { l.provision(written) })
	all.Go(func() { l.proof.run(written) })
	stopCouriers := l.startCouriers()
	l.writer.run(ctx)
	finish()
	all.Wait()
	err := l.proof.write(true)
	stopCouriers()
	return errors.Join(err, l.close())
}

// provision keeps the spare segment there, and segments only as long as they are
// to be kept.
func (l *Log) provision(ctx context.Context) {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		l.retain(ctx)
		had := l.space.ready.Load()
		err := l.space.ensure()
		if l.health.noteSpace(err) && err != nil {
			l.cfg.Logger.Warn("audit log cannot allocate its next segment", "error", err)
		}
		if had != l.space.ready.Load() {
			wake(l.writer.spaceChanged)
		}
		select {
		case <-l.writer.spareTaken:
		case <-again.C:
		case <-ctx.Done():
			return
		}
	}
}

// wake sends without waiting, on a channel that holds one.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Append gives rec a number, writes it, and returns once it survives a power
// loss. It sets rec's Seq, and its Time where that is zero.
//
// An *execution.Error of KindUnavailable and Code "audit_unavailable" says that
// the record is not known to be durable: the disk failed or is full, ctx ended,
// or the Budget ran out. The record may be in the log all the same; a decision
// that is there although its caller was refused is ended by the log itself. A
// record that cannot be encoded is of KindInternal, and one that is too large
// of KindTooLarge.
func (l *Log) Append(ctx context.Context, rec execution.Record) (seq uint64, err error) {
	e, err := newEntry(rec)
	if err != nil {
		return 0, &execution.Error{Kind: execution.KindInternal, Code: "audit_record_invalid", Detail: "the audit record is invalid", Err: err}
	}
	return l.append(ctx, e)
}

// AppendLater gives rec to the log without waiting for the disk. It is written with
// the next record that somebody waits for, or after healInterval: what is appended
// after AppendLater has returned comes after it, in the same batch where that is the
// next. It is refused where Append's would be. lost is then told, once, with an error
// as of Append: by the writer, which it must not hold up, or before AppendLater
// returns. After a crash the record may be missing.
func (l *Log) AppendLater(rec execution.Record, lost func(error)) {
	e, err := newEntry(rec)
	switch {
	case err != nil:
		lost(fmt.Errorf("encode a record: %w", err))
		return
	case e.typ != frameRecord:
		lost(fmt.Errorf("a record of the type %s has to be waited for", rec.Type))
		return
	case e.bytes() > l.cfg.maxRecordBytes():
		lost(fmt.Errorf("a record of the type %s needs %d bytes and may have %d", rec.Type, e.bytes(), l.cfg.maxRecordBytes()))
		return
	}
	e.lost = lost
	select {
	case <-l.stopped:
		lost(unavailable(errStopped))
		return
	default:
	}
	select {
	case l.queue <- e:
	default: // the writer is far behind
		lost(unavailable(errBehind))
	}
}

// append writes e as Append does.
func (l *Log) append(ctx context.Context, e *entry) (seq uint64, err error) {
	e.reserve = min(e.reserve, l.cfg.maxReserveBytes())
	if e.bytes() > l.cfg.maxRecordBytes() {
		return 0, &execution.Error{
			Kind: execution.KindTooLarge, Code: "audit_record_too_large",
			Detail: fmt.Sprintf("the audit record needs %d bytes and may have %d: ask for less in one request", e.bytes(), l.cfg.maxRecordBytes()),
		}
	}
	budget := time.NewTimer(l.cfg.Budget)
	defer budget.Stop()
	select {
	case l.queue <- e:
		select {
		case <-e.done:
			return e.seq, e.err
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-budget.C:
			err = errBudget
		case <-l.stopped:
			err = errStopped
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-budget.C:
		err = errBudget
	case <-l.stopped:
		err = errStopped
	}
	if e.state.CompareAndSwap(entryWaiting, entryAbandoned) {
		return 0, unavailable(err)
	}
	// The writer was faster.
	<-e.done
	return e.seq, e.err
}

// Ready returns nil if an Append of a decision can be expected to succeed, and
// an *execution.Error of KindUnavailable that says why not.
func (l *Log) Ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return unavailable(err)
	}
	select {
	case <-l.stopped:
		return unavailable(errStopped)
	default:
	}
	if !l.running.Load() {
		return unavailable(errors.New("the log does not run yet"))
	}
	return l.health.ready(l.cfg.Budget)
}

// Unended returns the executions that were open when the log was opened, in the
// order of their decisions: what they came to is unknown, and the gateway ends
// them as such.
func (l *Log) Unended() []Open { return slices.Clone(l.unended) }

// Verifier returns the public key that Verify checks the log with: the text of
// KeyDir/audit.pub.
func (l *Log) Verifier() string { return l.id.public }
