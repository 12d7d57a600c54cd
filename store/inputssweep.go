package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// inputsGivenUp is how many inputs are given up in one step.
const inputsGivenUp = 256

// Sweep forgets inputs that are older than they are kept, and the documents that
// no input names any more.
func (s *Inputs) Sweep(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return fmt.Errorf("sweep inputs: %w", err)
	}
	defer s.unlock()
	err := s.change(ctx, func(tx *sql.Tx) error {
		now := time.Now()
		oldest := now.Add(-s.retain).UnixMilli()
		for statement, before := range map[string]int64{
			"DELETE FROM inputs WHERE until_ms IS NULL AND at_ms < ?": oldest,
			"DELETE FROM inputs WHERE until_ms < ?":                   now.UnixMilli(),
			"DELETE FROM materials WHERE until_ms < ?":                now.UnixMilli(),
			"DELETE FROM input_losses WHERE hour_ms < ?":              oldest,
		} {
			if _, err := tx.ExecContext(ctx, statement, before); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sweep inputs: %w", err)
	}
	if err := s.makeRoom(ctx); err != nil {
		return err
	}
	return s.dropDocuments(ctx)
}

// dropDocuments forgets the documents that no input names, and the keys of
// tenants of whom nothing is kept. The caller holds s.writing.
func (s *Inputs) dropDocuments(ctx context.Context) error {
	clear(s.known)
	err := s.store.change(ctx, func(tx *sql.Tx) error {
		for _, statement := range []string{
			`DELETE FROM input_documents AS d WHERE kind = 'terms'
				AND NOT EXISTS (SELECT 1 FROM inputs WHERE terms = d.digest AND wrapped IS NOT NULL)`,
			`DELETE FROM input_documents AS d WHERE kind = 'bundle' AND tenant = ''
				AND NOT EXISTS (SELECT 1 FROM inputs WHERE organisation = d.digest AND wrapped IS NOT NULL)`,
			`DELETE FROM input_documents AS d WHERE kind = 'bundle' AND tenant <> ''
				AND NOT EXISTS (SELECT 1 FROM inputs WHERE own = d.digest AND own <> '' AND tenant = d.tenant AND wrapped IS NOT NULL)`,
			`DELETE FROM input_keys AS k WHERE NOT EXISTS (SELECT 1 FROM inputs WHERE tenant_key = k.id AND wrapped IS NOT NULL)
				AND NOT EXISTS (SELECT 1 FROM materials WHERE tenant_key = k.id AND wrapped IS NOT NULL)
				AND NOT EXISTS (SELECT 1 FROM input_documents WHERE tenant_key = k.id)`,
			"DELETE FROM input_bytes WHERE bytes = 0",
			"DELETE FROM held_bytes WHERE bytes = 0",
		} {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	s.keys.forget()
	if err != nil {
		return fmt.Errorf("forget policies that no input names: %w", err)
	}
	return nil
}

// makeRoom gives up inputs until they are within the bound, together with what must
// be kept: the oldest of the tenant that holds most, so that one tenant's flood costs
// its own. The caller
// holds s.writing.
func (s *Inputs) makeRoom(ctx context.Context) error {
	for {
		var gone int64
		err := s.store.change(ctx, func(tx *sql.Tx) error {
			var total int64
			if err := tx.QueryRowContext(ctx, "SELECT (SELECT coalesce(sum(bytes), 0) FROM input_bytes) + (SELECT coalesce(sum(bytes), 0) FROM held_bytes)").Scan(&total); err != nil {
				return err
			}
			if total <= s.maxBytes {
				return nil
			}
			done, err := tx.ExecContext(ctx, "DELETE FROM inputs WHERE id IN (SELECT id FROM inputs WHERE until_ms IS NULL AND tenant = "+
				"(SELECT tenant FROM input_bytes ORDER BY bytes DESC LIMIT 1) ORDER BY id LIMIT ?)", inputsGivenUp)
			if err != nil {
				return err
			}
			gone, err = done.RowsAffected()
			return err
		})
		if err != nil {
			return fmt.Errorf("make room for inputs: %w", err)
		}
		if gone == 0 {
			return nil
		}
		s.lose(LostRoom, uint64(gone))
	}
}
