package gateway_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

func TestEveryRouteIsInTheTable(t *testing.T) {
	g := serve(t, newWorld(), nil).gateway
	table := map[string]gateway.Row{}
	for _, row := range g.Table() {
		table[row.Method+" "+row.Path] = row
		if row.Public != (row.Role == "") {
			t.Errorf("%s %s: public %v and role %q", row.Method, row.Path, row.Public, row.Role)
		}
		if row.Public && strings.HasPrefix(row.Path, "/v1/") {
			t.Errorf("%s %s is public", row.Method, row.Path)
		}
	}
	for _, r := range g.GinRoutes() {
		if _, ok := table[r.Method+" "+r.Path]; !ok {
			t.Errorf("%s %s is served and stands in no table", r.Method, r.Path)
		}
		delete(table, r.Method+" "+r.Path)
	}
	if len(table) > 0 {
		t.Errorf("in the table and not served: %v", table)
	}
}

// Each role on each route: those who may not are refused before anything of
// theirs is read; the anonymous everywhere but on public routes.
func TestWhoMayDoWhat(t *testing.T) {
	w := newWorld()
	s := serve(t, w, nil)
	for _, row := range s.gateway.Table() {
		prefix := execution.PrefixKey
		if strings.HasPrefix(row.Path, "/v1/executions") {
			prefix = execution.PrefixExecution
		}
		path := strings.ReplaceAll(row.Path, ":id", execution.NewID(prefix, time.Now()))
		for _, role := range execution.Roles() {
			may := row.Public || slices.Contains(strings.Split(string(row.Role), " or "), string(role)) || role == execution.RoleAdmin
			tenant := "acme"
			if row.Path == "/metrics" || strings.HasPrefix(row.Path, "/v1/policy") {
				tenant = "default"
			}
			a := s.do(row.Method, path, string(role)+"/"+tenant, "")
			if refused := a.StatusCode == 403; refused == may {
				t.Errorf("%s %s as %s: %d %s", row.Method, row.Path, role, a.StatusCode, a.body)
			} else if refused && a.problem(t).Code != "role_required" {
				t.Errorf("%s", a.body)
			}
		}
		for name, header := range map[string]string{
			"none": "", "unknown": "Bearer wrong", "revoked": "Bearer fail/revoked", "expired": "Bearer fail/expired",
			"empty": "Bearer ", "scheme only": "Bearer", "basic": "Basic YWRtaW46YWRtaW4=", "bare": "admin/default",
			"JWT without algorithm": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiIsInJvbGVzIjpbImFkbWluIl19.",
			"two spaces":            "Bearer  admin/default",
			"two tokens":            "Bearer x, Bearer admin/default",
		} {
			headers := []string{"Authorization", header}
			if header == "" {
				headers = nil
			}
			a := s.do(row.Method, path, "", "", headers...)
			if row.Public {
				if a.StatusCode != 200 {
					t.Errorf("%s %s, credential %s: %d", row.Method, row.Path, name, a.StatusCode)
				}
				continue
			}
			if p := a.problem(t); a.StatusCode != 401 || p.Code == "" || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("%s %s, credential %s: %d %s", row.Method, row.Path, name, a.StatusCode, a.body)
			}
		}
	}
	if strings.Contains(w.history(), "execute") || strings.Contains(w.history(), "insert") {
		t.Errorf("something was done: %s", w.history())
	}
}

func TestAuthenticationFailuresAreRecordedAndBounded(t *testing.T) {
	w := newWorld()
	s := serve(t, w, nil)
	began := time.Now()
	for token, want := range map[string]execution.AuthenticationFailed{
		"":             {Reason: "missing", Remote: "127.0.0.1"},
		"fail/expired": {Reason: "expired", KeyID: "ak_known", Remote: "127.0.0.1"},
		"nobody":       {Reason: "unknown", Remote: "127.0.0.1"},
	} {
		s.do("POST", "/v1/executions", token, program)
		records := w.recorded()
		r := records[len(records)-1]
		if r.Type != execution.RecordAuthenticationFailed || *r.AuthenticationFailed != want || r.Principal != nil || r.RequestID == "" {
			t.Errorf("%q: record %+v %+v", token, r, r.AuthenticationFailed)
		}
	}
	for range 200 {
		if a := s.do("POST", "/v1/executions", "nobody", program); a.StatusCode != 401 {
			t.Fatalf("%d", a.StatusCode)
		}
	}
	// 60 at once, and one more in each second.
	if n, most := len(w.recorded()), 60+int(time.Since(began)/time.Second); n < 60 || n > most {
		t.Errorf("%d records of 203 failures, want from 60 to %d", n, most)
	}
}

// Nobody is let in because something of ours failed.
func TestFailingAuthenticatorLetsNobodyIn(t *testing.T) {
	w := newWorld()
	s := serve(t, w, nil)
	if a := s.do("POST", "/v1/executions", "fail/unavailable", program); a.StatusCode != 503 || strings.Contains(a.body, "/var/lib") || w.history() != "" {
		t.Errorf("%d %s, history %q", a.StatusCode, a.body, w.history())
	}
	w.append = func(context.Context, execution.Record) error { return errors.New("full") }
	if a := s.do("POST", "/v1/executions", "nobody", program); a.StatusCode != 401 {
		t.Errorf("while the log is full: %d %s", a.StatusCode, a.body)
	}
}

func TestKeysOverHTTP(t *testing.T) {
	w := newWorld()
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/keys", "admin/default", `{"tenant":"acme","roles":["caller"],"label":"ci","expires":"2030-01-31T12:00:00Z"}`)
	id := strings.TrimPrefix(a.Header.Get("Location"), "/v1/keys/")
	want := `{"id":"` + id + `","tenant":"acme","roles":["caller"],"label":"ci","created":"2023-11-14T22:13:20Z","expires":"2030-01-31T12:00:00Z","key":"` + id + `.topsecret"}`
	if a.StatusCode != 201 || a.body != want {
		t.Errorf("%d\n%s\nwant\n%s", a.StatusCode, a.body, want)
	}
	// The record is durable before the key takes effect.
	if w.history() != "key_created insert" {
		t.Errorf("history %q", w.history())
	}
	r := w.recorded()[0]
	if r.Principal.Subject != "ak_admin" || r.Key.ID != id || r.Key.Tenant != "acme" || r.Key.Roles[0] != execution.RoleCaller {
		t.Errorf("record %+v %+v", r, r.Key)
	}
	if a := s.do("GET", "/v1/keys", "admin/default", ""); a.StatusCode != 200 || !strings.Contains(a.body, id) || strings.Contains(a.body, "topsecret") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := s.do("DELETE", "/v1/keys/"+id, "admin/default", ""); a.StatusCode != 204 || a.body != "" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if w.history() != "key_created insert key_revoked revoke_key" {
		t.Errorf("history %q", w.history())
	}

	w.append = func(context.Context, execution.Record) error { return errors.New("full") }
	for _, a := range []answer{
		s.do("POST", "/v1/keys", "admin/default", `{"roles":["caller"]}`),
		s.do("DELETE", "/v1/keys/"+id, "admin/default", ""),
	} {
		if p := a.problem(t); a.StatusCode != 503 || p.Code != "audit_unavailable" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	if n := strings.Count(w.history(), "insert") + strings.Count(w.history(), "revoke_key"); n != 2 {
		t.Errorf("something took effect without its record: %q", w.history())
	}
	if strings.Contains(s.log.String(), "topsecret") {
		t.Error("the key stands in the log")
	}
}

// An admin of a tenant manages its keys and no others; the operator's admins all.
func TestKeysOfOtherTenants(t *testing.T) {
	w := newWorld()
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/keys", "admin/acme", `{"roles":["admin"]}`)
	if a.StatusCode != 201 || !strings.Contains(a.body, `"tenant":"acme"`) {
		t.Fatalf("own tenant: %d %s", a.StatusCode, a.body)
	}
	id := strings.TrimPrefix(a.Header.Get("Location"), "/v1/keys/")
	before := w.history()
	if a := s.do("POST", "/v1/keys", "admin/acme", `{"tenant":"default","roles":["admin"]}`); a.StatusCode != 403 {
		t.Errorf("a key of the operator's tenant: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("GET", "/v1/keys", "admin/other", ""); a.body != `{"keys":[]}` {
		t.Errorf("another tenant's keys: %s", a.body)
	}
	mine, missing := s.do("DELETE", "/v1/keys/"+id, "admin/other", ""), s.do("DELETE", "/v1/keys/"+execution.NewID(execution.PrefixKey, time.Now()), "admin/other", "")
	if mine.StatusCode != 404 || missing.StatusCode != 404 {
		t.Errorf("another tenant's key: %d, a missing one: %d", mine.StatusCode, missing.StatusCode)
	}
	if w.history() != before {
		t.Errorf("something was done: %s", w.history())
	}
}

func TestWrongKeyRequests(t *testing.T) {
	s := serve(t, newWorld(), nil)
	for body, pointer := range map[string]string{
		`{}`:                                     "/roles",
		`{"roles":"admin"}`:                      "/roles",
		`{"roles":[null]}`:                       "/roles/0",
		`{"roles":["caller"],"expires":"never"}`: "/expires",
		`{"roles":["caller"],"expires":"0001-01-01T00:00:00Z"}`: "/expires",
		`{"roles":["caller"],"id":"ak_1"}`:                      "/id",
		`{"roles":["caller"],"roles":["admin"]}`:                "/roles",
	} {
		a := s.do("POST", "/v1/keys", "admin/default", body)
		if p := a.problem(t); a.StatusCode != 400 || len(p.Errors) != 1 || p.Errors[0].Pointer != pointer {
			t.Errorf("%s: %d %s", body, a.StatusCode, a.body)
		}
	}
	for _, id := range []string{"x", "..%2f..%2fetc", "ak_'%20OR%201=1", strings.Repeat("a", 1000)} {
		if a := s.do("DELETE", "/v1/keys/"+id, "admin/default", ""); a.StatusCode != 404 {
			t.Errorf("DELETE %s: %d", id, a.StatusCode)
		}
	}
	if a := s.do("POST", "/v1/keys", "admin/default", `{"label":"`+strings.Repeat("x", 20<<10)+`"}`); a.StatusCode != 413 {
		t.Errorf("a huge key: %d", a.StatusCode)
	}
}

type prober func(context.Context) error

func (p prober) Ready(ctx context.Context) error { return p(ctx) }

func TestReadiness(t *testing.T) {
	if a := serve(t, newWorld(), nil).do("GET", "/readyz", "", ""); a.StatusCode != 200 || a.body != `{"status":"ready","checks":[{"name":"gateway","ready":true}]}` {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	calls := 0
	s := serve(t, newWorld(), func(c *gateway.Config) {
		c.Probers = map[string]gateway.Prober{
			"audit":  prober(func(context.Context) error { calls++; return nil }),
			"engine": prober(func(context.Context) error { return errors.New("dial unix /var/run/docker.sock") }),
			"images": prober(func(context.Context) error { panic("/secret/path") }),
			"policy": prober(func(context.Context) error {
				return &execution.Error{Kind: execution.KindUnavailable, Detail: "no policy is loaded", Err: errors.New("/etc/policy")}
			}),
		}
	})
	began := time.Now()
	for range 20 {
		a := s.do("GET", "/readyz", "", "")
		p := a.problem(t)
		if a.StatusCode != 503 || len(p.Checks) != 5 || !p.Checks[0].Ready || p.Checks[1].Detail != "the check failed" || p.Checks[1].Ready ||
			p.Checks[3].Ready || p.Checks[4].Detail != "no policy is loaded" {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		if strings.Contains(a.body, "/") && strings.Contains(a.body, "sock") || strings.Contains(a.body, "/etc") || strings.Contains(a.body, "secret") {
			t.Errorf("internals show: %s", a.body)
		}
	}
	if took := time.Since(began); calls > 1+int(took/time.Second) { // a report is good for a second
		t.Errorf("20 requests ran the checks %d times in %v", calls, took)
	}
	if a := s.do("GET", "/healthz", "", ""); a.StatusCode != 200 || a.body != `{"status":"ok"}` {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
