package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// Log is the log whose records are delivered.
type Log interface {
	// Follow yields the durable records from number from on, in order and a batch at a
	// time, and then waits for further ones until ctx ends; where from is gone it begins
	// with the oldest that is there. It yields one error at most, as the last.
	Follow(ctx context.Context, from uint64) iter.Seq2[[]execution.Record, error]
	// Progress returns how many records are durable.
	Progress() (durable, signed uint64)
}

// Config says what is delivered where. Log, LogID and, where there are sinks, Dir are
// required.
type Config struct {
	Log   Log
	LogID string // the log's own name, which no other log has
	// Dir is the folder of the cursors, STATE/export. It is made with mode 0700.
	Dir   string
	Sinks []Sink
	// Version is that of this program, for the formats that name it.
	Version string
	Logger  *slog.Logger // nil discards
	Stdout  io.Writer    // what a sink with the path "-" writes to; nil: the process's own

	pace pace // tests set it
}

// pace is how long things take. Each zero is filled in.
type pace struct {
	first   time.Duration // before the second attempt; doubled before each further one
	most    time.Duration // between two attempts
	slow    time.Duration // where the receiver refuses: before another attempt
	attempt time.Duration // one attempt to deliver
	save    time.Duration // between two writes of a cursor
	drain   time.Duration // at a stop: to deliver what is left
	settle  time.Duration // of syslog: until what was sent is taken for read
}

func (p pace) withDefaults() pace {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&p.first, 500 * time.Millisecond}, {&p.most, time.Minute}, {&p.slow, 5 * time.Minute}, {&p.attempt, 30 * time.Second},
		{&p.save, 250 * time.Millisecond}, {&p.drain, 2 * time.Second}, {&p.settle, 10 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return p
}

// Exporters are all exporters of a gateway. A nil *Exporters has none.
type Exporters struct {
	cfg     Config
	workers []*worker
}

// New checks everything, reads the cursors and starts nothing. What an exporter's cursor
// says that an operator should know is logged.
func New(cfg Config) (*Exporters, error) {
	if cfg.Log == nil || cfg.LogID == "" {
		return nil, errors.New("configure exporters: Log and LogID are required")
	}
	if err := faultsOf(cfg.Sinks); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.pace = cfg.pace.withDefaults()
	e := &Exporters{cfg: cfg}
	e.warnOfOrphans()
	if len(cfg.Sinks) == 0 {
		return e, nil
	}
	if cfg.Dir == "" {
		return nil, errors.New("configure exporters: Dir is required")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the cursors: %w", err)
	}
	for _, s := range cfg.Sinks {
		w, err := newWorker(cfg, s)
		if err != nil {
			e.close()
			return nil, fmt.Errorf("exporter %s: %w", s.Name, err)
		}
		e.workers = append(e.workers, w)
	}
	return e, nil
}

// warnOfOrphans says which cursors are of no exporter, such as after a change of a name.
func (e *Exporters) warnOfOrphans() {
	entries, err := os.ReadDir(e.cfg.Dir)
	if err != nil {
		return // there is no folder yet, or New says so
	}
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), cursorSuffix)
		if ok && !slices.ContainsFunc(e.cfg.Sinks, func(s Sink) bool { return s.Name == name }) {
			e.cfg.Logger.Warn("there is a cursor of an exporter that is not configured: if it was renamed, rename the file too; if it is gone, remove the file",
				"exporter", name, "folder", e.cfg.Dir)
		}
	}
}

// startOf is where the exporter begins, and says why where that is not where it was.
func startOf(cfg Config, s Sink) (Cursor, error) {
	durable, _ := cfg.Log.Progress()
	log := cfg.Logger.With("exporter", s.Name)
	was, err := loadCursor(cfg.Dir, s.Name)
	begin := s.cursor(cfg.LogID, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s.From == FromNow {
			begin.Next = durable
		}
		// At once, so that what is recorded before anything is delivered is not left out
		// where the gateway is started again.
		return begin, begin.save(cfg.Dir)
	case err != nil:
		log.Error("the exporter's cursor cannot be read, so everything is delivered again", "error", err)
		return begin, nil
	case was.Log != cfg.LogID:
		log.Warn("the exporter's cursor is of another log, so this one is delivered from its beginning", "cursor_log", was.Log, "log", cfg.LogID)
		return begin, nil
	case was.Next > durable:
		log.Error("the exporter's cursor is beyond the end of the log, so everything is delivered again", "cursor", was.Next, "records", durable)
		return begin, nil
	}
	begin.Next = was.Next
	if was.Type != begin.Type || was.Format != begin.Format || was.Target != begin.Target {
		log.Warn("the exporter was changed and goes on where it was; to deliver everything, stop the gateway and remove its cursor",
			"next", was.Next, "type", was.Type, "format", was.Format, "target_changed", was.Target != begin.Target)
	}
	return begin, nil
}

// Run delivers until ctx ends, then delivers what is left for two seconds at most, and
// returns when nothing of it runs any more. Failures do not end it: they are logged, and
// tried again.
func (e *Exporters) Run(ctx context.Context) error {
	if e == nil {
		return nil
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var all sync.WaitGroup
	for _, w := range e.workers {
		all.Go(func() { w.run(working) })
	}
	<-ctx.Done()
	draining, cancel := context.WithTimeout(working, e.cfg.pace.drain)
	defer cancel()
	durable, _ := e.cfg.Log.Progress()
	for _, w := range e.workers {
		w.waitFor(draining, durable)
	}
	stop()
	all.Wait()
	e.close()
	return nil
}

func (e *Exporters) close() {
	for _, w := range e.workers {
		w.out.close()
	}
}

// Acknowledged returns a number before which every record was acknowledged by all who
// want it, durably: nobody needs it from this log any more. It is math.MaxUint64 where
// there are no exporters.
func (e *Exporters) Acknowledged() uint64 {
	least := uint64(math.MaxUint64)
	if e == nil {
		return least
	}
	for _, w := range e.workers {
		least = min(least, w.durable.Load())
	}
	return least
}

// Stats is how one exporter does.
type Stats struct {
	Name       string
	Next       uint64        // number of the first record that is not acknowledged
	LagRecords uint64        // durable, and not acknowledged
	Lag        time.Duration // age of the oldest of them, as far as it is read
	Failures   uint64        // attempts that failed
	Bytes      uint64        // delivered, before compression and framing
	Failing    string        // the last attempt failed: why; empty: it did not
}

// Stats returns how each does, in the order of the configuration.
func (e *Exporters) Stats() []Stats {
	if e == nil {
		return nil
	}
	var all []Stats
	durable, _ := e.cfg.Log.Progress()
	for _, w := range e.workers {
		all = append(all, w.stats(durable))
	}
	return all
}
