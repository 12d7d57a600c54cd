package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/execgate/execgate/execution"
)

// recordsTail is the last block as far as it was written or read by this process. What
// is added changes it, and then the database.
type recordsTail struct {
	block       int64
	whole       bool // terms has all of the block's: what it does not have, there is not
	terms       map[execution.RecordTerm]*posting
	dirty       []*posting // that are not in the database yet
	chunk       int64      // of at; negative: none
	at          []byte
	least, most int64
}

type posting struct {
	term    execution.RecordTerm
	offsets offsets
	dirty   bool
}

// everything is the term of all records.
var everything = execution.RecordTerm{}

// Add adds records, which rise by their numbers, and sets the cursor behind the last
// one, in one transaction: however often a record is given, it is added once. Where it
// fails nothing is added.
func (r *Records) Add(ctx context.Context, records []execution.Record) error {
	r.adding.Lock()
	defer r.adding.Unlock()
	next := r.next.Load()
	for len(records) > 0 && records[0].Seq < next {
		records = records[1:]
	}
	if len(records) == 0 {
		return nil
	}
	err := r.reading("index records", func(db *Store) error {
		return db.change(ctx, func(tx *sql.Tx) error { return r.add(ctx, tx, records) })
	})
	if err != nil {
		r.tail = nil // it is ahead of the database
		return err
	}
	r.next.Store(records[len(records)-1].Seq + 1)
	return nil
}

func (r *Records) add(ctx context.Context, tx *sql.Tx, records []execution.Record) error {
	usage := map[execution.MeterKey]*execution.Metered{}
	for i := range records {
		seq := records[i].Seq
		if block := int64(seq >> blockBits); r.tail == nil || r.tail.block != block {
			if err := r.turn(ctx, tx, block); err != nil {
				return err
			}
		}
		if err := r.tail.add(ctx, tx, &records[i]); err != nil {
			return err
		}
		if m, ok := execution.Meter(records[i]); ok {
			if usage[m.MeterKey] == nil {
				usage[m.MeterKey] = &execution.Metered{MeterKey: m.MeterKey}
			}
			usage[m.MeterKey].Add(m)
		}
	}
	if err := r.tail.write(ctx, tx); err != nil {
		return err
	}
	if err := addUsage(ctx, tx, usage); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "UPDATE cursor SET next = ?", int64(records[len(records)-1].Seq+1))
	return err
}

// turn writes the tail and makes block the tail.
func (r *Records) turn(ctx context.Context, tx *sql.Tx, block int64) error {
	if r.tail != nil {
		if err := r.tail.write(ctx, tx); err != nil {
			return err
		}
	}
	t := &recordsTail{block: block, terms: map[execution.RecordTerm]*posting{}, chunk: -1}
	err := tx.QueryRowContext(ctx, "SELECT least, most FROM blocks WHERE block = ?", block).Scan(&t.least, &t.most)
	if err == sql.ErrNoRows {
		t.whole, t.least, t.most, err = true, math.MaxInt64, math.MinInt64, nil
	}
	r.tail = t
	return err
}

// add adds one record of the tail's block.
func (t *recordsTail) add(ctx context.Context, tx *sql.Tx, record *execution.Record) error {
	offset := uint16(record.Seq & (blockSize - 1))
	for _, term := range append(execution.TermsOf(*record), everything) {
		p := t.terms[term]
		if p == nil {
			p = &posting{term: term}
			t.terms[term] = p
			if !t.whole {
				err := tx.QueryRowContext(ctx, "SELECT offsets FROM postings WHERE block = ? AND kind = ? AND value = ?",
					t.block, term.Kind, term.Value).Scan((*[]byte)(&p.offsets))
				if err != nil && err != sql.ErrNoRows {
					return err
				}
				if err == nil && !p.offsets.valid() {
					return errDamage
				}
			}
		}
		p.offsets = p.offsets.add(offset)
		if !p.dirty {
			p.dirty, t.dirty = true, append(t.dirty, p)
		}
	}
	at := nanoseconds(record.Time)
	t.least, t.most = min(t.least, at), max(t.most, at)
	return t.time(ctx, tx, record.Seq, at)
}

// time notes when record seq was written.
func (t *recordsTail) time(ctx context.Context, tx *sql.Tx, seq uint64, at int64) error {
	if chunk := int64(seq >> chunkBits); chunk != t.chunk {
		if err := t.writeTimes(ctx, tx); err != nil {
			return err
		}
		t.chunk, t.at = chunk, nil
		err := tx.QueryRowContext(ctx, "SELECT at FROM times WHERE chunk = ?", chunk).Scan(&t.at)
		if err != nil && err != sql.ErrNoRows {
			return err
		}
	}
	place := int(seq&(chunkSize-1)) * timeBytes
	for len(t.at) < place {
		t.at = append(t.at, 0)
	}
	if len(t.at) != place {
		return fmt.Errorf("%w: there are %d bytes of times where record %d is the next", errDamage, len(t.at), seq)
	}
	t.at = binary.LittleEndian.AppendUint64(t.at, uint64(at))
	return nil
}

// write writes what is not in the database yet.
func (t *recordsTail) write(ctx context.Context, tx *sql.Tx) error {
	put, err := tx.PrepareContext(ctx, "INSERT OR REPLACE INTO postings (block, kind, value, offsets) VALUES (?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer put.Close()
	for _, p := range t.dirty {
		if _, err := put.ExecContext(ctx, t.block, string(p.term.Kind), p.term.Value, []byte(p.offsets)); err != nil {
			return err
		}
		p.dirty = false
	}
	t.dirty = t.dirty[:0]
	if err := t.writeTimes(ctx, tx); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO blocks (block, least, most) VALUES (?, ?, ?)", t.block, t.least, t.most)
	return err
}

func (t *recordsTail) writeTimes(ctx context.Context, tx *sql.Tx) error {
	if t.chunk < 0 {
		return nil
	}
	_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO times (chunk, at) VALUES (?, ?)", t.chunk, t.at)
	return err
}

// nanoseconds is at since 1970, as near as that can be told.
func nanoseconds(at time.Time) int64 {
	switch year := at.Year(); {
	case year < 1678:
		return math.MinInt64
	case year > 2261:
		return math.MaxInt64
	}
	return at.UnixNano()
}

// Forget gives up the records below first, which are not in the log any more. What
// they used stays metered.
func (r *Records) Forget(ctx context.Context, first uint64) error {
	r.adding.Lock()
	defer r.adding.Unlock()
	first = min(first, r.next.Load())
	return r.reading("forget records", func(db *Store) error {
		if _, err := db.write.ExecContext(ctx, "UPDATE cursor SET first = max(first, ?)", int64(first)); err != nil {
			return err
		}
		gone := int64(first >> blockBits)
		if r.tail != nil && r.tail.block < gone {
			r.tail = nil
		}
		for {
			var block int64
			err := db.write.QueryRowContext(ctx, "SELECT block FROM blocks WHERE block < ? ORDER BY block LIMIT 1", gone).Scan(&block)
			if err == sql.ErrNoRows {
				return nil
			}
			if err != nil {
				return err
			}
			// One block at a time, so that nothing waits for long.
			err = db.change(ctx, func(tx *sql.Tx) error {
				for _, statement := range []string{"DELETE FROM postings WHERE block = ?", "DELETE FROM blocks WHERE block = ?"} {
					if _, err := tx.ExecContext(ctx, statement, block); err != nil {
						return err
					}
				}
				_, err := tx.ExecContext(ctx, "DELETE FROM times WHERE chunk < ?", (block+1)<<(blockBits-chunkBits))
				return err
			})
			if err != nil {
				return err
			}
		}
	})
}
