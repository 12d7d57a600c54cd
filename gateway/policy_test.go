package gateway_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// shelfOfPolicies is a gateway.Policies whose bundles are their own digests.
type shelfOfPolicies struct {
	mu  sync.Mutex
	all []execution.PolicyActivation
}

func (p *shelfOfPolicies) State(context.Context) execution.PolicyState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := execution.PolicyState{Before: []execution.PolicyActivation{}}
	if n := len(p.all); n > 0 {
		s.Active, s.Before = &p.all[n-1], p.all[:n-1]
	}
	return s
}

func (p *shelfOfPolicies) Put(ctx context.Context, archive []byte, by execution.Principal) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if strings.Contains(string(archive), "broken") {
		return &execution.Error{Kind: execution.KindInvalid, Code: "policy_broken", Detail: "the policy is refused: a.rego:3"}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, execution.PolicyActivation{Digest: string(archive), By: by.Subject})
	return nil
}

func (p *shelfOfPolicies) Rollback(context.Context, execution.Principal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) < 2 {
		return &execution.Error{Kind: execution.KindConflict, Code: "policy_nothing_before", Detail: "there is no policy to go back to"}
	}
	p.all = p.all[:len(p.all)-1]
	return nil
}

func TestPolicyOverHTTP(t *testing.T) {
	s := serve(t, newWorld(), func(c *gateway.Config) { c.Policies = &shelfOfPolicies{} })
	const author, gzip = "policy_author/default", "application/gzip"
	for _, step := range []struct {
		name, method, path, token, body string
		headers                         []string
		status                          int
		says                            string
	}{
		{"nothing yet", "GET", "/v1/policy", author, "", nil, 200, `"before":[]`},
		{"nothing to go back to", "POST", "/v1/policy/rollback", author, "", nil, 409, "policy_nothing_before"},
		{"the first", "PUT", "/v1/policy", author, "first", []string{"Content-Type", gzip}, 200, `"digest":"first"`},
		{"the second, as OPA calls it", "PUT", "/v1/policy", "admin/default", "second", []string{"Content-Type", "application/vnd.openpolicyagent.bundles"}, 200, `"digest":"second"`},
		{"broken", "PUT", "/v1/policy", author, "broken", []string{"Content-Type", gzip}, 400, "policy_broken"},
		{"as it was", "GET", "/v1/policy", author, "", nil, 200, `"digest":"second"`},
		{"JSON", "PUT", "/v1/policy", author, "{}", nil, 415, "execgate policy bundle"},
		{"compressed twice", "PUT", "/v1/policy", author, "x", []string{"Content-Type", gzip, "Content-Encoding", "gzip"}, 415, "Content-Encoding"},
		{"too large", "PUT", "/v1/policy", author, strings.Repeat("x", 16<<20+1), []string{"Content-Type", gzip}, 413, "too_large"},
		{"a rollback with a body", "POST", "/v1/policy/rollback", author, "{}", nil, 400, "send no body"},
		{"a rollback", "POST", "/v1/policy/rollback", author, "", nil, 200, `"digest":"first"`},
		{"another tenant's author looks", "GET", "/v1/policy", "policy_author/acme", "", nil, 403, "other_tenant"},
		{"another tenant's author", "PUT", "/v1/policy", "policy_author/acme", "x", []string{"Content-Type", gzip}, 403, "other_tenant"},
		{"another tenant's admin", "POST", "/v1/policy/rollback", "admin/acme", "", nil, 403, "other_tenant"},
		{"an auditor", "GET", "/v1/policy", "auditor/default", "", nil, 403, "role_required"},
	} {
		a := s.do(step.method, step.path, step.token, step.body, step.headers...)
		if a.StatusCode != step.status || !strings.Contains(string(a.body), step.says) {
			t.Errorf("%s: %d %.300s, want %d and %s", step.name, a.StatusCode, a.body, step.status, step.says)
		}
	}
}

func TestPolicyThatCannotBeChanged(t *testing.T) {
	s := serve(t, newWorld(), nil)
	if a := s.do("GET", "/v1/policy", "admin/default", ""); a.StatusCode != 503 || a.problem(t).Code != "policy_fixed" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
