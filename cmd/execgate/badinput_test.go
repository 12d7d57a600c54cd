package main

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// A request that is wrong is answered with what is wrong, and nothing comes of
// it: no decision is recorded and no container made.
func TestBadInput(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_REQUESTS_MAX_BODY_KIB": "64", "EXECGATE_REQUESTS_MAX_CODE_KIB": "8"})
	began := time.Now()

	for _, test := range []struct {
		name, body string
		pointers   []string
	}{
		{"empty", ``, []string{""}},
		{"no object", `[]`, []string{""}},
		{"cut off", `{"language":"python","code":"print(1)"`, []string{""}},
		{"unknown field", `{"language":"python","code":"1","principal":{"subject":"root"}}`, []string{"/principal"}},
		{"field in another case", `{"language":"python","Code":"1"}`, []string{"/Code", "/code"}},
		{"unknown fields inside", `{"language":"python","code":"1","limits":{"memory":1},"files":[{"path":"a","content":"","mode":1}]}`, []string{"/files/0/mode", "/limits/memory"}},
		{"duplicate key", `{"language":"python","code":"1","code":"2"}`, []string{"/code"}},
		{"duplicate key inside", `{"language":"python","code":"1","limits":{"pids":1,"pids":2}}`, []string{"/limits/pids"}},
		{"duplicate key in input", `{"language":"python","code":"1","input":{"a":1,"a":2}}`, []string{"/input/a"}},
		{"wrong types", `{"language":1,"code":[],"env":{"A":1},"network":"x"}`, []string{"/code", "/env/A", "/language", "/network"}},
		{"null", `{"language":"python","code":null}`, []string{"/code"}},
		{"trailing bytes", `{"language":"python","code":"1"} {}`, []string{""}},
		{"NUL in the code", `{"language":"python","code":"a\u0000b"}`, []string{"/code"}},
		{"NUL as it is", "{\"language\":\"python\",\"code\":\"a\x00b\"}", []string{"/code"}},
		{"invalid UTF-8", "{\"language\":\"python\",\"code\":\"\xff\"}", []string{"/code"}},
		{"half a surrogate", `{"language":"python","code":"\ud800"}`, []string{"/code"}},
		{"negative limit", `{"language":"python","code":"1","limits":{"memory_mib":-1}}`, []string{"/limits/memory_mib"}},
		{"zero limit", `{"language":"python","code":"1","limits":{"timeout_ms":0}}`, []string{"/limits/timeout_ms"}},
		{"absurd limits", `{"language":"python","code":"1","limits":{"memory_mib":9223372036854775807,"pids":1e30,"timeout_ms":1.5}}`, []string{"/limits/memory_mib", "/limits/pids", "/limits/timeout_ms"}},
		{"limit as text", `{"language":"python","code":"1","limits":{"pids":"50"}}`, []string{"/limits/pids"}},
		{"paths that climb", `{"language":"python","code":"1","files":[{"path":"../a","content":""},{"path":"/etc/passwd","content":""},{"path":"a//b","content":""}]}`, []string{"/files/0/path", "/files/1/path", "/files/2/path"}},
		{"code and command", `{"language":"python","code":"1","image":"python","command":["ls"]}`, []string{"/command"}},
		{"nothing to run", `{"metadata":{"a":"b"}}`, []string{""}},
		{"an image by reference", `{"image":"docker.io/library/alpine:latest","command":["ls"]}`, []string{"/image"}},
		{"a variable's name", `{"language":"python","code":"1","env":{"A=B":"c"}}`, []string{"/env/A=B"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := g.execute(test.body).refused(t, http.StatusBadRequest)
			var pointers []string
			for _, e := range p.Errors {
				pointers = append(pointers, e.Pointer)
				if e.Detail == "" {
					t.Errorf("%q without a detail", e.Pointer)
				}
			}
			slices.Sort(pointers)
			pointers = slices.Compact(pointers) // a field may have two faults
			if !slices.Equal(pointers, test.pointers) {
				t.Errorf("pointers %q, want %q: %+v", pointers, test.pointers, p.Errors)
			}
		})
	}

	t.Run("too large", func(t *testing.T) {
		g.execute(python(strings.Repeat("#", 65<<10))).refused(t, http.StatusRequestEntityTooLarge)
		p := g.execute(python(strings.Repeat("#", 9<<10))).refused(t, http.StatusRequestEntityTooLarge)
		if len(p.Errors) != 1 || p.Errors[0].Pointer != "/code" {
			t.Errorf("%+v", p)
		}
	})
	t.Run("not JSON", func(t *testing.T) {
		g.request(http.MethodPost, "/v1/executions", python("1"), "Content-Type", "text/plain").refused(t, http.StatusUnsupportedMediaType)
	})
	t.Run("no key", func(t *testing.T) {
		stranger := "Bearer ak_01K5W3V8X2Q4N6P7R9S0T1V2W3." + strings.Repeat("A", 43)
		for _, credential := range []string{"", "Bearer", "Bearer ", "Bearer x", stranger, "Basic " + g.key(), g.key(), "Bearer " + g.key() + "A"} {
			r := g.request(http.MethodPost, "/v1/executions", python("1"), "Authorization", credential)
			p := r.refused(t, http.StatusUnauthorized)
			if r.header.Get("WWW-Authenticate") == "" || strings.Contains(string(r.body), "ak_") || p.Execution != "" {
				t.Errorf("%q: %s", credential, r.body)
			}
		}
	})
	t.Run("unknown names", func(t *testing.T) {
		if p := g.execute(`{"language":"cobol","code":"1"}`).refused(t, http.StatusNotFound); !strings.Contains(p.Detail, "Languages are: bash, javascript, python") {
			t.Errorf("%q does not say what there is", p.Detail)
		}
		if p := g.execute(`{"image":"other","command":["ls"]}`).refused(t, http.StatusNotFound); !strings.Contains(p.Detail, "Images are: python") {
			t.Errorf("%q does not say what there is", p.Detail)
		}
	})
	t.Run("no such route", func(t *testing.T) {
		g.request(http.MethodGet, "/v1/other", "").refused(t, http.StatusNotFound)
		g.request(http.MethodGet, "/v1/executions", "").refused(t, http.StatusMethodNotAllowed)
		g.request(http.MethodGet, "/v1/keys/../executions", "").refused(t, http.StatusNotFound)
	})

	if decided := g.recordsOf(execution.RecordDecided); len(decided) > 0 {
		t.Errorf("something was decided: %+v", decided)
	}
	if made := madeSince(t, g.id(), began); made != 0 {
		t.Errorf("%d containers were made", made)
	}
}

// madeSince returns how many containers of a gateway were created, also if they
// are gone again, by the engine's own events.
func madeSince(t *testing.T, gateway string, since time.Time) int {
	t.Helper()
	filter := url.QueryEscape(`{"event":["create"],"type":["container"],"label":["execgate.gateway=` + gateway + `"]}`)
	resp, err := engineHTTP.Get(fmt.Sprintf("http://engine/events?since=%d&until=%d&filters=%s", since.Unix()-1, time.Now().Unix()+1, filter))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	made := 0
	for event := range strings.Lines(readAll(t, resp.Body)) {
		// The start itself makes one that never runs, to reach the agent's volume.
		if strings.Contains(event, `"Action":"create"`) && !strings.Contains(event, `"execgate.execution":"helper_`) {
			made++
		}
	}
	return made
}

// A denial says what to do instead, in words that an agent can act on.
func TestDenials(t *testing.T) {
	t.Parallel()
	g := startGateway(t, nil)
	for _, test := range []struct {
		name, body, code, advice string
	}{
		{"network", python("1", `"network":["api.github.com:443"]`), "network_not_granted", "network"},
		{"tool", python("1", `"tools":["github"]`), "tool_not_granted", "tools"},
		{"a variable that steers the linker", python("1", `"env":{"LD_PRELOAD":"/workspace/x.so"}`), "env_not_granted", "eave"},
		{"a variable that steers python", python("1", `"env":{"PYTHONPATH":"/workspace"}`), "env_not_granted", "eave"},
		{"runtime", python("1", `"runtime":"kata"`), "runtime_not_granted", "runc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := g.execute(test.body).refused(t, http.StatusForbidden)
			if !strings.HasPrefix(p.Execution, "ex_") || len(p.Reasons) == 0 {
				t.Fatalf("%+v", p)
			}
			if r := p.Reasons[0]; r.Code != test.code || r.Message == "" || !strings.Contains(r.Remediation, test.advice) {
				t.Errorf("%+v", r)
			}
			var decided []execution.Record
			for _, r := range g.recordsOf(execution.RecordDecided) {
				if r.Execution == p.Execution {
					decided = append(decided, r)
				}
			}
			if len(decided) != 1 || decided[0].Decided.Decision.Allowed() {
				t.Errorf("records %+v", decided)
			}
		})
	}
	t.Run("a tenant that policy does not know", func(t *testing.T) {
		made := g.request(http.MethodPost, "/v1/keys", `{"tenant":"unheard-of","roles":["caller"]}`)
		if made.status != http.StatusCreated {
			t.Fatalf("%d %s", made.status, made.body)
		}
		r := g.request(http.MethodPost, "/v1/executions", python("1"), "Authorization", "Bearer "+keyOf(t, made))
		p := r.refused(t, http.StatusForbidden)
		if len(p.Reasons) == 0 || p.Reasons[0].Code != "tenant_unknown" {
			t.Errorf("%+v", p)
		}
	})
	t.Run("a key without the role", func(t *testing.T) {
		made := g.request(http.MethodPost, "/v1/keys", `{"roles":["auditor"]}`)
		key := "Bearer " + keyOf(t, made)
		g.request(http.MethodPost, "/v1/executions", python("1"), "Authorization", key).refused(t, http.StatusForbidden)
		g.request(http.MethodPost, "/v1/keys", `{"roles":["admin"]}`, "Authorization", key).refused(t, http.StatusForbidden)
	})
	if len(g.containers()) > 0 || len(g.recordsOf(execution.RecordEnded)) > 0 {
		t.Error("something was run")
	}
}
