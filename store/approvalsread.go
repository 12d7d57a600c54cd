package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

const approvalColumns = "id, execution, tenant, subject, state, about, created_ms, expires_ms, by_subject, at_ms, comment, why, forget_ms"

// Load returns the approval called id, with its Request while it is pending. It is
// an error of KindNotFound where there is none; and where the request cannot be
// read any more one of KindGone, beside which all but the Request is returned.
func (s *Approvals) Load(ctx context.Context, id string) (Approval, error) {
	var sealed []byte
	row := s.store.read.QueryRowContext(ctx, "SELECT "+approvalColumns+", sealed FROM approvals WHERE id = ?", id)
	found, err := scanApproval(func(into ...any) error { return row.Scan(append(into, &sealed)...) })
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return Approval{}, &execution.Error{Kind: execution.KindNotFound, Code: "approval_not_found", Detail: "there is no such approval"}
	case err != nil:
		return Approval{}, fmt.Errorf("load approval: %w", err)
	case found.State != execution.ApprovalPending:
		return found, nil
	}
	found.Request, err = s.sealer.open(sealed, found)
	return found, err
}

// ApprovalQuery says which approvals to list.
type ApprovalQuery struct {
	Tenant string
	State  execution.ApprovalState // empty: any
	After  string                  // an id: only those that were asked for later
	Most   int
}

// List returns approvals in the order they were asked for, without their Request.
func (s *Approvals) List(ctx context.Context, q ApprovalQuery) ([]Approval, error) {
	if q.State == "" {
		return s.list(ctx, "WHERE tenant = ? AND id > ? ORDER BY id LIMIT ?", q.Tenant, q.After, q.Most)
	}
	return s.list(ctx, "WHERE tenant = ? AND state = ? AND id > ? ORDER BY id LIMIT ?", q.Tenant, string(q.State), q.After, q.Most)
}

// Overdue returns at most `most` approvals that are pending past their time,
// without their Request, and when the next one is due: zero where there is none.
func (s *Approvals) Overdue(ctx context.Context, now time.Time, most int) (due []Approval, next time.Time, err error) {
	if due, err = s.list(ctx, "WHERE state = 'pending' AND expires_ms <= ? ORDER BY expires_ms LIMIT ?", now.UnixMilli(), most); err != nil {
		return nil, time.Time{}, err
	}
	var ms sql.NullInt64
	if err := s.store.read.QueryRowContext(ctx, "SELECT min(expires_ms) FROM approvals WHERE state = 'pending' AND expires_ms > ?", now.UnixMilli()).Scan(&ms); err != nil {
		return nil, time.Time{}, fmt.Errorf("read approvals: %w", err)
	}
	if ms.Valid {
		next = time.UnixMilli(ms.Int64).UTC()
	}
	return due, next, nil
}

// Selected returns the approvals that are pending and selected, without their Request.
func (s *Approvals) Selected(ctx context.Context, which Selection) ([]Approval, error) {
	condition, args, err := which.where("execution", "created_ms")
	if err != nil {
		return nil, err
	}
	return s.list(ctx, "WHERE state = 'pending' AND "+condition+" ORDER BY id", args...)
}

// Interrupted returns the approvals that were given and whose execution still
// awaits them: the process ended in between.
func (s *Approvals) Interrupted(ctx context.Context) ([]Approval, error) {
	return s.list(ctx, "WHERE state = 'approved' AND execution IN (SELECT id FROM executions WHERE state = 'awaiting_approval')")
}

// ByExecution returns the approval that the execution awaits, or has had, without
// its Request. It is an error of KindNotFound where there is none.
func (s *Approvals) ByExecution(ctx context.Context, id string) (Approval, error) {
	found, err := s.list(ctx, "WHERE execution = ?", id)
	if err == nil && len(found) == 0 {
		err = &execution.Error{Kind: execution.KindNotFound, Code: "approval_not_found", Detail: "there is no such approval"}
	}
	if err != nil {
		return Approval{}, err
	}
	return found[0], nil
}

func (s *Approvals) list(ctx context.Context, where string, args ...any) ([]Approval, error) {
	rows, err := s.store.read.QueryContext(ctx, "SELECT "+approvalColumns+" FROM approvals "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list approvals: %w", err)
	}
	defer rows.Close()
	var list []Approval
	for rows.Next() {
		found, err := scanApproval(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("list approvals: %w", err)
		}
		list = append(list, found)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list approvals: %w", err)
	}
	return list, nil
}

func scanApproval(scan func(...any) error) (a Approval, err error) {
	var about, state string
	var created, expires, at, forget int64
	err = scan(&a.ID, &a.Execution, &a.Tenant, &a.Subject, &state, &about, &created, &expires, &a.By, &at, &a.Comment, &a.Why, &forget)
	a.State, a.About = execution.ApprovalState(state), []byte(about)
	a.Created, a.Expires = time.UnixMilli(created).UTC(), time.UnixMilli(expires).UTC()
	if a.State != execution.ApprovalPending {
		a.At, a.Forget = time.UnixMilli(at).UTC(), time.UnixMilli(forget).UTC()
	}
	return a, err
}
