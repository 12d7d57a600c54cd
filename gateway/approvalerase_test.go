package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// erasing is an office where erasures can be asked for.
func (o *office) erasing(t *testing.T) *site {
	s := serve(t, o.world, func(c *gateway.Config) { c.Service, c.Eraser = o.service, &shredder{world: o.world} })
	s.service = o.service
	return s
}

func erase(t *testing.T, s *site, token, body string) (approvals int64) {
	t.Helper()
	a := s.do("POST", "/v1/erasures", token, body)
	var done execution.Erasure
	if err := json.Unmarshal([]byte(a.body), &done); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	return done.Approvals
}

// What awaits approval is erased with the rest: the approval is voided, on the record,
// and cannot be given any more; what is not selected waits on.
func TestErasureVoidsWhatAwaitsApproval(t *testing.T) {
	o := newOffice(t, nil)
	s := o.erasing(t)
	first, second, third := o.ask(), o.ask(), o.ask()
	if n := erase(t, s, "admin/acme", `{"execution":"`+first.ID+`"}`); n != 1 {
		t.Errorf("%d approvals", n)
	}
	if n := erase(t, s, "admin/other", `{"before":"2099-01-01T00:00:00Z"}`); n != 0 {
		t.Errorf("%d approvals of another tenant", n)
	}
	if n := erase(t, s, "admin/acme", `{"before":"2020-01-01T00:00:00Z"}`); n != 0 {
		t.Errorf("%d approvals of another time", n)
	}
	if n := erase(t, s, "admin/acme", `{"tenant":"acme","subject":"ak_nobody"}`); n != 0 {
		t.Errorf("%d approvals of another principal", n)
	}
	o.state(second.ID, "awaiting_approval")
	if body := o.state(first.ID, "denied"); !strings.Contains(body, "approval_voided") || !strings.Contains(body, `"code":"erased"`) {
		t.Error(body)
	}
	if a := o.decideOn(first.Approval, approverToken, yes); a.StatusCode != http.StatusConflict {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := o.do("GET", "/v1/approvals/"+first.Approval, approverToken, ""); !strings.Contains(a.body, `"state":"voided"`) || !strings.Contains(a.body, `"why":"erased"`) ||
		!strings.Contains(a.body, `"by":"ak_admin"`) || strings.Contains(a.body, `"request"`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	records := o.recorded()
	var voided []execution.Record
	for i, r := range records {
		if r.Type == execution.RecordApprovalVoided {
			voided = append(voided, r)
			if before := records[i-1]; before.Type != execution.RecordErased || before.Erasure.Approvals != 1 {
				t.Errorf("before it comes %+v", before)
			}
		}
	}
	if len(voided) != 1 || voided[0].Approval.ID != first.Approval || voided[0].Approval.Why != "erased" || voided[0].Execution != first.ID ||
		voided[0].Principal == nil || voided[0].Principal.Subject != "ak_admin" {
		t.Errorf("recorded is %+v", voided)
	}

	// Where that cannot be recorded it stays, and is asked for again.
	o.append = func(_ context.Context, r execution.Record) error {
		if r.Type == execution.RecordApprovalVoided {
			return errors.New("disk full")
		}
		return nil
	}
	if a := s.do("POST", "/v1/erasures", "admin/acme", `{"tenant":"acme"}`); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	o.state(second.ID, "awaiting_approval")
	o.append = func(context.Context, execution.Record) error { return nil }
	if n := erase(t, s, "admin/acme", `{"tenant":"acme"}`); n != 2 {
		t.Errorf("%d approvals", n)
	}
	o.state(second.ID, "denied")
	o.state(third.ID, "denied")
	if strings.Contains(o.history(), "execute") {
		t.Error("something ran")
	}
}

// addLater is approvals where something happens just before one is kept.
type addLater struct {
	gateway.Approvals
	before func()
}

func (a addLater) Add(ctx context.Context, added gateway.StoredApproval, body []byte) error {
	a.before()
	return a.Approvals.Add(ctx, added, body)
}

// What was asked for before an erasure, and is kept only after it, is erased with it.
func TestErasureReachesWhatIsOnItsWay(t *testing.T) {
	var before func()
	o := newOffice(t, func(c *gateway.ServiceConfig) { c.Approvals = addLater{c.Approvals, func() { before() }} })
	s := o.erasing(t)
	for _, test := range []struct {
		body, state string
	}{ // what an erasure leaves to wait, the ones after it must not select
		{`{"tenant":"acme"}`, "denied"},
		{`{"tenant":"other"}`, "awaiting_approval"},
		{`{"before":"2020-01-01T00:00:00Z"}`, "awaiting_approval"},
	} {
		before = func() {
			if n := erase(t, s, "admin/default", test.body); n != 0 {
				t.Errorf("%s: %d approvals are there already", test.body, n)
			}
		}
		asked := o.ask()
		before = func() {}
		o.state(asked.ID, test.state)
		o.state(o.ask().ID, "awaiting_approval") // asked for after it
	}
}
