package replay

import (
	"context"
	"time"

	"github.com/execgate/execgate/policy"
)

// Group are the inputs that were decided by the same policies.
type Group struct {
	Organisation string // revision of the organisation's policy
	Terms        string // revision of what the operator's configuration added
	Own          string // revision of the tenant's own policy; empty: none
	Tenant       string // whose Own is; empty where that is
	Count        int64
}

// Input is one recorded decision.
type Input struct {
	Execution string
	Seq       uint64 // of the decision's record
	Tenant    string
	Time      time.Time
	Asked     []byte // the document that policy read, as JSON
	Answered  []byte // the execution.Decision, as JSON
}

// Source are recorded decisions. All its methods may be called concurrently.
type Source interface {
	// Groups returns the groups of what is to be replayed; those with the same
	// Organisation and Terms stand beside each other.
	Groups(ctx context.Context) ([]Group, error)
	// Each calls do with a function for every input of a group, which decrypts it
	// and may be called concurrently and after do has returned.
	Each(ctx context.Context, g Group, do func(open func(context.Context) (Input, error)) error) error
	// Bundle returns a bundle by its revision. tenant is whose it is; empty for the
	// organisation's.
	Bundle(ctx context.Context, revision, tenant string) (policy.Bundle, error)
	// Terms returns terms by their revision.
	Terms(ctx context.Context, revision string) (policy.Terms, error)
	// Lost returns how many decisions were not kept, by reason.
	Lost(ctx context.Context) (map[string]uint64, error)
	// Why names in one word why an error of Each's function or of Bundle or Terms
	// came to be, such as input_erased.
	Why(err error) string
}
