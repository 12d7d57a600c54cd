package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

// The states an execution is remembered in. Those from StateEnded on are final.
// It comes into StateAwaiting by Approvals.Add.
const (
	StateReserved = "reserved" // asked for; not decided
	StateAwaiting = "awaiting_approval"
	StateQueued   = "queued"
	StateRunning  = "running"
	StateEnded    = "ended"   // Body is the result
	StateFailed   = "failed"  // ended by a fault of the gateway's; Body is the problem
	StateDenied   = "denied"  // Body is the problem
	StateExpired  = "expired" // over, and its Body given up to make room
)

// final is the states in which nothing more happens, as SQL.
const final = "('ended', 'failed', 'denied', 'expired')"

// Execution is an execution that may be asked for after its request is over.
type Execution struct {
	ID      string
	Tenant  string
	Subject string // with Tenant: whose it is
	// Key is the idempotency key that began it; empty where there was none.
	Key           string
	RequestSHA256 string
	State         string
	// Body is the caller's data, as it was saved: it is not encrypted here, and
	// the mode of the file (0600) is what keeps it. In a state that is not final
	// it is what is to be said should nothing more be heard.
	Body    []byte
	Events  uint64 // number of the last event
	Expires time.Time
}

// Executions remembers executions and their idempotency keys, which are one row
// so that they cannot disagree. It is safe for concurrent use.
type Executions struct {
	store    *Store
	maxBytes int64
}

// DefaultExecutionBytes is the bound on what all executions take up: 1 GiB.
const DefaultExecutionBytes = 1 << 30

// NewExecutions returns the executions remembered in store, which together take
// up at most maxBytes (zero: DefaultExecutionBytes), where a row counts 512
// bytes and its body. Past that the oldest bodies of the tenant that holds most
// are given up; those that are under way come on top.
func NewExecutions(store *Store, maxBytes int64) (*Executions, error) {
	if store == nil || maxBytes < 0 {
		return nil, errors.New("executions: no store, or a negative bound")
	}
	if maxBytes == 0 {
		maxBytes = DefaultExecutionBytes
	}
	return &Executions{store: store, maxBytes: maxBytes}, nil
}

const executionColumns = "id, tenant, subject, coalesce(idempotency_key, ''), request_sha256, state, body, events, expires_ms"

// Claim remembers want as reserved and returns it; or, where its owner has used
// its Key before and that has not expired, returns the execution that holds the
// key, without its body. It is an error of KindSaturated where there is no room.
func (e *Executions) Claim(ctx context.Context, want Execution) (Execution, error) {
	var held Execution
	err := e.store.change(ctx, func(tx *sql.Tx) error {
		now := time.Now().UnixMilli()
		if want.Key != "" {
			if _, err := tx.ExecContext(ctx, "DELETE FROM executions WHERE tenant = ? AND subject = ? AND idempotency_key = ? AND expires_ms <= ? AND state IN "+final,
				want.Tenant, want.Subject, want.Key, now); err != nil {
				return err
			}
		}
		done, err := tx.ExecContext(ctx,
			"INSERT INTO executions (id, tenant, subject, idempotency_key, request_sha256, state, body, events, created_ms, expires_ms) "+
				"VALUES (?, ?, ?, nullif(?, ''), ?, 'reserved', NULL, 0, ?, ?) ON CONFLICT (tenant, subject, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING",
			want.ID, want.Tenant, want.Subject, want.Key, want.RequestSHA256, now, want.Expires.UnixMilli())
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			held, err = scanExecution(tx.QueryRowContext(ctx, "SELECT id, tenant, subject, coalesce(idempotency_key, ''), request_sha256, state, NULL, events, expires_ms "+
				"FROM executions WHERE tenant = ? AND subject = ? AND idempotency_key = ?", want.Tenant, want.Subject, want.Key).Scan)
			return err
		}
		held = want
		held.State, held.Body, held.Events = StateReserved, nil, 0
		return e.makeRoom(ctx, tx, true)
	})
	if err != nil {
		return Execution{}, fmt.Errorf("claim execution: %w", err)
	}
	return held, nil
}

// Release forgets an execution that is still reserved, and its key with it.
func (e *Executions) Release(ctx context.Context, id string) error {
	_, err := e.store.write.ExecContext(ctx, "DELETE FROM executions WHERE id = ? AND state = 'reserved'", id)
	if err != nil {
		return fmt.Errorf("release execution: %w", err)
	}
	return nil
}

// Save replaces State, Body, Events and Expires of the execution called now.ID,
// unless its state is final. It is an error of KindNotFound where there is no
// such execution.
func (e *Executions) Save(ctx context.Context, now Execution) error {
	if int64(len(now.Body)) > e.maxBytes {
		now.State, now.Body = StateExpired, nil
	}
	err := e.store.change(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, "UPDATE executions SET state = ?, body = ?, events = ?, expires_ms = ? WHERE id = ? AND state NOT IN "+final,
			now.State, now.Body, int64(now.Events), now.Expires.UnixMilli(), now.ID)
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return executionNotFound()
		}
		return e.makeRoom(ctx, tx, false)
	})
	if err != nil {
		return fmt.Errorf("save execution: %w", err)
	}
	return nil
}

// Load returns the execution called id. It is an error of KindNotFound where
// there is none, or no longer.
func (e *Executions) Load(ctx context.Context, id string) (Execution, error) {
	row := e.store.read.QueryRowContext(ctx, "SELECT "+executionColumns+" FROM executions WHERE id = ? AND (expires_ms > ? OR state NOT IN "+final+")",
		id, time.Now().UnixMilli())
	found, err := scanExecution(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Execution{}, executionNotFound()
	}
	if err != nil {
		return Execution{}, fmt.Errorf("load execution: %w", err)
	}
	return found, nil
}

func scanExecution(scan func(...any) error) (e Execution, err error) {
	var events, expires int64
	err = scan(&e.ID, &e.Tenant, &e.Subject, &e.Key, &e.RequestSHA256, &e.State, &e.Body, &events, &expires)
	e.Events, e.Expires = uint64(events), time.UnixMilli(expires).UTC()
	return e, err
}

func executionNotFound() error {
	return &execution.Error{Kind: execution.KindNotFound, Code: "execution_not_found", Detail: "there is no such execution"}
}
