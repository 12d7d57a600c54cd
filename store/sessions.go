package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

// keptSessions is how many sessions of a tenant are remembered past their end.
const keptSessions = 1000

// Session is a session as it is remembered: whose it is, and how it ended. What
// is in it lives and dies with its sandbox.
type Session struct {
	ID      string
	Owner   execution.Principal
	Ended   execution.SessionEnd // empty while it is open
	Created time.Time
	Expires time.Time // once it has ended: it may be forgotten from then on
}

// Sessions remembers which sessions are open, and for a while which have ended.
// It is safe for concurrent use.
type Sessions struct{ store *Store }

// NewSessions returns the sessions remembered in store.
func NewSessions(store *Store) (*Sessions, error) {
	if store == nil {
		return nil, errors.New("sessions: no store")
	}
	return &Sessions{store}, nil
}

const sessionColumns = "id, tenant, subject, roles, method, coalesce(ended, ''), created_ms, expires_ms"

// Add remembers a session as open.
func (s *Sessions) Add(ctx context.Context, added Session) error {
	roles := added.Owner.Roles
	if roles == nil {
		roles = []execution.Role{}
	}
	text, err := json.Marshal(roles)
	if err != nil {
		return fmt.Errorf("add session: %w", err)
	}
	if _, err := s.store.write.ExecContext(ctx, "INSERT INTO sessions (id, tenant, subject, roles, method, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
		added.ID, added.Owner.Tenant, added.Owner.Subject, string(text), added.Owner.Method, added.Created.UnixMilli(), added.Expires.UnixMilli()); err != nil {
		return fmt.Errorf("add session: %w", err)
	}
	return nil
}

// Remove forgets a session that is open, as if it had never been.
func (s *Sessions) Remove(ctx context.Context, id string) error {
	if _, err := s.store.write.ExecContext(ctx, "DELETE FROM sessions WHERE id = ? AND ended IS NULL", id); err != nil {
		return fmt.Errorf("remove session: %w", err)
	}
	return nil
}

// End remembers why the session called id ended, until expires. The first end
// counts. Of a tenant's ended sessions the newest 1000 are kept.
func (s *Sessions) End(ctx context.Context, id string, why execution.SessionEnd, expires time.Time) error {
	err := s.store.change(ctx, func(tx *sql.Tx) error {
		var tenant string
		err := tx.QueryRowContext(ctx, "UPDATE sessions SET ended = ?, expires_ms = ? WHERE id = ? AND ended IS NULL RETURNING tenant",
			string(why), expires.UnixMilli(), id).Scan(&tenant)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM sessions WHERE id IN ("+
			"SELECT id FROM sessions WHERE tenant = ? AND ended IS NOT NULL ORDER BY created_ms DESC LIMIT -1 OFFSET ?)", tenant, keptSessions)
		return err
	})
	if err != nil {
		return fmt.Errorf("end session: %w", err)
	}
	return nil
}

// Load returns the session called id. It is an error of KindNotFound where there
// is none, or no longer.
func (s *Sessions) Load(ctx context.Context, id string) (Session, error) {
	row := s.store.read.QueryRowContext(ctx, "SELECT "+sessionColumns+" FROM sessions WHERE id = ? AND (ended IS NULL OR expires_ms > ?)",
		id, time.Now().UnixMilli())
	found, err := scanSession(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Session{}, &execution.Error{Kind: execution.KindNotFound, Code: "session_not_found", Detail: "there is no such session"}
	}
	if err != nil {
		return Session{}, fmt.Errorf("load session: %w", err)
	}
	return found, nil
}

// Left returns the sessions that are remembered as open, oldest first.
func (s *Sessions) Left(ctx context.Context) ([]Session, error) {
	rows, err := s.store.read.QueryContext(ctx, "SELECT "+sessionColumns+" FROM sessions WHERE ended IS NULL ORDER BY created_ms, id")
	if err != nil {
		return nil, fmt.Errorf("read sessions: %w", err)
	}
	defer rows.Close()
	var left []Session
	for rows.Next() {
		found, err := scanSession(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("read sessions: %w", err)
		}
		left = append(left, found)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read sessions: %w", err)
	}
	return left, nil
}

// Sweep forgets the sessions that have ended and expired.
func (s *Sessions) Sweep(ctx context.Context) error {
	if _, err := s.store.write.ExecContext(ctx, "DELETE FROM sessions WHERE expires_ms <= ? AND ended IS NOT NULL", time.Now().UnixMilli()); err != nil {
		return fmt.Errorf("sweep sessions: %w", err)
	}
	return nil
}

func scanSession(scan func(...any) error) (s Session, err error) {
	var roles string
	var created, expires int64
	if err := scan(&s.ID, &s.Owner.Tenant, &s.Owner.Subject, &roles, &s.Owner.Method, &s.Ended, &created, &expires); err != nil {
		return Session{}, err
	}
	if err := json.Unmarshal([]byte(roles), &s.Owner.Roles); err != nil {
		return Session{}, fmt.Errorf("roles of session %s: %w", s.ID, err)
	}
	s.Created, s.Expires = time.UnixMilli(created).UTC(), time.UnixMilli(expires).UTC()
	return s, nil
}
