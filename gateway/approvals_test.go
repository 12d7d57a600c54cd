package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

const approverToken = "approver/acme"

// needsApproval is a policy that allows what was approved.
func needsApproval(q execution.Question) execution.Decision {
	d := allow()
	if q.Approval == nil {
		d.Effect, d.Approval = execution.EffectRequireApproval, &execution.ApprovalTerms{ExpiresS: 3600, Roles: []string{"approver"}}
		d.Reasons = []execution.Reason{{Code: "needs_review", Message: "reviewed first"}}
	}
	return d
}

// office is a gateway whose policy asks for approvals.
type office struct {
	*site
	shelf *shelf
}

func newOffice(t testing.TB, change func(*gateway.ServiceConfig)) *office {
	w := newWorld()
	w.decide = needsApproval
	return (&office{shelf: newShelf(t, w), site: &site{world: w}}).begin(t, change)
}

// begin starts a gateway on what is on the shelf.
func (o *office) begin(t testing.TB, change func(*gateway.ServiceConfig)) *office {
	t.Helper()
	config := o.world.config()
	o.shelf.open(t, &config)
	if change != nil {
		change(&config)
	}
	service, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	site := serve(t, o.world, func(c *gateway.Config) { c.Service = service })
	site.service = service
	return &office{site: site, shelf: o.shelf}
}

// awaits is the body of a 202.
type awaits struct {
	ID, State, Approval string
	Expires             time.Time
}

// ask has something wait for approval.
func (o *office) ask(headers ...string) awaits {
	o.t.Helper()
	a := o.do("POST", "/v1/executions", callerToken, program, headers...)
	var got awaits
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.StatusCode != 202 || got.State != "awaiting_approval" ||
		!execution.ValidID(execution.PrefixApproval, got.Approval) || a.Header.Get("Location") != "/v1/executions/"+got.ID {
		o.t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	return got
}

const (
	yes = `{"decision":"approve","comment":"looks fine"}`
	no  = `{"decision":"deny","comment":"not today"}`
)

func (o *office) decideOn(id, token, body string) answer {
	o.t.Helper()
	return o.do("POST", "/v1/approvals/"+id, token, body)
}

// state waits until the execution has come to the state, and returns its document.
func (o *office) state(id, want string) string {
	o.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		a := o.do("GET", "/v1/executions/"+id, callerToken, "")
		if strings.Contains(a.body, `"state":"`+want+`"`) {
			return a.body
		}
		if time.Now().After(deadline) {
			o.t.Fatalf("%d %s, want the state %s", a.StatusCode, a.body, want)
		}
		time.Sleep(5 * time.Millisecond) // there is nothing to wait on: an execution is asked about
	}
}

// types are those of the records so far.
func (o *office) types() string {
	var all []string
	for _, r := range o.recorded() {
		all = append(all, string(r.Type))
	}
	return strings.Join(all, " ")
}

func TestApprovedRunsOnce(t *testing.T) {
	for name, headers := range map[string][]string{
		"waits": nil, "async": {"Prefer", "respond-async"}, "stream": {"Accept", "text/event-stream"}, "key": {"Idempotency-Key", "k1"},
		"key and stream": {"Idempotency-Key", "k1", "Accept", "text/event-stream"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, nil)
			asked := o.ask(headers...)
			if strings.Contains(o.history(), "execute") {
				t.Fatal("it ran without approval")
			}
			o.state(asked.ID, "awaiting_approval")
			if name == "key" {
				if again := o.ask(headers...); again != asked {
					t.Errorf("%+v, before %+v", again, asked)
				}
			}
			a := o.decideOn(asked.Approval, approverToken, yes)
			if a.StatusCode != 200 || !strings.Contains(a.body, `"state":"approved"`) || !strings.Contains(a.body, `"by":"ak_approver"`) {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			if body := o.state(asked.ID, "ended"); !strings.Contains(body, `"outcome":"exited"`) || !strings.Contains(body, `"stdout":"out"`) {
				t.Error(body)
			}
			if want := "decided approval_requested approval_approved decided ended"; o.types() != want {
				t.Errorf("records %s", o.types())
			}
			for _, r := range o.recorded() {
				if r.Execution != asked.ID {
					t.Errorf("%s is about %s", r.Type, r.Execution)
				}
			}
			r := o.recorded()[2]
			if r.Principal.Subject != "ak_approver" || r.Approval.ID != asked.Approval || r.Approval.Comment != "looks fine" ||
				r.Approval.Binding.Subject != "ak_caller" || r.Approval.Binding.Image != digest || r.Approval.Binding.RequestSHA256 == "" {
				t.Errorf("%+v %+v", r, r.Approval)
			}
			for _, again := range []string{yes, no} {
				if a := o.decideOn(asked.Approval, approverToken, again); a.StatusCode != 409 || a.problem(t).Code != "approval_settled" {
					t.Errorf("again: %d %s", a.StatusCode, a.body)
				}
			}
			if strings.Count(o.history(), "execute") != 1 {
				t.Errorf("history %s", o.history())
			}
			if name == "key" { // the key still finds the one execution
				if a := o.do("POST", "/v1/executions", callerToken, program, headers...); a.StatusCode != 200 || !strings.Contains(a.body, asked.ID) {
					t.Errorf("%d %s", a.StatusCode, a.body)
				}
				other := strings.Replace(program, "print", "print ", 1)
				if a := o.do("POST", "/v1/executions", callerToken, other, headers...); a.StatusCode != 422 {
					t.Errorf("another body: %d %s", a.StatusCode, a.body)
				}
			}
		})
	}
}

func TestApproversAtOnce(t *testing.T) {
	o := newOffice(t, nil)
	asked := o.ask()
	counts := map[int]int{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			body := yes
			if i%2 == 1 {
				body = no
			}
			a := o.decideOn(asked.Approval, approverToken, body)
			mu.Lock()
			defer mu.Unlock()
			counts[a.StatusCode]++
		})
	}
	if all.Wait(); counts[200] != 1 || counts[409] != 15 {
		t.Errorf("%v", counts)
	}
	if n := strings.Count(o.types(), "approval_approved") + strings.Count(o.types(), "approval_denied"); n != 1 {
		t.Errorf("records %s", o.types())
	}
}

func TestDenied(t *testing.T) {
	o := newOffice(t, nil)
	asked := o.ask()
	if a := o.decideOn(asked.Approval, approverToken, no); a.StatusCode != 200 || !strings.Contains(a.body, `"state":"denied"`) || !strings.Contains(a.body, `"execution_state":"denied"`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if body := o.state(asked.ID, "denied"); !strings.Contains(body, `"code":"approval_denied"`) || !strings.Contains(body, "not today") {
		t.Error(body)
	}
	if o.types() != "decided approval_requested approval_denied" || strings.Contains(o.history(), "execute") {
		t.Errorf("records %s, history %s", o.types(), o.history())
	}
	if a := o.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 409 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// Who may not approve: it stays pending, and nothing is recorded or run.
func TestWhoMayApprove(t *testing.T) {
	o := newOffice(t, nil)
	o.decide = func(q execution.Question) execution.Decision {
		d := needsApproval(q)
		if d.Approval != nil && q.Request.Metadata["for"] == "admins" {
			d.Approval.Roles = []string{"admin"}
		}
		return d
	}
	asked := o.ask()
	// The same subject as asked, now with the role.
	own := execution.Principal{Subject: "ak_caller", Tenant: "acme", Roles: []execution.Role{execution.RoleApprover, execution.RoleAdmin}, Method: execution.MethodAPIKey}
	_, err := o.service.SettleApproval(t.Context(), gateway.Call{Principal: own}, asked.Approval, true, "")
	if problemOf(err).Code != "approval_own" || execution.KindOf(err) != execution.KindDenied {
		t.Errorf("one's own: %v", err)
	}
	for token, want := range map[string]int{
		callerToken: 403, "auditor/acme": 403, "policy_author/acme": 403, "approver/other": 404, "admin/other": 404, "admin/default": 404, "nobody": 401,
		"fail/revoked": 401, "fail/expired": 401,
	} {
		for _, body := range []string{yes, no} {
			if a := o.decideOn(asked.Approval, token, body); a.StatusCode != want {
				t.Errorf("%s: %d %s", token, a.StatusCode, a.body)
			}
		}
		if a := o.do("GET", "/v1/approvals/"+asked.Approval, token, ""); a.StatusCode != want || strings.Contains(a.body, asked.ID) {
			t.Errorf("GET as %s: %d %s", token, a.StatusCode, a.body)
		}
	}
	if a := o.do("GET", "/v1/approvals?state=all", "approver/other", ""); a.body != `{"approvals":[],"more":false}` {
		t.Errorf("%s", a.body)
	}
	adminsOnly := strings.Replace(program, `{`, `{"metadata":{"for":"admins"},`, 1)
	var second awaits
	if err := json.Unmarshal([]byte(o.do("POST", "/v1/executions", callerToken, adminsOnly).body), &second); err != nil {
		t.Fatal(err)
	}
	if a := o.decideOn(second.Approval, approverToken, yes); a.StatusCode != 403 || a.problem(t).Code != "approval_role" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := o.do("GET", "/v1/approvals/"+second.Approval, approverToken, ""); a.StatusCode != 200 || strings.Contains(a.body, `"request":`) {
		t.Errorf("who may not approve sees the request: %s", a.body)
	}
	if strings.Contains(o.types(), "approved") || strings.Contains(o.history(), "execute") {
		t.Errorf("records %s", o.types())
	}
	if a := o.decideOn(second.Approval, "admin/acme", yes); a.StatusCode != 200 {
		t.Errorf("an admin: %d %s", a.StatusCode, a.body)
	}
}

// What was approved is no longer what would run: it is voided, with a record.
func TestChangedSinceItWasAsked(t *testing.T) {
	other := strings.Replace(digest, "1", "2", 1)
	for name, test := range map[string]struct {
		why    string
		change func(o *office)
		status int
	}{
		"policy": {"policy_changed", func(o *office) {
			o.decide = func(q execution.Question) execution.Decision {
				d := needsApproval(q)
				d.Revision = "sha256:new"
				return d
			}
		}, 200},
		"a tenant's policy": {"policy_changed", func(o *office) {
			o.decide = func(q execution.Question) execution.Decision {
				d := needsApproval(q)
				d.Layers = []execution.Layer{{Name: execution.LayerTenant, Revision: "sha256:t"}}
				return d
			}
		}, 200},
		"policy, and it denies": {"policy_changed", func(o *office) {
			o.decide = func(execution.Question) execution.Decision {
				return execution.Deny("sha256:new", execution.Reason{Code: "no"})
			}
		}, 200},
		"image": {"image_changed", func(o *office) {
			o.image = func(string, string) (execution.Image, error) {
				return execution.Image{Name: "python", Digest: other}, nil
			}
		}, 410},
		"no image": {"image_changed", func(o *office) {
			o.image = func(string, string) (execution.Image, error) {
				return execution.Image{}, &execution.Error{Kind: execution.KindNotFound}
			}
		}, 410},
		"requester revoked": {"requester_revoked", func(o *office) { o.shelf.keys.keys[0].Revoked = time.Now() }, 410},
		"requester expired": {"requester_revoked", func(o *office) { o.shelf.keys.keys[0].Expires = time.Now() }, 410},
		"requester gone":    {"requester_revoked", func(o *office) { o.shelf.keys.keys = nil }, 410},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, nil)
			asked := o.ask()
			test.change(o)
			if a := o.decideOn(asked.Approval, approverToken, yes); a.StatusCode != test.status {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			if body := o.state(asked.ID, "denied"); !strings.Contains(body, `"code":"approval_void`) && !strings.Contains(body, "approval does not hold") {
				t.Error(body)
			}
			a := o.do("GET", "/v1/approvals/"+asked.Approval, approverToken, "")
			if !strings.Contains(a.body, `"state":"voided"`) || !strings.Contains(a.body, `"why":"`+test.why+`"`) {
				t.Error(a.body)
			}
			records := o.recorded()
			last := records[len(records)-1]
			if last.Type != execution.RecordApprovalVoided || last.Approval.Why != test.why || last.Principal.Subject != "ak_approver" {
				t.Errorf("%+v %+v", last, last.Approval)
			}
			for _, r := range records[1:] {
				if d := r.Decided; d != nil && (d.Decision.Effect != execution.EffectDeny || d.Decision.Grant.Image != "") {
					t.Errorf("%+v", d.Decision)
				}
			}
			if strings.Contains(o.history(), "execute") {
				t.Error("it ran")
			}
		})
	}
}

// Policy has the last word, and says it only once.
func TestDecidedAnew(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(q execution.Question) execution.Decision
		code   string
	}{
		"denies": {func(q execution.Question) execution.Decision {
			if q.Approval == nil {
				return needsApproval(q)
			}
			return execution.Deny("sha256:rev", execution.Reason{Code: "budget_spent"})
		}, "budget_spent"},
		"asks again": {func(q execution.Question) execution.Decision {
			q.Approval = nil
			return needsApproval(q)
		}, "approval_repeated"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, nil)
			var seen []*execution.ApprovalGiven
			o.decide = func(q execution.Question) execution.Decision { seen = append(seen, q.Approval); return test.answer(q) }
			asked := o.ask()
			if a := o.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 200 || !strings.Contains(a.body, test.code) || !strings.Contains(a.body, `"state":"approved"`) {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
			if body := o.state(asked.ID, "denied"); !strings.Contains(body, test.code) {
				t.Error(body)
			}
			if g := seen[1]; len(seen) != 2 || g.ID != asked.Approval || g.By != "ak_approver" || g.Comment != "looks fine" || g.At.IsZero() || g.RequestSHA256 == "" {
				t.Errorf("policy saw %+v", g)
			}
			if strings.Contains(o.history(), "execute") {
				t.Error("it ran")
			}
		})
	}
}

func TestExpiresByItself(t *testing.T) {
	o := newOffice(t, nil)
	o.decide = func(q execution.Question) execution.Decision {
		d := needsApproval(q)
		if d.Approval != nil {
			d.Approval.ExpiresS = 1
		}
		return d
	}
	asked := o.ask()
	a := o.do("GET", "/v1/approvals/"+asked.Approval+"?wait=30s", approverToken, "")
	if !strings.Contains(a.body, `"state":"expired"`) || time.Now().Before(asked.Expires) {
		t.Errorf("%s", a.body)
	}
	if body := o.state(asked.ID, "expired"); !strings.Contains(body, `"code":"approval_expired"`) {
		t.Error(body)
	}
	if a := o.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 409 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	records := o.recorded()
	if last := records[len(records)-1]; last.Type != execution.RecordApprovalExpired || last.Principal != nil || last.Approval.Binding.Subject != "ak_caller" {
		t.Errorf("%+v", last)
	}
	if strings.Contains(o.history(), "execute") {
		t.Error("it ran")
	}
}

func TestAwaitingOutlivesTheGateway(t *testing.T) {
	o := newOffice(t, nil)
	asked := o.ask("Idempotency-Key", "k")
	if err := o.stop(); err != nil {
		t.Fatal(err)
	}
	next := o.begin(t, nil)
	if err := next.service.CloseUnended(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if again := next.ask("Idempotency-Key", "k"); again != asked {
		t.Errorf("%+v, before %+v", again, asked)
	}
	if a := next.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	next.state(asked.ID, "ended")
	if !strings.HasSuffix(next.types(), "approval_approved decided ended") {
		t.Errorf("records %s", next.types())
	}
}

// A gateway that dies between the approval and the decision does not run it later.
func TestInterruptedApprovalIsVoided(t *testing.T) {
	o := newOffice(t, nil)
	asked := o.ask()
	config := o.world.config()
	o.shelf.open(t, &config)
	a, err := config.Approvals.Load(t.Context(), asked.Approval)
	if err != nil {
		t.Fatal(err)
	}
	a.State, a.By, a.At, a.Forget, a.Request = execution.ApprovalApproved, "ak_approver", time.Now().UTC(), time.Now().Add(time.Hour), nil
	if err := config.Approvals.Settle(t.Context(), a, nil); err != nil {
		t.Fatal(err)
	}
	if err := o.service.CloseUnended(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	o.state(asked.ID, "denied")
	records := o.recorded()
	if last := records[len(records)-1]; last.Type != execution.RecordApprovalVoided || last.Approval.Why != "interrupted" || last.Principal != nil {
		t.Errorf("%+v %+v", last, last.Approval)
	}
	if a := o.do("GET", "/v1/approvals/"+asked.Approval, approverToken, ""); !strings.Contains(a.body, `"why":"interrupted"`) || !strings.Contains(a.body, `"by":"ak_approver"`) {
		t.Error(a.body)
	}
}

// Without its key what was asked is lost, and nobody can approve it.
func TestApprovalUnderALostKey(t *testing.T) {
	o := newOffice(t, nil)
	asked := o.ask()
	if err := o.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(o.shelf.dir, "approvals.key")); err != nil {
		t.Fatal(err)
	}
	next := o.begin(t, nil)
	if a := next.do("GET", "/v1/approvals/"+asked.Approval, approverToken, ""); a.StatusCode != 200 || strings.Contains(a.body, `"request":`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := next.decideOn(asked.Approval, "approver/other", yes); a.StatusCode != 404 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := next.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 410 || !strings.Contains(a.body, "unreadable") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	next.state(asked.ID, "denied")
	records := next.recorded()
	if last := records[len(records)-1]; last.Approval.Why != "unreadable" || last.Approval.Binding.Image != digest {
		t.Errorf("%+v", last.Approval)
	}
}

// An approver who hangs up has approved all the same, once.
func TestApproverWhoHangsUp(t *testing.T) {
	o := newOffice(t, nil)
	asked := o.ask()
	ctx, hangUp := context.WithCancel(t.Context())
	o.decide = func(q execution.Question) execution.Decision { hangUp(); return needsApproval(q) }
	approver := execution.Principal{Subject: "ak_approver", Tenant: "acme", Roles: []execution.Role{execution.RoleApprover}, Method: execution.MethodAPIKey}
	if _, err := o.service.SettleApproval(ctx, gateway.Call{Principal: approver}, asked.Approval, true, ""); err != nil {
		t.Error(err)
	}
	o.state(asked.ID, "ended")
}

// What cannot be recorded is not done.
func TestApprovalThatCannotBeRecorded(t *testing.T) {
	failing := func(kinds ...execution.RecordType) func(context.Context, execution.Record) error {
		return func(_ context.Context, r execution.Record) error {
			for _, kind := range kinds {
				if r.Type == kind {
					return errors.New("disk full")
				}
			}
			return nil
		}
	}
	o := newOffice(t, nil)
	o.world.append = failing(execution.RecordApprovalRequested)
	if a := o.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k"); a.StatusCode != 503 || a.problem(t).Code != "audit_unavailable" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	o.world.append = failing(execution.RecordApprovalApproved, execution.RecordApprovalDenied)
	asked := o.ask("Idempotency-Key", "k") // the key is free
	for _, body := range []string{yes, no} {
		if a := o.decideOn(asked.Approval, approverToken, body); a.StatusCode != 503 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	o.state(asked.ID, "awaiting_approval")
	o.world.append = failing(execution.RecordDecided)
	if a := o.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 503 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	o.state(asked.ID, "denied") // it was used up
	if strings.Contains(o.history(), "execute") {
		t.Errorf("it ran: %s", o.history())
	}
}

func TestWithdrawn(t *testing.T) {
	o := newOffice(t, nil)
	asked := o.ask()
	if a := o.do("DELETE", "/v1/executions/"+asked.ID, "caller/other", ""); a.StatusCode != 404 {
		t.Errorf("%d", a.StatusCode)
	}
	for range 2 {
		if a := o.do("DELETE", "/v1/executions/"+asked.ID, callerToken, ""); a.StatusCode != 204 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	if body := o.state(asked.ID, "ended"); !strings.Contains(body, `"outcome":"cancelled"`) {
		t.Error(body)
	}
	if a := o.decideOn(asked.Approval, approverToken, yes); a.StatusCode != 409 || o.types() != "decided approval_requested approval_voided" {
		t.Errorf("%d %s, records %s", a.StatusCode, a.body, o.types())
	}
}

func TestApproverSeesWhatIsAsked(t *testing.T) {
	o := newOffice(t, nil)
	hostile := `{"language":"python","code":"print('\u001b[2J<script>')","env":{"MODE":"the secret value"},"stdin":"in","metadata":{"agent":"<img src=x>\u001b]0;x"}}`
	a := o.do("POST", "/v1/executions", callerToken, hostile)
	var asked awaits
	if err := json.Unmarshal([]byte(a.body), &asked); err != nil {
		t.Fatal(err)
	}
	one := o.do("GET", "/v1/approvals/"+asked.Approval, approverToken, "")
	if !strings.Contains(one.body, "script") || !strings.Contains(one.body, `"env":{"MODE":""}`) || !strings.Contains(one.body, `"stdin":"in"`) {
		t.Error(one.body)
	}
	list := o.do("GET", "/v1/approvals", approverToken, "")
	if strings.Contains(list.body, "script") || !strings.Contains(list.body, asked.Approval) || !strings.Contains(list.body, `"code":"needs_review"`) {
		t.Error(list.body)
	}
	for _, body := range []string{one.body, list.body} {
		if strings.ContainsAny(body, "<>\x1b") || strings.Contains(body, "the secret value") {
			t.Errorf("not fit for any reader: %q", body)
		}
	}
	if a := o.decideOn(asked.Approval, approverToken, no); strings.Contains(a.body, "script") {
		t.Errorf("%s", a.body)
	}
}

func TestLongPoll(t *testing.T) {
	o := newOffice(t, nil)
	first := o.ask()
	got := make(chan string)
	go func() {
		got <- o.do("GET", "/v1/approvals?wait=30s&after="+first.Approval, approverToken, "").body
	}()
	second := o.ask()
	if body := <-got; !strings.Contains(body, second.Approval) || strings.Contains(body, first.Approval) {
		t.Error(body)
	}
	go func() { got <- o.do("GET", "/v1/approvals/"+first.Approval+"?wait=30s", approverToken, "").body }()
	o.decideOn(first.Approval, approverToken, no)
	if body := <-got; !strings.Contains(body, `"state":"denied"`) {
		t.Error(body)
	}
	if a := o.do("GET", "/v1/approvals?state=denied&limit=1", approverToken, ""); !strings.Contains(a.body, first.Approval) || !strings.Contains(a.body, `"more":false`) {
		t.Error(a.body)
	}
}

func TestWhatIsWrongInARequestAboutApprovals(t *testing.T) {
	o := newOffice(t, nil)
	asked := o.ask()
	for _, query := range []string{"wait=1h", "wait=-1s", "wait=x", "state=open", "limit=0", "limit=101", "after=ap_1", "x=1", "wait=1s&wait=2s", "state=%zz"} {
		if a := o.do("GET", "/v1/approvals?"+query, approverToken, ""); a.StatusCode != 400 {
			t.Errorf("%s: %d", query, a.StatusCode)
		}
	}
	for _, body := range []string{``, `{}`, `{"decision":"yes"}`, `{"decision":null}`, `{"decision":"approve","decision":"deny"}`, `{"Decision":"approve"}`,
		`{"decision":"approve","by":"ak_other"}`, `{"decision":"approve","comment":"` + strings.Repeat("x", 1025) + `"}`, `{"decision":"approve"}x`} {
		if a := o.decideOn(asked.Approval, approverToken, body); a.StatusCode != 400 && a.StatusCode != 415 {
			t.Errorf("%s: %d %s", body, a.StatusCode, a.body)
		}
	}
	for _, id := range []string{"ap_0", "..%2f..%2fkeys", asked.ID, strings.ToLower(asked.Approval), execution.NewID(execution.PrefixApproval, time.Now())} {
		if a := o.decideOn(id, approverToken, yes); a.StatusCode != 404 {
			t.Errorf("%s: %d", id, a.StatusCode)
		}
	}
	o.state(asked.ID, "awaiting_approval")
}

// What policy may not ask for: it denies.
func TestApprovalsThatNobodyCouldGive(t *testing.T) {
	for name, terms := range map[string]*execution.ApprovalTerms{
		"none": nil, "no time": {Roles: []string{"approver"}}, "past": {ExpiresS: -1, Roles: []string{"approver"}},
		"too long": {ExpiresS: 8 * 24 * 3600, Roles: []string{"approver"}}, "overflow": {ExpiresS: 1 << 62, Roles: []string{"approver"}},
		"nobody": {ExpiresS: 60}, "no name": {ExpiresS: 60, Roles: []string{""}}, "many": {ExpiresS: 60, Roles: make([]string, 17)},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, nil)
			o.decide = func(q execution.Question) execution.Decision { d := needsApproval(q); d.Approval = terms; return d }
			if a := o.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 403 || !strings.Contains(a.body, execution.CodePolicyInvalid) {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
	t.Run("nobody keeps them", func(t *testing.T) {
		o := newOffice(t, func(c *gateway.ServiceConfig) { c.Approvals = nil })
		if a := o.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 403 || !strings.Contains(a.body, execution.CodePolicyUnsupported) {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	})
	t.Run("a session", func(t *testing.T) {
		o := newOffice(t, nil)
		if a := o.do("POST", "/v1/sessions", callerToken, `{"language":"python"}`); a.StatusCode != 403 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	})
	t.Run("one more than are kept", func(t *testing.T) {
		o := newOffice(t, nil)
		for range 5 {
			o.ask()
		}
		if a := o.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 429 || a.problem(t).Code != "approvals_full" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if !strings.HasSuffix(o.types(), "approval_requested approval_voided") {
			t.Errorf("records %s", o.types())
		}
	})
}
