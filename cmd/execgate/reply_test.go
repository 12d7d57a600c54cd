package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// reply is an answer of the gateway.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// request sends one request with the admin key; body is sent as it is.
func (g *gatewayUnderTest) request(method, path, body string, header ...string) reply {
	g.t.Helper()
	r, err := g.try(method, path, body, header...)
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// try is request for a gateway that may be killed, and for other goroutines.
func (g *gatewayUnderTest) try(method, path, body string, header ...string) (reply, error) {
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if text, err := os.ReadFile(filepath.Join(g.state, "admin.key")); err == nil {
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(text)))
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, text}, err
}

// announce is request with a body that is said to have so many bytes, and of which none
// comes: whoever refuses it hangs up without reading it, which may hide the answer from a
// caller who is still sending.
func (g *gatewayUnderTest) announce(method, path string, bytes int64) reply {
	g.t.Helper()
	body, end := io.Pipe()
	defer end.Close()
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, body)
	if err != nil {
		g.t.Fatal(err)
	}
	req.ContentLength = bytes
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+g.key())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	return reply{resp.StatusCode, resp.Header, []byte(readAll(g.t, resp.Body))}
}

// execute posts a request for an execution.
func (g *gatewayUnderTest) execute(body string) reply {
	g.t.Helper()
	return g.request(http.MethodPost, "/v1/executions", body)
}

// outOfTime executes a program that says something and does not end, in the shortest
// time in which it comes to say it: on a busy machine one may be over before its first
// line.
func (g *gatewayUnderTest) outOfTime(t testing.TB, body func(limits string) string, says string) ended {
	t.Helper()
	for ms := 500; ; ms *= 4 {
		e := g.execute(body(fmt.Sprintf(`"limits":{"timeout_ms":%d}`, ms))).ok(t)
		if e.Outcome != execution.OutcomeTimedOut || e.ExitCode != nil {
			t.Fatalf("%+v", e)
		}
		if e.Stdout == says || ms > 30_000 {
			return e
		}
	}
}

// python is the body of a request that runs code; members are further ones, as
// JSON.
func python(code string, members ...string) string {
	text, err := json.Marshal(code)
	if err != nil {
		panic(err)
	}
	return `{"language":"python","code":` + string(text) + strings.Join(append([]string{""}, members...), ",") + `}`
}

// ended is a 200 body.
type ended struct {
	ran
	Usage    execution.Usage    `json:"usage"`
	Decision execution.Decision `json:"decision"`
	Records  []uint64           `json:"records"`
}

// ok reads a reply that has to be a 200.
func (r reply) ok(t testing.TB) ended {
	t.Helper()
	if r.status != http.StatusOK {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	var e ended
	if err := json.Unmarshal(r.body, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// refusal is a problem document.
type refusal struct {
	Status       int
	Code         string
	Detail       string
	Execution    string
	RetryAfterMS int64 `json:"retry_after_ms"`
	Reasons      []execution.Reason
	Errors       []execution.FieldError
	Checks       []struct {
		Name   string
		Ready  bool
		Detail string
	}
}

// refused reads a reply that has to be a problem of that status.
func (r reply) refused(t testing.TB, status int) refusal {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %s", r.status, status, r.body)
	}
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q", got)
	}
	var p refusal
	if err := json.Unmarshal(r.body, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// check returns what /readyz says of one thing.
func (p refusal) check(name string) string {
	for _, c := range p.Checks {
		if c.Name == name && !c.Ready {
			return c.Detail
		}
	}
	return ""
}

// keyOf returns the text of a key that was made.
func keyOf(t testing.TB, made reply) string {
	t.Helper()
	var key struct{ Key string }
	if err := json.Unmarshal(made.body, &key); err != nil || key.Key == "" {
		t.Fatalf("%d %s", made.status, made.body)
	}
	return key.Key
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
