package execution_test

import (
	"slices"
	"testing"

	"github.com/execgate/execgate/execution"
)

// A tenant's records are those of its principals, and those about its keys and its
// policy, whoever changed them: exports, searches and reads hold to the same.
func TestWhoseARecordIs(t *testing.T) {
	operator := &execution.Principal{Tenant: execution.TenantOperator, Subject: "ak_operator"}
	for name, test := range map[string]struct {
		record execution.Record
		tenant string
	}{
		"nobody's":              {execution.Record{Type: execution.RecordHeartbeat}, ""},
		"its principal's":       {execution.Record{Type: execution.RecordDecided, Principal: &execution.Principal{Tenant: "acme"}}, "acme"},
		"its key's":             {execution.Record{Type: execution.RecordKeyCreated, Principal: operator, Key: &execution.KeyChange{Tenant: "acme"}}, "acme"},
		"the key's of a start":  {execution.Record{Type: execution.RecordKeyCreated, Key: &execution.KeyChange{Tenant: "acme"}}, "acme"},
		"its policy's":          {execution.Record{Type: execution.RecordPolicyActivated, Principal: operator, Policy: &execution.PolicyChange{Tenant: "acme"}}, "acme"},
		"the organisation's":    {execution.Record{Type: execution.RecordPolicyActivated, Principal: operator, Policy: &execution.PolicyChange{}}, "default"},
		"a watched folder's":    {execution.Record{Type: execution.RecordPolicyActivated, Policy: &execution.PolicyChange{}}, ""},
		"a key of no tenant":    {execution.Record{Type: execution.RecordKeyRevoked, Principal: operator, Key: &execution.KeyChange{}}, "default"},
		"a principal of nobody": {execution.Record{Type: execution.RecordDecided, Principal: &execution.Principal{}}, ""},
	} {
		owner := test.tenant
		if owner == "" {
			owner = execution.TenantOperator
		}
		found := slices.Contains(execution.TermsOf(test.record), execution.RecordTerm{Kind: execution.TermTenant, Value: owner})
		if got := execution.TenantOf(test.record); got != test.tenant || execution.OwnerOf(test.record) != owner || !found {
			t.Errorf("%s: of %q, owned by %q, found by %v", name, got, execution.OwnerOf(test.record), execution.TermsOf(test.record))
		}
	}
}
