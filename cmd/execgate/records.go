package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

// records finds records by the index and takes them from the log: what is shown is
// always what the log has.
type records struct {
	log     *audit.Log
	fetcher *audit.Fetcher
	index   *store.Records
	logger  *slog.Logger
}

// openRecords opens the index in the state folder.
func openRecords(ctx context.Context, s *state, log *audit.Log, logger *slog.Logger) (*records, error) {
	durable, _ := log.Progress()
	index, err := store.OpenRecords(ctx, s.path("index.db"), log.ID(), durable)
	if err != nil {
		return nil, fmt.Errorf("%w; the index can be deleted: it is made anew from the log", err)
	}
	if index.Rebuilt() > 0 && durable > 0 {
		logger.Warn("the index of the audit log is made anew", "records", durable)
	}
	return &records{log: log, fetcher: audit.NewFetcher(s.path("audit")), index: index, logger: logger}, nil
}

// maxPageBytes bounds the records that one page holds in memory, soon after it is met: a
// caller decides how large they are.
const maxPageBytes = 8 << 20

// Find implements gateway.Records.
func (r *records) Find(ctx context.Context, q execution.RecordQuery) (execution.RecordPage, error) {
	// The index may still have what retention removed: a page of that would be empty.
	q.Filter.From = max(q.Filter.From, r.log.Held().Oldest)
	found, err := r.index.Search(ctx, q)
	if err != nil {
		return execution.RecordPage{}, err
	}
	all, done, err := r.fetcher.Fetch(ctx, found.Seqs, maxPageBytes)
	if err != nil {
		return execution.RecordPage{}, err
	}
	if done < len(found.Seqs) {
		found.More, found.Next = true, found.Seqs[done-1]
		if q.Oldest {
			found.Next++
		}
	}
	page := execution.RecordPage{More: found.More, Next: found.Next, Indexed: found.Indexed, Records: all[:0]}
	for _, record := range all {
		// Who may see a record is in the record, whatever the index says.
		if q.Filter.Matches(record) {
			page.Records = append(page.Records, record)
			continue
		}
		r.index.Distrust()
		r.logger.ErrorContext(ctx, "the index of the audit log found a record that it should not: it is made anew", "seq", record.Seq)
	}
	return page, nil
}

// Record implements gateway.Records.
func (r *records) Record(ctx context.Context, seq uint64) (execution.Record, error) {
	if durable, _ := r.log.Progress(); seq < durable {
		found, _, err := r.fetcher.Fetch(ctx, []uint64{seq}, maxPageBytes)
		if err != nil {
			return execution.Record{}, err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return execution.Record{}, &execution.Error{Kind: execution.KindNotFound, Code: "record_not_found", Detail: "there is no such record"}
}

// Usage implements gateway.Records.
func (r *records) Usage(ctx context.Context, q execution.MeterQuery, most int) (rows []execution.Metered, more bool, err error) {
	err = r.index.Usage(ctx, q, func(m execution.Metered) bool {
		if more = len(rows) == most; !more {
			rows = append(rows, m)
		}
		return !more
	})
	return rows, more, err
}

// lag is how many durable records cannot be found yet.
func (r *records) lag() uint64 {
	durable, _ := r.log.Progress()
	return durable - min(r.index.Next(), durable)
}

// synced is the number below which records may be removed from the log, for the index and
// usage keep what they were.
func (r *records) synced() uint64 {
	next, err := r.index.Synced()
	if err != nil {
		r.logger.Error("the index of the audit log does not reach the disk: nothing is removed from the log until it does", "error", err)
	}
	return next
}

// rebuilt is how often the index was made anew.
func (r *records) rebuilt() uint64 { return r.index.Rebuilt() }

// The pace of indexing: what comes within a while is added in one transaction, of at
// most so many records that a reader does not wait for it.
const (
	indexInterval = 50 * time.Millisecond
	indexBatch    = 2000
	indexAgain    = 5 * time.Second // after a failure
	forgetEvery   = time.Second
)

// run adds what the log has to the index, until ctx ends. Requests never wait for it.
func (r *records) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if r.index.Damaged() {
			r.logger.Warn("the index of the audit log is damaged, and made anew", "error", err)
			err = r.index.Rebuild(ctx)
		}
		if err == nil {
			continue
		}
		r.logger.Error("the audit log is not indexed: records cannot be found until it is", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(indexAgain):
		}
	}
	return nil
}

// follow adds records until ctx ends, something fails, or the index turns out to be
// damaged.
func (r *records) follow(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	batches := make(chan []execution.Record, 16)
	ended := make(chan error, 1)
	go func() {
		defer close(batches)
		ended <- r.read(ctx, batches)
	}()
	err := r.add(ctx, batches)
	stop()
	return errors.Join(err, <-ended)
}

// read sends what the log has from where the index ends on.
func (r *records) read(ctx context.Context, to chan<- []execution.Record) error {
	for batch, err := range r.log.Follow(ctx, r.index.Next()) {
		if err != nil {
			return err
		}
		select {
		case to <- batch:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// add adds what comes, until there is no more.
func (r *records) add(ctx context.Context, from <-chan []execution.Record) error {
	var forgotten uint64 // numbers below it
	var forgot, added time.Time
	watch := time.NewTicker(time.Second) // for damage that readers find
	defer watch.Stop()
	for {
		if time.Since(forgot) >= forgetEvery {
			if gone := min(r.log.Held().Oldest, r.index.Next()); gone > forgotten {
				if err := r.index.Forget(ctx, gone); err != nil {
					return err
				}
				forgotten = gone
			}
			forgot = time.Now()
		}
		if r.index.Damaged() {
			return nil
		}
		select {
		case <-watch.C:
		case batch, open := <-from:
			if !open {
				return nil
			}
			if err := r.index.Add(ctx, joined(ctx, batch, from, time.Until(added.Add(indexInterval)))); err != nil {
				return err
			}
			added = time.Now()
		}
	}
}

// joined adds to batch what else comes within a while, or waits, until it is full. A
// batch of the log may be a single record: what is not taken meanwhile would keep
// who reads the log waiting.
func joined(ctx context.Context, batch []execution.Record, from <-chan []execution.Record, within time.Duration) []execution.Record {
	over := time.NewTimer(within)
	defer over.Stop()
	for len(batch) < indexBatch {
		select {
		case more, open := <-from:
			if !open {
				return batch
			}
			batch = append(batch, more...)
			continue
		default:
		}
		select {
		case more, open := <-from:
			if !open {
				return batch
			}
			batch = append(batch, more...)
		case <-over.C:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}
