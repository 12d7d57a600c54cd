package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// openSession opens one over HTTP and returns its path.
func (s *site) openSession() string {
	s.t.Helper()
	a := s.do("POST", "/v1/sessions", callerToken, `{"language":"python"}`)
	if a.StatusCode != 201 {
		s.t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	return a.Header.Get("Location")
}

func TestSessionsOverHTTP(t *testing.T) {
	w := sessionful()
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		result := exited(0)
		result.Session = execution.SessionKept
		return result, nil
	}
	s := serve(t, w, nil)
	a := s.do("POST", "/v1/sessions", callerToken, `{"language":"python","limits":{"memory_mib":64},"metadata":{"agent":"a"}}`)
	var opened struct {
		ID, State, Language, Image, Runtime string
		Limits                              execution.Limits
		Created, Expires                    time.Time
		IdleS                               int64     `json:"idle_s"`
		IdleExpires                         time.Time `json:"idle_expires"`
		Decision                            struct{ Effect string }
		Records                             []uint64
	}
	if err := json.Unmarshal([]byte(a.body), &opened); err != nil || a.StatusCode != 201 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	at := "/v1/sessions/" + opened.ID
	if a.Header.Get("Location") != at || opened.State != "open" || opened.Language != "python" || opened.Image != "python" || opened.Runtime != "runc" ||
		opened.Limits != limits() || opened.IdleS != 60 || opened.Expires.Sub(opened.Created) != 10*time.Minute ||
		opened.IdleExpires.Sub(opened.Created) != time.Minute || opened.Decision.Effect != "allow" || len(opened.Records) != 2 {
		t.Errorf("%s", a.body)
	}
	if !strings.Contains(s.log.String(), `"session":"`+opened.ID) {
		t.Errorf("the log does not name it: %s", s.log)
	}

	a = s.do("POST", "/v1/executions", callerToken, `{"code":"1","session":"`+opened.ID+`"}`)
	if a.StatusCode != 200 || !strings.Contains(a.body, `"session":{"id":"`+opened.ID+`","state":"kept"}`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := s.do("POST", "/v1/executions", callerToken, program); strings.Contains(a.body, `"session"`) {
		t.Errorf("outside of a session: %s", a.body)
	}
	a = s.do("POST", "/v1/executions", callerToken, `{"code":"1","session":"`+opened.ID+`"}`, "Accept", "text/event-stream")
	if a.StatusCode != 200 || !strings.Contains(a.body, "event: ended") || !strings.Contains(a.body, `"state":"kept"`) {
		t.Errorf("streamed: %d %s", a.StatusCode, a.body)
	}

	a = s.do("GET", at, callerToken, "")
	if a.StatusCode != 200 || !strings.Contains(a.body, `"executions":2,"busy":false`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	list := s.do("GET", "/v1/sessions", callerToken, "")
	if list.StatusCode != 200 || list.body != `{"sessions":[`+a.body+`]}` {
		t.Errorf("%d %s", list.StatusCode, list.body)
	}
	if a := s.do("GET", "/v1/sessions", "admin/acme", ""); !strings.Contains(a.body, opened.ID) {
		t.Errorf("an admin of the tenant: %s", a.body)
	}
	if a := s.do("GET", "/v1/sessions", "caller/other", ""); a.body != `{"sessions":[]}` {
		t.Errorf("another tenant: %s", a.body)
	}
	for range 2 {
		if a := s.do("DELETE", at, callerToken, ""); a.StatusCode != 204 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
	for _, a := range []answer{
		s.do("GET", at, callerToken, ""),
		s.do("POST", "/v1/executions", callerToken, `{"code":"1","session":"`+opened.ID+`"}`),
		s.do("GET", at+"/files/a", callerToken, ""),
		s.do("PUT", at+"/files/a", callerToken, "x"),
	} {
		if p := a.problem(t); a.StatusCode != 410 || p.Code != "session_ended" || len(p.Reasons) != 1 || p.Reasons[0].Code != "deleted" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
	}
}

func TestSessionFilesOverHTTP(t *testing.T) {
	w := sessionful()
	files := map[string][]byte{}
	w.putFile = func(_ context.Context, path string, content []byte) error { files[path] = content; return nil }
	w.getFile = func(_ context.Context, path string, _ int64) ([]byte, error) {
		content, ok := files[path]
		if !ok {
			return nil, &execution.Error{Kind: execution.KindNotFound, Code: "file_not_found", Detail: "there is no such file"}
		}
		return content, nil
	}
	s := serve(t, w, func(c *gateway.Config) { c.MaxBodyBytes = 1000 })
	at := s.openSession()
	raw := string([]byte{0, 1, 2, 255, '\n'})
	for url, path := range map[string]string{
		"/files/a.bin":              "a.bin",
		"/files/dir/b%20c.csv":      "dir/b c.csv",
		"/files/dir%2fd.txt":        "dir/d.txt", // the one decoding gives a slash
		"/files/%2565":              "%65",       // and is not done again
		"/files/%252e%252e%252fetc": "%2e%2e%2fetc",
		"/files/a+b":                "a+b",
		"/files/b%C3%BCcher":        "bücher",
		"/files/out/x.png":          "out/x.png",
	} {
		if a := s.do("PUT", at+url, callerToken, raw, "Content-Type", "application/octet-stream"); a.StatusCode != 204 || a.body != "" {
			t.Errorf("PUT %s: %d %s", url, a.StatusCode, a.body)
		}
		if !bytes.Equal(files[path], []byte(raw)) {
			t.Errorf("PUT %s: it is not at %q", url, path)
		}
		if a := s.do("GET", at+url, callerToken, "", "Accept", "text/plain"); a.StatusCode != 200 || a.body != raw || a.Header.Get("Content-Disposition") != "attachment" {
			t.Errorf("GET %s: %d %q", url, a.StatusCode, a.body)
		}
	}
	if a := s.do("GET", at+"/files/out/x.png", callerToken, ""); a.Header.Get("Content-Type") != "image/png" {
		t.Errorf("Content-Type %q", a.Header.Get("Content-Type"))
	}
	if a := s.do("GET", at+"/files/a.bin", callerToken, ""); a.Header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("Content-Type %q", a.Header.Get("Content-Type"))
	}
	if a := s.do("GET", at+"/files/none", callerToken, ""); a.StatusCode != 404 || a.problem(t).Code != "file_not_found" {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := s.do("PUT", at+"/files/big", callerToken, strings.Repeat("x", 1001)); a.StatusCode != 413 {
		t.Errorf("larger than a body may be: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("PUT", at+"/files/z", callerToken, "x", "Content-Encoding", "gzip"); a.StatusCode != 415 {
		t.Errorf("compressed: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("PUT", at+"/files/empty", callerToken, ""); a.StatusCode != 204 || files["empty"] == nil {
		t.Errorf("empty: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("POST", at+"/files/a", callerToken, ""); a.StatusCode != 405 {
		t.Errorf("POST: %d", a.StatusCode)
	}
}

// Nothing that climbs, or that could be read in two ways, reaches the sandbox. The
// request lines are sent as they stand: a client library would clean some.
func TestSessionFilePathsThatAreNone(t *testing.T) {
	w := sessionful()
	s := serve(t, w, nil)
	at := s.openSession()
	for _, path := range []string{
		"", ".", "..", "../a", "a/../../b", "a/../b", "./a", "a//b", "/etc/passwd", "//etc/passwd", "a/", "a/.", "out",
		"..%2fa", "%2e%2e/a", "%2e%2e%2fa", "%2Fetc%2Fpasswd", "a%2f..%2f..%2fb", "a%00", "%00", "a%0ab", "a%7f", "a%5cb", "%5c%5chost%5cshare",
		"%ff", "%c0%ae%c0%ae%2fa", strings.Repeat("a", 256), strings.Repeat("a/", 600) + "a",
	} {
		for _, method := range []string{"PUT", "GET"} {
			got := s.raw(method + " " + at + "/files/" + path + " HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + callerToken + "\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			if !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "path_invalid") {
				t.Errorf("%s %.60q: %.200q", method, path, got)
			}
		}
	}
	// The session is named once, and as it is.
	id := strings.TrimPrefix(at, "/v1/sessions/")
	for _, path := range []string{"/v1/sessions/se%5f" + id[3:] + "/files/a", "/v1/sessions/../sessions/" + id + "/files/a", "/v1/sessions/x/files/a", "/v1/sessions//files/a"} {
		got := s.raw("GET " + path + " HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + callerToken + "\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 404 ") {
			t.Errorf("%s: %.200q", path, got)
		}
	}
	if strings.Contains(w.history(), "file") {
		t.Errorf("history %q", w.history())
	}
}

func TestWrongSessionRequests(t *testing.T) {
	s := serve(t, sessionful(), nil)
	for body, pointer := range map[string]string{
		`{}`:                               "",
		`{"language":1}`:                   "/language",
		`{"language":"python","code":"1"}`: "/code",
		`{"language":"python","env":{}}`:   "/env",
		`{"image":"evil.example/x:1"}`:     "/image",
		`{"language":"python","limits":{"memory_mib":1}}`: "/limits/memory_mib",
		`{"language":"python","limits":{"memory":64}}`:    "/limits/memory",
		`{"language":"python","language":"bash"}`:         "/language",
		`{"language":"python","id":"se_1"}`:               "/id",
		`{"language":null}`:                               "/language",
		`{"language":"python"}x`:                          "",
	} {
		a := s.do("POST", "/v1/sessions", callerToken, body)
		if p := a.problem(t); a.StatusCode != 400 || len(p.Errors) != 1 || p.Errors[0].Pointer != pointer {
			t.Errorf("%s: %d %s", body, a.StatusCode, a.body)
		}
	}
	if a := s.do("POST", "/v1/sessions", callerToken, `{"language":"python"}`, "Idempotency-Key", "k"); a.StatusCode != 400 || a.problem(t).Code != "idempotency_key_invalid" {
		t.Errorf("with a key: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("POST", "/v1/sessions", callerToken, `{"language":"python"}`, "Content-Type", "text/plain"); a.StatusCode != 415 {
		t.Errorf("as text: %d", a.StatusCode)
	}
	if a := s.do("POST", "/v1/sessions", callerToken, `{"language":"python","metadata":{"a":"`+strings.Repeat("x", 70<<10)+`"}}`); a.StatusCode != 413 {
		t.Errorf("too large: %d", a.StatusCode)
	}
	if a := s.do("POST", "/v1/sessions", "auditor/acme", `{"language":"python"}`); a.StatusCode != 403 {
		t.Errorf("an auditor: %d", a.StatusCode)
	}
}

func TestSessionProblemsOverHTTP(t *testing.T) {
	w := sessionful()
	started, release := make(chan string, 1), make(chan struct{})
	w.execute = held(started, release)
	s := serve(t, w, nil)
	at := s.openSession()
	body := `{"code":"1","session":"` + strings.TrimPrefix(at, "/v1/sessions/") + `"}`
	first := s.do("POST", "/v1/executions", callerToken, body, "Prefer", "respond-async")
	<-started
	if a := s.do("POST", "/v1/executions", callerToken, body); a.StatusCode != 409 || a.problem(t).Code != "session_busy" {
		t.Errorf("busy: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("GET", at, callerToken, ""); !strings.Contains(a.body, `"busy":true`) || strings.Contains(a.body, "idle_expires") {
		t.Errorf("%s", a.body)
	}
	// Cancelling gives the session back.
	if a := s.do("DELETE", first.Header.Get("Location"), callerToken, ""); a.StatusCode != http.StatusNoContent {
		t.Errorf("cancel: %d %s", a.StatusCode, a.body)
	}
	close(release)
	if a := s.do("POST", "/v1/executions", callerToken, body); a.StatusCode != 200 {
		t.Errorf("after the cancelled one: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("POST", "/v1/executions", "caller/other", body); a.StatusCode != 404 || a.problem(t).Code != "session_not_found" {
		t.Errorf("of another: %d %s", a.StatusCode, a.body)
	}
	s.openSession()
	if a := s.do("POST", "/v1/sessions", callerToken, `{"language":"python"}`); a.StatusCode != 429 || a.problem(t).Code != "sessions_saturated" || a.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d %s", a.StatusCode, a.body)
	}
	w.openSession = func(context.Context, execution.Session) error { return errors.New("secret path of the engine") }
	if a := s.do("DELETE", at, callerToken, ""); a.StatusCode != 204 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := s.do("POST", "/v1/sessions", callerToken, `{"language":"python"}`); a.StatusCode != 500 || strings.Contains(a.body, "secret") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}
