package gateway_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
)

// keptApprovals is the store's approvals in the gateway's words.
type keptApprovals struct{ *store.Approvals }

func (k keptApprovals) Add(ctx context.Context, a gateway.StoredApproval, body []byte) error {
	return k.Approvals.Add(ctx, store.Approval(a), body)
}

func (k keptApprovals) Settle(ctx context.Context, now gateway.StoredApproval, ended *gateway.Stored) error {
	return k.Approvals.Settle(ctx, store.Approval(now), (*store.Execution)(ended))
}

func (k keptApprovals) Load(ctx context.Context, id string) (gateway.StoredApproval, error) {
	found, err := k.Approvals.Load(ctx, id)
	return gateway.StoredApproval(found), err
}

func (k keptApprovals) ByExecution(ctx context.Context, id string) (gateway.StoredApproval, error) {
	found, err := k.Approvals.ByExecution(ctx, id)
	return gateway.StoredApproval(found), err
}

func (k keptApprovals) List(ctx context.Context, q gateway.ApprovalQuery) ([]gateway.StoredApproval, error) {
	list, err := k.Approvals.List(ctx, store.ApprovalQuery(q))
	return storedApprovals(list), err
}

func (k keptApprovals) Overdue(ctx context.Context, now time.Time, most int) ([]gateway.StoredApproval, time.Time, error) {
	due, next, err := k.Approvals.Overdue(ctx, now, most)
	return storedApprovals(due), next, err
}

func (k keptApprovals) Interrupted(ctx context.Context) ([]gateway.StoredApproval, error) {
	list, err := k.Approvals.Interrupted(ctx)
	return storedApprovals(list), err
}

func (k keptApprovals) Selected(ctx context.Context, which execution.Erasure) ([]gateway.StoredApproval, error) {
	s := store.Selection{Execution: which.Execution, Tenant: which.Tenant, Subject: which.Subject}
	if which.Before != nil {
		s.Before = *which.Before
	}
	list, err := k.Approvals.Selected(ctx, s)
	return storedApprovals(list), err
}

func storedApprovals(list []store.Approval) []gateway.StoredApproval {
	var out []gateway.StoredApproval
	for _, a := range list {
		out = append(out, gateway.StoredApproval(a))
	}
	return out
}

// shelf is what a gateway remembers on disk, to be opened again after a restart.
type shelf struct {
	dir  string
	keys *ring // of those who ask
}

func newShelf(t testing.TB, w *world) *shelf {
	t.Helper()
	return &shelf{dir: t.TempDir(), keys: &ring{w: w, keys: []execution.Key{{ID: "ak_caller", Tenant: "acme"}}}}
}

// open puts what is on the shelf into config.
func (s *shelf) open(t testing.TB, config *gateway.ServiceConfig) *store.Store {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(s.dir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	executions, err := store.NewExecutions(db, 0)
	if err != nil {
		t.Fatal(err)
	}
	approvals, err := store.NewApprovals(store.ApprovalsConfig{Store: db, KeyFile: filepath.Join(s.dir, "approvals.key"), MaxPending: 5})
	if err != nil {
		t.Fatal(err)
	}
	config.Executions, config.Approvals, config.Requesters = kept{executions}, keptApprovals{approvals}, s.keys
	return db
}
