package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Erase deletes the keys of all inputs of an execution, also of those that wait to
// be written. What is left says that there was a decision, and nothing of it. It
// returns how many there were.
func (s *Inputs) Erase(ctx context.Context, execution string) (int64, error) {
	return s.erase(ctx, "execution = ?", execution)
}

// EraseTenant deletes the tenant's key, and with it everything that is kept of it:
// inputs, and bundles of its own. It returns how many inputs there were.
func (s *Inputs) EraseTenant(ctx context.Context, tenant string) (int64, error) {
	if tenant == "" {
		return 0, errors.New("erase inputs: no tenant is named")
	}
	return s.erase(ctx, "tenant = ?", tenant,
		"DELETE FROM input_documents WHERE tenant = ?", "DELETE FROM input_keys WHERE tenant = ?")
}

func (s *Inputs) erase(ctx context.Context, which, name string, further ...string) (erased int64, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.flush(ctx); err != nil {
		return 0, err
	}
	err = s.store.change(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, "UPDATE inputs SET wrapped = NULL, sealed = NULL WHERE wrapped IS NOT NULL AND "+which, name)
		if err != nil {
			return err
		}
		for _, statement := range further {
			if _, err := tx.ExecContext(ctx, statement, name); err != nil {
				return err
			}
		}
		erased, err = done.RowsAffected()
		return err
	})
	clear(s.known)
	s.keys.forget()
	if err != nil {
		return 0, fmt.Errorf("erase inputs: %w", err)
	}
	return erased, s.scrubLog(ctx)
}

// scrubLog empties the database's own log, which still holds pages with what was
// overwritten in the database (secure_delete).
func (s *Inputs) scrubLog(ctx context.Context) error {
	var busy, inLog, moved int
	if err := s.store.write.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &inLog, &moved); err != nil {
		return fmt.Errorf("erase inputs from the database's log: %w", err)
	}
	if busy != 0 {
		return errors.New("the inputs are erased, but the database's log still holds them while somebody reads: erase them again")
	}
	return nil
}
