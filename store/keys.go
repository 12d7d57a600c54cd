package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

const keyColumns = "id, tenant, roles, hash, label, created_ms, expires_ms, revoked_ms"

// InsertKey remembers key. It is an error of KindConflict where a key with that
// id exists. Times are kept to the millisecond.
func (s *Store) InsertKey(ctx context.Context, key execution.Key) error {
	roles, err := json.Marshal(append([]execution.Role{}, key.Roles...)) // never null
	if err != nil {
		return fmt.Errorf("insert key: %w", err)
	}
	done, err := s.write.ExecContext(ctx,
		"INSERT INTO keys ("+keyColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
		key.ID, key.Tenant, string(roles), key.Hash[:], key.Label,
		key.Created.UnixMilli(), nullMillis(key.Expires), nullMillis(key.Revoked))
	if err != nil {
		return fmt.Errorf("insert key %s: %w", key.ID, err)
	}
	if n, err := done.RowsAffected(); err != nil {
		return fmt.Errorf("insert key %s: %w", key.ID, err)
	} else if n == 0 {
		return &execution.Error{Kind: execution.KindConflict, Code: "key_exists", Detail: "a key with this id exists"}
	}
	return nil
}

// Key returns the key called id, also where it is expired or revoked. It is an
// error of KindNotFound where there is none.
func (s *Store) Key(ctx context.Context, id string) (execution.Key, error) {
	key, err := scanKey(s.read.QueryRowContext(ctx, "SELECT "+keyColumns+" FROM keys WHERE id = ?", id).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return execution.Key{}, keyNotFound()
	}
	if err != nil {
		return execution.Key{}, fmt.Errorf("read key: %w", err)
	}
	return key, nil
}

// Keys returns every key, also those expired or revoked, oldest first.
func (s *Store) Keys(ctx context.Context) ([]execution.Key, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT "+keyColumns+" FROM keys ORDER BY id")
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer rows.Close()
	keys := []execution.Key{}
	for rows.Next() {
		key, err := scanKey(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		keys = append(keys, key)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	return keys, nil
}

// RevokeKey marks the key called id as revoked at the time at. A key that is
// revoked already keeps its first time. It is an error of KindNotFound where
// there is no such key. Once it returns, Key reports the revocation.
func (s *Store) RevokeKey(ctx context.Context, id string, at time.Time) error {
	done, err := s.write.ExecContext(ctx,
		"UPDATE keys SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?", at.UnixMilli(), id)
	if err != nil {
		return fmt.Errorf("revoke key: %w", err)
	}
	if n, err := done.RowsAffected(); err != nil {
		return fmt.Errorf("revoke key: %w", err)
	} else if n == 0 {
		return keyNotFound()
	}
	return nil
}

func keyNotFound() error {
	return &execution.Error{Kind: execution.KindNotFound, Code: "key_not_found", Detail: "there is no such key"}
}

// scanKey reads keyColumns. What does not read back as a key is an error: the
// database was changed by other hands, and a key is not a thing to guess at.
func scanKey(scan func(...any) error) (execution.Key, error) {
	var (
		key              execution.Key
		roles            string
		hash             []byte
		created          int64
		expires, revoked sql.Null[int64]
	)
	if err := scan(&key.ID, &key.Tenant, &roles, &hash, &key.Label, &created, &expires, &revoked); err != nil {
		return execution.Key{}, err
	}
	if err := json.Unmarshal([]byte(roles), &key.Roles); err != nil {
		return execution.Key{}, fmt.Errorf("roles of key %s: %w", key.ID, err)
	}
	for _, role := range key.Roles {
		if !slices.Contains(execution.Roles(), role) {
			return execution.Key{}, fmt.Errorf("key %s has the unknown role %q", key.ID, role)
		}
	}
	if copy(key.Hash[:], hash) != len(key.Hash) || len(hash) != len(key.Hash) {
		return execution.Key{}, fmt.Errorf("the hash of key %s has %d bytes", key.ID, len(hash))
	}
	key.Created = time.UnixMilli(created).UTC()
	key.Expires, key.Revoked = fromNullMillis(expires), fromNullMillis(revoked)
	return key, nil
}

func nullMillis(t time.Time) sql.Null[int64] {
	return sql.Null[int64]{V: t.UnixMilli(), Valid: !t.IsZero()}
}

func fromNullMillis(ms sql.Null[int64]) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.V).UTC()
}
