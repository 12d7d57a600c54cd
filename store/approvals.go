package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

// Approval is a request that awaits approval, or has.
type Approval struct {
	ID        string
	Execution string // its id; remembered among the executions
	Tenant    string
	Subject   string // with Tenant: who asked
	State     execution.ApprovalState
	About     []byte // JSON: what may be shown of it. It is not encrypted here
	// Request is what resumes it. It is encrypted on disk, and gone once the
	// approval is not pending any more.
	Request []byte
	Created time.Time
	Expires time.Time // until then it may be approved

	// Of one that is not pending:
	By      string    // subject of who ended it; empty where nobody did
	At      time.Time // when
	Comment string
	Why     string    // of one that is voided
	Forget  time.Time // it may be forgotten from then on
}

// ApprovalsConfig is where approvals are kept, and how many.
type ApprovalsConfig struct {
	Store   *Store
	KeyFile string // of the key that requests are encrypted under; made where there is none
	// MaxPending and MaxBytes bound what may be pending of one tenant; zero: 100
	// approvals, and 256 MiB of requests.
	MaxPending int
	MaxBytes   int64
}

// Approvals remembers approvals. It is safe for concurrent use.
type Approvals struct {
	store      *Store
	sealer     *sealer
	maxPending int
	maxBytes   int64
}

// NewApprovals reads the key, or makes it.
func NewApprovals(config ApprovalsConfig) (*Approvals, error) {
	if config.Store == nil || config.KeyFile == "" || config.MaxPending < 0 || config.MaxBytes < 0 {
		return nil, errors.New("approvals: no store, no file for the key, or a negative bound")
	}
	if config.MaxPending == 0 {
		config.MaxPending = 100
	}
	if config.MaxBytes == 0 {
		config.MaxBytes = 256 << 20
	}
	sealer, err := newSealer(config.KeyFile)
	if err != nil {
		return nil, err
	}
	return &Approvals{store: config.Store, sealer: sealer, maxPending: config.MaxPending, maxBytes: config.MaxBytes}, nil
}

// Add remembers a as pending, and in the same step its execution, which must be
// reserved, as awaiting approval with the body given. It is an error of
// KindSaturated where as much of the tenant is pending as may be.
func (s *Approvals) Add(ctx context.Context, a Approval, body []byte) error {
	sealed := s.sealer.seal(a.Request, a)
	err := s.store.change(ctx, func(tx *sql.Tx) error {
		var pending int
		var bytes int64
		if err := tx.QueryRowContext(ctx, "SELECT count(*), coalesce(sum(length(sealed)), 0) FROM approvals WHERE tenant = ? AND state = 'pending'", a.Tenant).
			Scan(&pending, &bytes); err != nil {
			return err
		}
		if pending >= s.maxPending || bytes+int64(len(sealed)) > s.maxBytes {
			return &execution.Error{
				Kind: execution.KindSaturated, Code: "approvals_full", RetryAfter: time.Minute,
				Detail: "as many requests of this tenant await approval as the gateway keeps; have some approved or denied, or wait until they expire",
			}
		}
		done, err := tx.ExecContext(ctx, "UPDATE executions SET state = 'awaiting_approval', body = ? WHERE id = ? AND state = 'reserved'", body, a.Execution)
		if err == nil {
			err = one(done, executionNotFound())
		}
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO approvals (id, execution, tenant, subject, state, about, sealed, created_ms, expires_ms) VALUES (?, ?, ?, ?, 'pending', ?, ?, ?, ?)",
			a.ID, a.Execution, a.Tenant, a.Subject, string(a.About), sealed, a.Created.UnixMilli(), a.Expires.UnixMilli())
		return err
	})
	if err != nil {
		return fmt.Errorf("add approval: %w", err)
	}
	return nil
}

// Settle ends what is pending, or voids what is approved: it takes State, By, At,
// Comment, Why and Forget of now. Where ended is not nil the execution that awaits
// it ends so in the same step. Of several at once one succeeds; the others fail
// with KindConflict, as does an approval past its time.
func (s *Approvals) Settle(ctx context.Context, now Approval, ended *Execution) error {
	from := "pending"
	if now.State == execution.ApprovalVoided {
		from = "approved"
	}
	err := s.store.change(ctx, func(tx *sql.Tx) error {
		done, err := tx.ExecContext(ctx, "UPDATE approvals SET state = ?, sealed = NULL, by_subject = ?, at_ms = ?, comment = ?, why = ?, forget_ms = ? "+
			"WHERE id = ? AND state IN ('pending', ?) AND (? <> 'approved' OR expires_ms > ?)",
			string(now.State), now.By, now.At.UnixMilli(), now.Comment, now.Why, now.Forget.UnixMilli(),
			now.ID, from, string(now.State), now.At.UnixMilli())
		if err == nil {
			err = one(done, &execution.Error{Kind: execution.KindConflict, Code: "approval_settled", Detail: "the approval is not pending any more"})
		}
		if err != nil || ended == nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE executions SET state = ?, body = ?, events = ?, expires_ms = ? WHERE id = ? AND state = 'awaiting_approval'",
			ended.State, ended.Body, int64(ended.Events), ended.Expires.UnixMilli(), ended.ID)
		return err
	})
	if err != nil {
		return fmt.Errorf("settle approval: %w", err)
	}
	return nil
}

// one is otherwise, unless exactly one row was changed.
func one(done sql.Result, otherwise error) error {
	if n, err := done.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return otherwise
}

// Shred has the requests of approvals that were settled leave the database's log, too.
// It fails with KindUnavailable, erasure_unfinished, while somebody reads there.
func (s *Approvals) Shred(ctx context.Context) error { return s.store.scrubLog(ctx) }

// Sweep forgets the approvals that are settled and may be forgotten.
func (s *Approvals) Sweep(ctx context.Context) error {
	if _, err := s.store.write.ExecContext(ctx, "DELETE FROM approvals WHERE state <> 'pending' AND forget_ms <= ?", time.Now().UnixMilli()); err != nil {
		return fmt.Errorf("sweep approvals: %w", err)
	}
	return nil
}
