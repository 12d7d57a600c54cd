package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// A read past the gateway is answered with the number of its record, and only where
// there is one that allows it.
func TestReadsPastTheGateway(t *testing.T) {
	s := serve(t, newWorld(), nil)
	const id, path = "ex_01J8ZQ4YJ5T1V2W3X4Y5Z6A7B8", "/v1/records/reads"
	const body = `{"execution":"` + id + `","count":3}`
	a := s.do("POST", path, "auditor/default", body)
	var noted struct {
		Record    *uint64
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(a.body), &noted); err != nil || a.StatusCode != http.StatusCreated || noted.Record == nil {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	want := execution.AuditRead{What: "full", Filter: map[string]string{"execution": id}, Count: 3, Effect: "allow", Reasons: []execution.Reason{}, Revision: "sha256:rev"}
	if diff := cmp.Diff([]execution.AuditRead{want}, s.reads()); diff != "" {
		t.Error(diff)
	}
	if r := s.recorded()[0]; r.RequestID != noted.RequestID || r.RequestID != a.Header.Get("X-Request-Id") || r.Principal.Subject != "ak_auditor" {
		t.Errorf("%+v, answered %s", r, a.body)
	}

	for wrong, status := range map[string]int{
		`{}`: 400, `[]`: 400, `{"execution":"ex"}`: 400, `{"execution":"` + id + `","count":-1}`: 400, `{"execution":"` + id + `","count":2000000}`: 400,
		`{"execution":"` + id + `","tenant":"acme"}`: 400, `{"execution":"se_01J8ZQ4YJ5T1V2W3X4Y5Z6A7B8"}`: 201,
	} {
		if a := s.do("POST", path, "auditor/default", wrong); a.StatusCode != status {
			t.Errorf("%s: %d %s", wrong, a.StatusCode, a.body)
		}
	}
	if a := s.do("POST", path, "auditor/acme", body); a.StatusCode != 403 || a.problem(t).Code != "other_tenant" {
		t.Errorf("of another tenant: %d %s", a.StatusCode, a.body)
	}
	recorded := len(s.reads())
	if recorded != 2 {
		t.Errorf("%d reads are recorded", recorded)
	}
	s.decide = func(execution.Question) execution.Decision {
		return execution.Deny("sha256:rev", execution.Reason{Code: "local", Message: "not today"})
	}
	if a := s.do("POST", path, "auditor/default", body); a.StatusCode != 403 || s.reads()[recorded].Effect != execution.EffectDeny || s.reads()[recorded].Count != 0 {
		t.Errorf("that policy denies: %d %s %+v", a.StatusCode, a.body, s.reads())
	}
	s.decide = func(execution.Question) execution.Decision { return allow() }
	s.append = func(context.Context, execution.Record) error { return errors.New("full") }
	if a := s.do("POST", path, "auditor/default", body); a.StatusCode != 503 || a.problem(t).Code != "audit_unavailable" {
		t.Errorf("while the log is full: %d %s", a.StatusCode, a.body)
	}
}
