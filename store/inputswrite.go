package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"time"
)

// writeBatch writes what waits, up to a batch. What cannot be written is lost,
// and counted: a decision is not held up, or forgotten, for its replay.
func (s *Inputs) writeBatch(ctx context.Context) {
	if err := s.lock(ctx); err != nil {
		return // ctx has no end
	}
	defer s.unlock()
	if err := s.write(ctx, s.take()); err != nil {
		s.log.ErrorContext(ctx, "inputs of decisions could not be kept: these cannot be replayed", "error", err)
	}
	if len(s.waiting) > 0 {
		s.tell()
	}
}

// write writes a batch in one transaction. The caller holds s.writing.
func (s *Inputs) write(ctx context.Context, batch []Input) error {
	if len(batch) == 0 {
		return nil
	}
	for _, in := range batch {
		s.waitingBytes.Add(-int64(len(in.Asked) + len(in.Answered)))
	}
	ctx, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	written := map[string]bool{}
	err := s.change(ctx, func(tx *sql.Tx) error {
		keys := map[string]tenantKey{}
		for i := range batch {
			if err := s.insert(ctx, tx, &batch[i], time.Time{}, keys, written); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.lose(LostFailed, uint64(len(batch)))
		return err
	}
	for document := range written {
		s.known[document] = true
	}
	s.kept.Add(uint64(len(batch)))
	return s.makeRoom(ctx)
}

// insert writes one input and the documents that it names. It is kept until a time of
// its own where that is not zero.
func (s *Inputs) insert(ctx context.Context, tx *sql.Tx, in *Input, until time.Time, keys map[string]tenantKey, written map[string]bool) error {
	key, err := s.keyOf(ctx, tx, in.Tenant, keys)
	if err != nil {
		return err
	}
	text := binary.AppendUvarint(make([]byte, 0, len(in.Asked)+len(in.Answered)+binary.MaxVarintLen64), uint64(len(in.Asked)))
	text = append(append(text, in.Asked...), in.Answered...)
	wrapped, sealed := key.envelope(text, in.about())
	documents := in.Documents
	if s.erasedBefore(in.Execution, in.Tenant, in.Subject, in.Time) {
		wrapped, sealed, documents = nil, nil, nil
	}
	r := in.Revisions
	end := sql.NullInt64{Int64: until.UnixMilli(), Valid: !until.IsZero()}
	if _, err := tx.ExecContext(ctx, "INSERT INTO inputs (execution, seq, tenant, subject, at_ms, until_ms, organisation, own, terms, tenant_key, wrapped, sealed) "+
		"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		in.Execution, int64(in.Seq), in.Tenant, in.Subject, in.Time.UnixMilli(), end, r.Organisation, r.Own, r.Terms, key.id, wrapped, sealed); err != nil {
		return err
	}
	for i := range documents {
		d := &documents[i]
		name := string(d.about())
		if s.known[name] || written[name] {
			continue
		}
		if err := s.insertDocument(ctx, tx, d, keys); err != nil {
			return err
		}
		written[name] = true
	}
	return nil
}

// insertDocument writes a document, unless it is there and was sealed under the
// tenant's present key.
func (s *Inputs) insertDocument(ctx context.Context, tx *sql.Tx, d *Document, keys map[string]tenantKey) error {
	key, err := s.keyOf(ctx, tx, d.Tenant, keys)
	if err != nil {
		return err
	}
	var there bool
	if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM input_documents WHERE kind = ? AND digest = ? AND tenant = ? AND tenant_key = ?)",
		d.Kind, d.Digest, d.Tenant, key.id).Scan(&there); err != nil || there {
		return err
	}
	wrapped, sealed := key.envelope(d.Content, d.about())
	_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO input_documents (kind, digest, tenant, tenant_key, wrapped, sealed) VALUES (?, ?, ?, ?, ?, ?)",
		d.Kind, d.Digest, d.Tenant, key.id, wrapped, sealed)
	return err
}

func (s *Inputs) keyOf(ctx context.Context, tx *sql.Tx, tenant string, keys map[string]tenantKey) (tenantKey, error) {
	if key, ok := keys[tenant]; ok {
		return key, nil
	}
	key, err := s.keys.present(ctx, tx, tenant)
	if err != nil {
		return tenantKey{}, fmt.Errorf("key of a tenant's inputs: %w", err)
	}
	keys[tenant] = key
	return key, nil
}

// change runs do in a transaction, and writes down in it how many inputs were lost.
func (s *Inputs) change(ctx context.Context, do func(*sql.Tx) error) error {
	untold := s.takeUntold()
	err := s.store.change(ctx, func(tx *sql.Tx) error {
		if err := do(tx); err != nil {
			return err
		}
		return tellLosses(ctx, tx, untold)
	})
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for why, n := range untold {
			s.untold[why] += n
		}
	}
	return err
}

func (s *Inputs) takeUntold() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	untold := s.untold
	s.untold = map[string]uint64{}
	return untold
}

// tellLosses adds losses to those of this hour.
func tellLosses(ctx context.Context, tx *sql.Tx, losses map[string]uint64) error {
	hour := time.Now().Truncate(time.Hour).UnixMilli()
	for why, n := range losses {
		if _, err := tx.ExecContext(ctx, "INSERT INTO input_losses (hour_ms, why, lost) VALUES (?, ?, ?) "+
			"ON CONFLICT (hour_ms, why) DO UPDATE SET lost = lost + excluded.lost", hour, why, int64(n)); err != nil {
			return err
		}
	}
	return nil
}
