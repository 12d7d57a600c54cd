package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/identity"
	"github.com/execgate/execgate/policy"
)

// tenantPolicies are the policies that tenants have beside the organisation's:
// a folder each.
type tenantPolicies struct {
	folder string // empty: there are none
	policy *policy.Witness
	log    *audit.Log
	logger *slog.Logger
}

// load puts every tenant's policy in force. One that is refused denies its tenant
// and no other; an error means that nobody can say which tenants have one, or
// that it could not be recorded.
func (t *tenantPolicies) load(ctx context.Context) error {
	if t.folder == "" {
		return nil
	}
	entries, err := os.ReadDir(t.folder)
	if err != nil {
		return usage("policy.tenants: %w", err)
	}
	root, err := os.OpenRoot(t.folder) // holds also against links put there later
	if err != nil {
		return usage("policy.tenants: %w", err)
	}
	defer root.Close()
	for _, entry := range entries {
		tenant := entry.Name()
		if tenant[0] == '.' {
			continue
		}
		if !entry.IsDir() || !identity.ValidTenant(tenant) {
			return usage("policy.tenants: %s in %s is no folder of a tenant's name", tenant, t.folder)
		}
		if err := t.activate(ctx, root, tenant); err != nil {
			return err
		}
	}
	return nil
}

// activate puts one tenant's policy in force, or refuses it, and records which.
func (t *tenantPolicies) activate(ctx context.Context, root *os.Root, tenant string) error {
	ctx, cancel := context.WithTimeout(ctx, activateTimeout)
	defer cancel()
	source := t.folder + "/" + tenant
	revision, refused := t.compile(ctx, root, tenant, source)
	record := execution.Record{
		Type:   execution.RecordPolicyActivated,
		Policy: &execution.PolicyChange{Revision: revision, Source: source, Tenant: tenant},
	}
	if refused != nil {
		t.policy.RefuseTenant(tenant)
		t.logger.ErrorContext(ctx, "a tenant's policy is refused, and everything of the tenant denied", "tenant", tenant, "error", refused)
		record.Type, record.Policy.Errors = execution.RecordPolicyRefused, []string{refused.Error()}
		if broken, ok := errors.AsType[*policy.BundleError](refused); ok {
			record.Policy.Errors = broken.Problems
		}
	}
	if _, err := t.log.Append(ctx, record); err != nil {
		return fmt.Errorf("record the policy of tenant %q: %w", tenant, err)
	}
	return nil
}

func (t *tenantPolicies) compile(ctx context.Context, root *os.Root, tenant, source string) (revision string, err error) {
	own, err := root.OpenRoot(tenant)
	if err != nil {
		return "", err
	}
	defer own.Close()
	return t.policy.ActivateTenant(ctx, tenant, policy.Bundle{Files: own.FS(), Source: source})
}
