package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/execgate/execgate/execution"
)

// blocksAtOnce is how many blocks are read at a time.
const blocksAtOnce = 64

// RecordNumbers is what was found: numbers, in the order that was asked for.
type RecordNumbers struct {
	Seqs []uint64
	// More, Next and Indexed are those of an execution.RecordPage.
	More    bool
	Next    uint64
	Indexed uint64
}

// Search finds the records that q asks for. All of it is of one moment.
func (r *Records) Search(ctx context.Context, q execution.RecordQuery) (RecordNumbers, error) {
	var found RecordNumbers
	err := r.reading("search records", func(db *Store) error {
		tx, err := db.read.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() // it has changed nothing
		var next, first int64
		if err := tx.QueryRowContext(ctx, "SELECT next, first FROM cursor").Scan(&next, &first); err != nil {
			return err
		}
		s := search{RecordQuery: q, tx: tx, since: math.MinInt64, until: math.MaxInt64}
		s.from, s.before = max(q.Filter.From, uint64(first)), uint64(next)
		if q.Filter.Before != 0 {
			s.before = min(s.before, q.Filter.Before)
		}
		if !q.Filter.Since.IsZero() {
			s.since = nanoseconds(q.Filter.Since)
		}
		if !q.Filter.Until.IsZero() {
			s.until = nanoseconds(q.Filter.Until)
		}
		if err := s.run(ctx); err != nil {
			return err
		}
		found = s.numbers(uint64(next))
		return nil
	})
	return found, err
}

// search is a Search under way.
type search struct {
	execution.RecordQuery
	tx           *sql.Tx
	from, before uint64 // numbers
	since, until int64
	seqs         []uint64 // up to one more than Most
}

// numbers is what was found, of an index up to next.
func (s *search) numbers(next uint64) RecordNumbers {
	found := RecordNumbers{Seqs: s.seqs, Indexed: next}
	if len(s.seqs) > s.Most {
		found.Seqs, found.More = s.seqs[:s.Most], true
	}
	switch n := len(found.Seqs); {
	case !found.More && s.Oldest:
		found.Next = max(s.before, s.Filter.From)
	case found.More && s.Oldest:
		found.Next = found.Seqs[n-1] + 1
	case found.More:
		found.Next = found.Seqs[n-1]
	}
	return found
}

// run goes through the blocks that may hold what is looked for.
func (s *search) run(ctx context.Context) error {
	if s.from >= s.before {
		return nil
	}
	low, high := int64(s.from>>blockBits), int64((s.before-1)>>blockBits)
	for low <= high {
		blocks, err := s.read(ctx, low, high)
		if err != nil {
			return err
		}
		for _, b := range blocks {
			if more, err := s.take(ctx, b); err != nil || !more {
				return err
			}
		}
		if len(blocks) < blocksAtOnce {
			return nil
		}
		if last := blocks[len(blocks)-1].block; s.Oldest {
			low = last + 1
		} else {
			high = last - 1
		}
	}
	return nil
}

// foundBlock is a block that has every term that is looked for, and those of its
// records that do.
type foundBlock struct {
	block, least, most int64
	members            *members
}

// read reads the first blocksAtOnce blocks from low to high that have every term.
func (s *search) read(ctx context.Context, low, high int64) ([]foundBlock, error) {
	terms := s.Filter.Terms()
	if len(terms) == 0 {
		terms = append(terms, everything)
	}
	var columns, joins strings.Builder
	var arguments []any
	for i, term := range terms {
		fmt.Fprintf(&columns, ", p%d.offsets", i)
		// CROSS JOIN: by block, in this order (https://sqlite.org/lang_select.html).
		fmt.Fprintf(&joins, " CROSS JOIN postings p%d ON p%[1]d.block = b.block AND p%[1]d.kind = ? AND p%[1]d.value = ?", i)
		arguments = append(arguments, string(term.Kind), term.Value)
	}
	order := "DESC"
	if s.Oldest {
		order = "ASC"
	}
	rows, err := s.tx.QueryContext(ctx, "SELECT b.block, b.least, b.most"+columns.String()+" FROM blocks b"+joins.String()+
		" WHERE b.block BETWEEN ? AND ? AND b.most >= ? AND b.least < ? ORDER BY b.block "+order+" LIMIT ?",
		append(arguments, low, high, s.since, s.until, blocksAtOnce)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var blocks []foundBlock
	var b foundBlock
	sets := make([]sql.RawBytes, len(terms))
	into := []any{&b.block, &b.least, &b.most}
	for i := range sets {
		into = append(into, &sets[i])
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		b.members = allMembers()
		for _, set := range sets {
			if !offsets(set).valid() {
				return nil, fmt.Errorf("%w: block %d", errDamage, b.block)
			}
			b.members.meet(offsets(set))
		}
		blocks = append(blocks, b)
	}
	return blocks, rows.Err()
}

// take takes what is looked for out of a block, and says whether to go on.
func (s *search) take(ctx context.Context, b foundBlock) (more bool, err error) {
	m := b.members
	begin := uint64(b.block) << blockBits
	m.clip(int(min(max(s.from, begin)-begin, blockSize)), int(min(max(s.before, begin)-begin, blockSize)))
	var times []byte
	if b.least < s.since || b.most >= s.until {
		if times, err = s.times(ctx, b.block); err != nil {
			return false, err
		}
	}
	return m.each(s.Oldest, func(offset int) bool {
		if times != nil {
			at := int64(binary.LittleEndian.Uint64(times[offset*timeBytes:]))
			if at < s.since || at >= s.until {
				return true
			}
		}
		s.seqs = append(s.seqs, begin+uint64(offset))
		return len(s.seqs) <= s.Most
	}), nil
}

// times returns the times of a block.
func (s *search) times(ctx context.Context, block int64) ([]byte, error) {
	const chunks = blockSize / chunkSize
	rows, err := s.tx.QueryContext(ctx, "SELECT chunk, at FROM times WHERE chunk BETWEEN ? AND ?", block*chunks, block*chunks+chunks-1)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	times := make([]byte, blockSize*timeBytes)
	for rows.Next() {
		var chunk int64
		var at sql.RawBytes
		if err := rows.Scan(&chunk, &at); err != nil {
			return nil, err
		}
		if len(at) > chunkSize*timeBytes {
			return nil, fmt.Errorf("%w: times %d", errDamage, chunk)
		}
		copy(times[(chunk-block*chunks)*chunkSize*timeBytes:], at)
	}
	return times, rows.Err()
}
