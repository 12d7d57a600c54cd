package activation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// TenantEngine is what tenants' own policies are put in force in; *policy.Witness
// is one.
type TenantEngine interface {
	ActivateTenant(ctx context.Context, tenant string, bundle policy.Bundle) (revision string, err error)
	RefuseTenant(tenant string)
	DropTenant(tenant string)
}

// TenantsConfig is what Tenants are made from.
type TenantsConfig struct {
	// Folder has a folder for each tenant that has a policy of its own, named as
	// the tenant.
	Folder string
	// Valid reports whether a tenant can have a name.
	Valid   func(name string) bool
	Engine  TenantEngine
	Workers Workers
	// RequireTests refuses policies that have no tests.
	RequireTests bool
	// Record makes a record durable.
	Record func(ctx context.Context, record execution.Record) error
	Logger *slog.Logger
}

// Tenants puts tenants' own policies in force. One that is refused denies its
// tenant and no other, unless an earlier one is in force, which then stays. Load
// and Look are not to be called concurrently.
type Tenants struct {
	cfg    TenantsConfig
	trial  trial
	known  map[string]own
	unread string // the error of the folder that was recorded last; empty since it could be read

	mu     sync.Mutex
	counts Counts
}

// own is what is known of a tenant's own policy.
type own struct {
	tried   string // the digest of what was tried last, or why it could not be read; empty: it has to be tried again
	told    string // why it was refused, as it was recorded last
	inForce bool   // false: everything of the tenant is denied
}

// NewTenants returns Tenants of which none has a policy in force.
func NewTenants(cfg TenantsConfig) *Tenants {
	return &Tenants{cfg: cfg, trial: trial{cfg.Workers, cfg.RequireTests}, known: map[string]own{}}
}

// Check reports why nobody can say which tenants have a policy.
func (t *Tenants) Check() error {
	root, _, err := t.list()
	if err != nil {
		return err
	}
	return root.Close()
}

// Load puts every tenant's policy in force, at a start. An error means that nobody
// can say which tenants have one, or that something could not be recorded.
func (t *Tenants) Load(ctx context.Context) error {
	root, tenants, err := t.list()
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // it was only read
	for _, tenant := range tenants {
		if _, err := t.follow(ctx, root, tenant); err != nil {
			return err
		}
	}
	return nil
}

// Look puts in force what the folder has, where that is new. Where it has to be
// looked at again though nothing changes, because what went wrong was not a
// policy's fault, again is set.
func (t *Tenants) Look(ctx context.Context) (again bool) {
	root, tenants, err := t.list()
	if err != nil {
		t.unreadable(ctx, err)
		return true
	}
	defer root.Close() //nolint:errcheck // it was only read
	t.unread = ""
	for _, tenant := range slices.Concat(tenants, t.gone(tenants)) {
		if ctx.Err() != nil {
			return false
		}
		tryAgain, err := t.follow(ctx, root, tenant)
		if err != nil {
			t.cfg.Logger.ErrorContext(ctx, "a tenant's policy is tried again", "tenant", tenant, "error", err)
		}
		again = again || tryAgain || err != nil
	}
	return again
}

// list opens the folder and names the tenants that have one in it.
func (t *Tenants) list() (*os.Root, []string, error) {
	root, err := os.OpenRoot(t.cfg.Folder) // holds also against links put there later
	if err != nil {
		return nil, nil, err
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	var tenants []string
	for _, entry := range entries {
		switch name := entry.Name(); {
		case name[0] == '.':
		case !entry.IsDir() || !t.cfg.Valid(name):
			err = errors.Join(err, fmt.Errorf("%s in %s is no folder of a tenant's name", name, t.cfg.Folder))
		default:
			tenants = append(tenants, name)
		}
	}
	if err != nil {
		return nil, nil, errors.Join(err, root.Close())
	}
	return root, tenants, nil
}

// unreadable records, once, that nobody can say which tenants have a policy.
func (t *Tenants) unreadable(ctx context.Context, err error) {
	if err.Error() == t.unread {
		return
	}
	t.cfg.Logger.ErrorContext(ctx, "the tenants' policies cannot be read; those in force stay", "folder", t.cfg.Folder, "error", err)
	change := execution.PolicyChange{Source: t.cfg.Folder, Errors: problemsOf(err)}
	if t.record(ctx, execution.RecordPolicyRefused, change) == nil {
		t.unread = err.Error()
	}
}

// gone are the tenants that had a folder, and have none.
func (t *Tenants) gone(tenants []string) (gone []string) {
	for _, tenant := range slices.Sorted(maps.Keys(t.known)) {
		if !slices.Contains(tenants, tenant) {
			gone = append(gone, tenant)
		}
	}
	return gone
}

// follow puts in force, refuses or takes out of force what a tenant's folder has,
// where that is new. An error means that it could not be recorded, and all is as it
// was.
func (t *Tenants) follow(ctx context.Context, root *os.Root, tenant string) (again bool, err error) {
	change := execution.PolicyChange{Layer: execution.LayerTenant, Source: t.cfg.Folder + "/" + tenant, Tenant: tenant}
	was, known := t.known[tenant]
	files, err := readOwn(root, tenant)
	if errors.Is(err, fs.ErrNotExist) {
		if known {
			return false, t.drop(ctx, change)
		}
		return false, nil // it was gone before it was read
	}
	var tried string
	if err != nil {
		tried = err.Error()
	} else {
		change.Digest = files.Digest()
		tried = change.Digest
	}
	if known && was.tried == tried {
		return err != nil, nil
	}
	if err == nil {
		err = t.try(ctx, &change, files)
	}
	var unrecorded *unrecordedError
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err() // nothing is known of the policy
	case errors.As(err, &unrecorded):
		return true, err
	case err != nil:
		return t.refuse(ctx, change, tried, err)
	}
	t.known[tenant] = own{tried: tried, inForce: true}
	t.cfg.Logger.InfoContext(ctx, "a tenant's policy is in force", "tenant", tenant, "revision", change.Revision)
	return false, nil
}

// readOwn reads the bundle of a tenant.
func readOwn(root *os.Root, tenant string) (policy.Files, error) {
	folder, err := root.OpenRoot(tenant)
	if err != nil {
		return nil, err
	}
	defer folder.Close() //nolint:errcheck // it was only read
	var c Candidate
	err = c.read(folder)
	return c.Files, err
}

// try holds a tenant's policy against what each has to meet, records it, and puts it
// in force.
func (t *Tenants) try(ctx context.Context, change *execution.PolicyChange, files policy.Files) (err error) {
	ctx, cancel := context.WithTimeout(ctx, swapTimeout)
	defer cancel()
	bundle := policy.Bundle{Files: files, Source: change.Source}
	if change.Revision, err = t.cfg.Workers.Load(ctx, bundle); err != nil {
		return err
	}
	defer t.cfg.Workers.Forget(change.Revision)
	if err := t.trial.test(ctx, bundle); err != nil {
		return err
	}
	if err := t.trial.time(ctx, change.Revision); err != nil {
		return err
	}
	if err := t.record(ctx, execution.RecordPolicyActivated, *change); err != nil {
		return err
	}
	_, err = t.cfg.Engine.ActivateTenant(ctx, change.Tenant, bundle) // known to the workers by now
	return err
}

// refuse leaves the policy in force that is, and denies everything of the tenant
// where none is.
func (t *Tenants) refuse(ctx context.Context, change execution.PolicyChange, tried string, err error) (again bool, _ error) {
	t.cfg.Engine.RefuseTenant(change.Tenant)
	now := t.known[change.Tenant]
	if now.told != err.Error() {
		change.Errors = problemsOf(err)
		t.cfg.Logger.ErrorContext(ctx, "a tenant's policy is refused; the one in force stays, and where there is none everything of the tenant is denied",
			"tenant", change.Tenant, "in_force", now.inForce, "error", err)
		if err := t.record(ctx, execution.RecordPolicyRefused, change); err != nil {
			return true, err
		}
	}
	now.tried, now.told = tried, err.Error()
	if again = faultOf(err).Kind == execution.KindUnavailable; again {
		now.tried = "" // it was not the policy's fault
	}
	t.known[change.Tenant] = now
	return again, nil
}

// drop takes a tenant's policy out of force, since its folder is gone. It widens
// what the tenant may, and so it is recorded before.
func (t *Tenants) drop(ctx context.Context, change execution.PolicyChange) error {
	if err := t.record(ctx, execution.RecordPolicyDropped, change); err != nil {
		return err
	}
	t.cfg.Engine.DropTenant(change.Tenant)
	delete(t.known, change.Tenant)
	t.cfg.Logger.WarnContext(ctx, "a tenant has no policy of its own any more", "tenant", change.Tenant)
	return nil
}

func (t *Tenants) record(ctx context.Context, kind execution.RecordType, change execution.PolicyChange) error {
	err := t.cfg.Record(context.WithoutCancel(ctx), execution.Record{Type: kind, Policy: &change})
	if err != nil {
		return &unrecordedError{change.Source, err}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch kind {
	case execution.RecordPolicyActivated:
		t.counts.Activated++
	case execution.RecordPolicyRefused:
		t.counts.Refused++
	}
	return nil
}

// unrecordedError says that a change could not be recorded, and was not made.
type unrecordedError struct {
	source string
	err    error
}

func (e *unrecordedError) Error() string {
	return fmt.Sprintf("record the policy of %s: %v", e.source, e.err)
}

func (e *unrecordedError) Unwrap() error { return e.err }

// Counts are those since the start.
func (t *Tenants) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}
