package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// Selection is what is to be erased. Each field that is set narrows; a Subject needs
// its Tenant. The zero Selection selects nothing.
type Selection struct {
	Execution string // or a session
	Tenant    string
	Subject   string
	Before    time.Time // decided earlier
}

// Erased counts what was erased, or is to be.
type Erased struct {
	Inputs    int64
	Materials int64
}

// where is the selection as a condition on a table whose columns have these names, and
// others of their own. What was kept before subjects were is of any subject of its
// tenant.
func (s Selection) where(execution, at string) (condition string, args []any, err error) {
	if s.Subject != "" && s.Tenant == "" {
		return "", nil, errors.New("erase inputs: a subject needs its tenant")
	}
	var parts []string
	for _, narrowing := range []struct{ column, value string }{
		{execution + " = ?", s.Execution}, {"tenant = ?", s.Tenant}, {"(subject = ? OR subject IS NULL)", s.Subject},
	} {
		if narrowing.value != "" {
			parts, args = append(parts, narrowing.column), append(args, narrowing.value)
		}
	}
	if !s.Before.IsZero() {
		parts, args = append(parts, at+" < ?"), append(args, s.Before.UnixMilli())
	}
	if len(args) == 0 {
		return "", nil, errors.New("erase inputs: nothing is selected")
	}
	return strings.Join(parts, " AND "), args, nil
}

// means reports whether where selects what was decided so.
func (s Selection) means(execution, tenant, subject string, decided time.Time) bool {
	return (s.Execution == "" || s.Execution == execution) && (s.Tenant == "" || s.Tenant == tenant) &&
		(s.Subject == "" || s.Subject == subject || subject == "") && (s.Before.IsZero() || decided.UnixMilli() < s.Before.UnixMilli())
}

// erasure is one that was made.
type erasure struct {
	which Selection
	at    time.Time
}

// erasureReach is how long an erasure is remembered: more than lies between a decision
// and the writing of its input, or of its request.
const erasureReach = time.Minute

// erasedBefore reports whether what was decided so has been erased before it could be
// written. The caller holds s.writing.
func (s *Inputs) erasedBefore(execution, tenant, subject string, decided time.Time) bool {
	return slices.ContainsFunc(s.erasures, func(e erasure) bool {
		return decided.UnixMilli() < e.at.UnixMilli() && e.which.means(execution, tenant, subject, decided)
	})
}

// Erase deletes the keys of all inputs and materials that are selected; of a whole tenant
// its key, and its own policies. What is left says that there was a decision, and nothing
// of it. So it is with what was decided before, and is written only afterwards. before is
// told what will be erased, as far as it is written; only where it returns nil is it.
//
// Where the files still hold something, because somebody reads without end, it is an
// error, and Erase is to be called again.
func (s *Inputs) Erase(ctx context.Context, which Selection, before func(Erased) error) (erased Erased, err error) {
	condition, args, err := which.where("execution", "at_ms")
	if err != nil {
		return Erased{}, err
	}
	condition += " AND wrapped IS NOT NULL"
	if err := s.lock(ctx); err != nil {
		return Erased{}, fmt.Errorf("erase inputs: %w", err)
	}
	defer s.unlock()
	if err := s.flush(ctx); err != nil {
		return Erased{}, err
	}
	for table, count := range map[string]*int64{"inputs": &erased.Inputs, "materials": &erased.Materials} {
		if err := s.store.write.QueryRowContext(ctx, "SELECT count(*) FROM "+table+" WHERE "+condition, args...).Scan(count); err != nil {
			return Erased{}, fmt.Errorf("count what is to be erased: %w", err)
		}
	}
	if err := before(erased); err != nil {
		return Erased{}, err
	}
	now := time.Now()
	s.erasures = append(slices.DeleteFunc(s.erasures, func(e erasure) bool { return now.Sub(e.at) > erasureReach }), erasure{which, now})
	err = s.store.change(ctx, func(tx *sql.Tx) error {
		for _, table := range []string{"inputs", "materials"} {
			if _, err := tx.ExecContext(ctx, "UPDATE "+table+" SET wrapped = NULL, sealed = NULL WHERE "+condition, args...); err != nil {
				return err
			}
		}
		if which != (Selection{Tenant: which.Tenant}) {
			return nil
		}
		for _, table := range []string{"input_documents", "input_keys"} {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE tenant = ?", which.Tenant); err != nil {
				return err
			}
		}
		return nil
	})
	clear(s.known)
	s.keys.forget()
	if err != nil {
		return Erased{}, fmt.Errorf("erase inputs: %w", err)
	}
	return erased, s.store.scrubLog(ctx)
}

// scrubLog empties the database's own log, which still holds pages with what was
// overwritten in the database (secure_delete).
func (s *Store) scrubLog(ctx context.Context) error {
	var busy, inLog, moved int
	if err := s.write.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &inLog, &moved); err != nil {
		return fmt.Errorf("erase from the database's log: %w", err)
	}
	if busy != 0 {
		return &execution.Error{
			Kind: execution.KindUnavailable, Code: "erasure_unfinished", RetryAfter: time.Second,
			Detail: "it is erased, but a file still holds it while somebody reads: erase again",
		}
	}
	return nil
}
