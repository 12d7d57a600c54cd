package main

import (
	"context"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
)

// keptApprovals is the store's approvals in the gateway's words, as kept is its
// executions.
type keptApprovals struct{ *store.Approvals }

// newApprovals keeps approvals in store; the key of their requests is in state.
func newApprovals(cfg ApprovalsConfig, s *store.Store, state *state) (gateway.Approvals, error) {
	approvals, err := store.NewApprovals(store.ApprovalsConfig{
		Store: s, KeyFile: state.path("approvals.key"), MaxPending: cfg.MaxPending, MaxBytes: cfg.PendingMiB << 20,
	})
	if err != nil {
		return nil, err
	}
	return keptApprovals{approvals}, nil
}

// Add implements gateway.Approvals.
func (k keptApprovals) Add(ctx context.Context, a gateway.StoredApproval, body []byte) error {
	return k.Approvals.Add(ctx, store.Approval(a), body)
}

// Settle implements gateway.Approvals.
func (k keptApprovals) Settle(ctx context.Context, now gateway.StoredApproval, ended *gateway.Stored) error {
	return k.Approvals.Settle(ctx, store.Approval(now), (*store.Execution)(ended))
}

// Load implements gateway.Approvals.
func (k keptApprovals) Load(ctx context.Context, id string) (gateway.StoredApproval, error) {
	found, err := k.Approvals.Load(ctx, id)
	return gateway.StoredApproval(found), err
}

// ByExecution implements gateway.Approvals.
func (k keptApprovals) ByExecution(ctx context.Context, id string) (gateway.StoredApproval, error) {
	found, err := k.Approvals.ByExecution(ctx, id)
	return gateway.StoredApproval(found), err
}

// List implements gateway.Approvals.
func (k keptApprovals) List(ctx context.Context, q gateway.ApprovalQuery) ([]gateway.StoredApproval, error) {
	list, err := k.Approvals.List(ctx, store.ApprovalQuery(q))
	return storedApprovals(list), err
}

// Overdue implements gateway.Approvals.
func (k keptApprovals) Overdue(ctx context.Context, now time.Time, most int) ([]gateway.StoredApproval, time.Time, error) {
	due, next, err := k.Approvals.Overdue(ctx, now, most)
	return storedApprovals(due), next, err
}

// Interrupted implements gateway.Approvals.
func (k keptApprovals) Interrupted(ctx context.Context) ([]gateway.StoredApproval, error) {
	list, err := k.Approvals.Interrupted(ctx)
	return storedApprovals(list), err
}

// Selected implements gateway.Approvals.
func (k keptApprovals) Selected(ctx context.Context, which execution.Erasure) ([]gateway.StoredApproval, error) {
	list, err := k.Approvals.Selected(ctx, selectionOf(which))
	return storedApprovals(list), err
}

func storedApprovals(list []store.Approval) []gateway.StoredApproval {
	var out []gateway.StoredApproval
	for _, a := range list {
		out = append(out, gateway.StoredApproval(a))
	}
	return out
}
