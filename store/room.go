package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

// makeRoom gives up bodies until everything is within the bound. Those of the
// tenant that holds most go first, its oldest first, so that one tenant's flood
// costs that tenant's own results. The row stays, with its key: what is
// forgotten must not run again. Where nothing is left to give up, a new row is
// refused, and a row that is there already stays.
func (e *Executions) makeRoom(ctx context.Context, tx *sql.Tx, isNew bool) error {
	for {
		var total int64
		if err := tx.QueryRowContext(ctx, "SELECT coalesce(sum(bytes), 0) FROM execution_bytes").Scan(&total); err != nil {
			return err
		}
		if total <= e.maxBytes {
			return nil
		}
		given, err := giveUp(ctx, tx)
		switch {
		case err != nil:
			return err
		case !given && isNew:
			return &execution.Error{
				Kind: execution.KindSaturated, Code: "executions_full", RetryAfter: time.Minute,
				Detail: "as many executions as the gateway remembers are remembered; run this one in the synchronous form, without Idempotency-Key, or later",
			}
		case !given:
			return nil
		}
	}
}

// giveUp gives up one body, and reports whether there was one.
func giveUp(ctx context.Context, tx *sql.Tx) (given bool, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT tenant FROM execution_bytes ORDER BY bytes DESC")
	if err != nil {
		return false, err
	}
	defer rows.Close()
	var tenants []string
	for rows.Next() {
		var tenant string
		if err := rows.Scan(&tenant); err != nil {
			return false, err
		}
		tenants = append(tenants, tenant)
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	for _, tenant := range tenants {
		done, err := tx.ExecContext(ctx, "UPDATE executions SET state = 'expired', body = NULL WHERE id = ("+
			"SELECT id FROM executions WHERE tenant = ? AND body IS NOT NULL AND state IN "+final+" ORDER BY created_ms LIMIT 1)", tenant)
		if err != nil {
			return false, err
		}
		if n, err := done.RowsAffected(); err != nil || n > 0 {
			return n > 0, err
		}
	}
	return false, nil
}

// Sweep forgets the executions that are over and have expired, and their keys.
func (e *Executions) Sweep(ctx context.Context) error {
	_, err := e.store.write.ExecContext(ctx, "DELETE FROM executions WHERE expires_ms <= ? AND state IN "+final, time.Now().UnixMilli())
	if err == nil {
		_, err = e.store.write.ExecContext(ctx, "DELETE FROM execution_bytes WHERE bytes = 0")
	}
	if err != nil {
		return fmt.Errorf("sweep executions: %w", err)
	}
	return nil
}

// Recover ends what an earlier process left under way; it is called before new
// work is taken. What was queued or running has ended, with the body that was
// saved for this case, and is kept until expires. What was only reserved did not
// happen and is forgotten, except what stands in lost: that was decided after
// all, and ends with the body given there. What awaits approval goes on doing so,
// unless it stands in lost.
func (e *Executions) Recover(ctx context.Context, lost map[string][]byte, expires time.Time) error {
	err := e.store.change(ctx, func(tx *sql.Tx) error {
		for id, body := range lost {
			if _, err := tx.ExecContext(ctx, "UPDATE executions SET state = 'running', body = ? WHERE id = ? AND state IN ('reserved', 'awaiting_approval')", body, id); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, "UPDATE executions SET state = 'ended', expires_ms = max(expires_ms, ?) WHERE state IN ('queued', 'running')", expires.UnixMilli()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM executions WHERE state = 'reserved'")
		return err
	})
	if err != nil {
		return fmt.Errorf("recover executions: %w", err)
	}
	return nil
}
