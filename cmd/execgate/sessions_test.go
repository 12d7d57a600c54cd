package main

import (
	"bufio"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
)

// sessionPolicy is a folder with the shipped policy, in which the tenant default
// is granted sessions as grant says.
func sessionPolicy(t *testing.T, grant string) string {
	t.Helper()
	dir := t.TempDir()
	names, err := fs.Glob(policies.Files, "*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.rego") {
			continue // they are of the shipped data
		}
		text, err := fs.ReadFile(policies.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "data.json" {
			const shipped = `"session": {"idle_s": 600, "absolute_s": 3600, "max": 4}`
			if strings.Count(string(text), shipped) != 1 {
				t.Fatalf("the shipped data has no %s", shipped)
			}
			text = []byte(strings.Replace(string(text), shipped, `"session": `+grant, 1))
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openSession opens a session and returns its path.
func (g *gatewayUnderTest) openSession(body string, header ...string) string {
	g.t.Helper()
	r := g.request(http.MethodPost, "/v1/sessions", body, header...)
	if r.status != http.StatusCreated {
		g.t.Fatalf("status %d: %s", r.status, r.body)
	}
	return r.header.Get("Location")
}

// inSession is the body of an execution of code in the session at path.
func inSession(path, code string, members ...string) string {
	text, err := json.Marshal(code)
	if err != nil {
		panic(err)
	}
	return `{"session":"` + strings.TrimPrefix(path, "/v1/sessions/") + `","code":` + string(text) + strings.Join(append([]string{""}, members...), ",") + `}`
}

// beginTold begins an execution, and returns when its program has printed
// something. cancel cancels it by DELETE; done has the rest of its stream.
func (g *gatewayUnderTest) beginTold(body string) (cancel func() reply, done <-chan string) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, g.url+"/v1/executions", strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+g.key())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewReader(resp.Body)
	var id string
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			g.t.Fatalf("status %d, %q: %v", resp.StatusCode, line, err)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok && id == "" {
			var started struct{ ID string }
			if err := json.Unmarshal([]byte(data), &started); err != nil {
				g.t.Fatal(err)
			}
			id = started.ID
		}
		if line == "event: stdout\n" {
			break
		}
	}
	rest := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(lines)
		rest <- string(text)
	}()
	return func() reply { return g.request(http.MethodDelete, "/v1/executions/"+id, "") }, rest
}

// left is what an execution says of its session.
func left(t *testing.T, r reply) (state execution.SessionState) {
	t.Helper()
	var d struct {
		Session struct{ State execution.SessionState }
	}
	if err := json.Unmarshal(r.body, &d); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return d.Session.State
}

// sessionEnds are the ends of sessions in the log.
func (g *gatewayUnderTest) sessionEnds() (ends []execution.SessionEnd) {
	g.t.Helper()
	for _, r := range g.recordsOf(execution.RecordSession) {
		if r.Session.What == execution.SessionClosed {
			ends = append(ends, r.Session.Reason)
		}
	}
	return ends
}

// What one execution leaves the next one finds, also after one that failed and one
// that was stopped.
func TestSessionKeepsItsState(t *testing.T) {
	t.Parallel()
	// An interpreter that is told to stop has to say so in this time, else all of it goes.
	g := startGateway(t, map[string]string{"EXECGATE_EXECUTOR_STOP_GRACE_MS": "60000"})
	at := g.openSession(`{"language":"python"}`)
	run := func(code string, want execution.Outcome, members ...string) ended {
		t.Helper()
		r := g.execute(inSession(at, code, members...))
		e := r.ok(t)
		if e.Outcome != want || left(t, r) != execution.SessionKept {
			t.Errorf("%s: %s", code, r.body)
		}
		return e
	}
	run("import math\nrows = [1, 2]\nopen('a.txt', 'w').write('kept')", execution.OutcomeExited)
	run("rows.append(3)\nraise ValueError('no')", execution.OutcomeExited)
	e := g.outOfTime(t, func(limits string) string {
		return inSession(at, "rows[3:] = [4]\nprint('up', flush=True)\nwhile True: pass", limits)
	}, "up\n")
	if e.Stdout != "up\n" {
		t.Errorf("%+v", e)
	}

	// Cancelled by DELETE, once it has told that it runs.
	cancel, done := g.beginTold(inSession(at, "rows.append(5)\nprint('go', flush=True)\nimport time\nwhile True: time.sleep(0.01)", `"limits":{"timeout_ms":60000}`))
	if p := g.execute(inSession(at, "1")).refused(t, http.StatusConflict); p.Code != "session_busy" {
		t.Errorf("%+v", p)
	}
	if r := cancel(); r.status != http.StatusNoContent {
		t.Errorf("cancel: %d %s", r.status, r.body)
	}
	if told := <-done; !strings.Contains(told, `"outcome":"cancelled"`) || !strings.Contains(told, `"state":"kept"`) {
		t.Errorf("it ended as %s", told)
	}

	e = run("result = [rows, math.floor(2.5), open('a.txt').read()]", execution.OutcomeExited)
	if got, _ := json.Marshal(e.Result); string(got) != `[[1,2,3,4,5],2,"kept"]` {
		t.Errorf("result %s", got)
	}
	if n := len(g.containers()); n != 1 {
		t.Errorf("%d containers", n)
	}
	if r := g.request(http.MethodDelete, at, ""); r.status != http.StatusNoContent {
		t.Errorf("delete: %d %s", r.status, r.body)
	}
	g.waitNothingLeft()
	if p := g.execute(inSession(at, "1")).refused(t, http.StatusGone); p.Code != "session_ended" || p.Reasons[0].Code != "deleted" {
		t.Errorf("%+v", p)
	}
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if left := g.containers(); len(left) > 0 {
		t.Errorf("containers are left: %v", left)
	}
	g.verify()
}

func TestSessionFiles(t *testing.T) {
	t.Parallel()
	g := startGateway(t, nil)
	at := g.openSession(`{"language":"python"}`)
	content := string([]byte{0, 255, '\r', '\n', 128}) + strings.Repeat("x", 100_000)
	if r := g.request(http.MethodPut, at+"/files/in/data%20file.bin", content); r.status != http.StatusNoContent {
		t.Fatalf("%d %s", r.status, r.body)
	}
	e := g.execute(inSession(at, "import os, shutil\nshutil.copy('in/data file.bin', 'out/copy.csv')\nos.symlink('/etc/passwd', 'link')\nos.symlink('/etc', 'dir')\nos.mkfifo('pipe')\nresult = os.path.getsize('in/data file.bin')")).ok(t)
	if string(e.Result) != "100005" {
		t.Errorf("%s", e.Result)
	}
	r := g.request(http.MethodGet, at+"/files/out/copy.csv", "")
	if r.status != http.StatusOK || string(r.body) != content || !strings.HasPrefix(r.header.Get("Content-Type"), "text/csv") {
		t.Errorf("%d, %d bytes of %s", r.status, len(r.body), r.header.Get("Content-Type"))
	}
	for _, path := range []string{"..%2f..%2fetc%2fpasswd", "%2Fetc%2Fpasswd", "a%00b", "a%2f..%2fb", "out"} {
		for _, method := range []string{http.MethodPut, http.MethodGet} {
			if p := g.request(method, at+"/files/"+path, "").refused(t, http.StatusBadRequest); p.Code != "path_invalid" {
				t.Errorf("%s %s: %+v", method, path, p)
			}
		}
	}
	for _, path := range []string{"link", "dir/passwd", "pipe", "in"} {
		for _, method := range []string{http.MethodPut, http.MethodGet} {
			if p := g.request(method, at+"/files/"+path, "").refused(t, http.StatusBadRequest); p.Code != "file_refused" {
				t.Errorf("%s %s: %+v", method, path, p)
			}
		}
	}
	if p := g.request(http.MethodGet, at+"/files/none", "").refused(t, http.StatusNotFound); p.Code != "file_not_found" {
		t.Errorf("%+v", p)
	}
	if p := g.announce(http.MethodPut, at+"/files/big", 17<<20).refused(t, http.StatusRequestEntityTooLarge); p.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("%+v", p)
	}
	var told []execution.SessionEvent
	for _, rec := range g.recordsOf(execution.RecordSession) {
		told = append(told, rec.Session.What)
	}
	for _, want := range []execution.SessionEvent{execution.SessionOpened, execution.SessionPut, execution.SessionGot} {
		if !slices.Contains(told, want) {
			t.Errorf("no record of %s in %v", want, told)
		}
	}
}

func TestSessionEndsWhenIdle(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_FOLDER": sessionPolicy(t, `{"idle_s": 2, "absolute_s": 60, "max": 4}`)})
	var at string
	// used reports whether the session was there: a busy machine may leave it idle for too
	// long, but not each time.
	used := func(code, result string) bool {
		t.Helper()
		r := g.execute(inSession(at, code))
		if r.status == http.StatusGone {
			return false
		}
		if e := r.ok(t); e.Outcome != execution.OutcomeExited || string(e.Result) != result {
			t.Errorf("%+v", e)
		}
		return true
	}
	eventually(t, "a session is used in time, twice", func() bool {
		at = g.openSession(`{"language":"python"}`)
		// It is not idle while it runs something for longer than that.
		return used("import time\ntime.sleep(3)\nresult = 1", "1") && used("result = time.monotonic() > 0", "true")
	})
	eventually(t, "it ends", func() bool { return g.request(http.MethodGet, at, "").status == http.StatusGone })
	if p := g.execute(inSession(at, "1")).refused(t, http.StatusGone); p.Reasons[0].Code != "idle" {
		t.Errorf("%+v", p)
	}
	g.waitNothingLeft()
}

func TestSessionsOfATenantAndOfOthers(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_FOLDER": sessionPolicy(t, `{"idle_s": 600, "absolute_s": 3600, "max": 1}`)})
	at := g.openSession(`{"language":"python"}`)
	if p := g.request(http.MethodPost, "/v1/sessions", `{"language":"python"}`).refused(t, http.StatusTooManyRequests); p.Code != "sessions_saturated" {
		t.Errorf("%+v", p)
	}
	other := "Bearer " + keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"roles":["caller"]}`))
	for _, r := range []reply{
		g.request(http.MethodPost, "/v1/executions", inSession(at, "1"), "Authorization", other),
		g.request(http.MethodGet, at, "", "Authorization", other),
		g.request(http.MethodGet, at+"/files/a", "", "Authorization", other),
		g.request(http.MethodPut, at+"/files/a", "x", "Authorization", other),
		g.request(http.MethodDelete, at, "", "Authorization", other),
	} {
		if p := r.refused(t, http.StatusNotFound); p.Code != "session_not_found" {
			t.Errorf("%+v", p)
		}
	}
	// One without sessions in its policy opens none.
	ci := "Bearer " + keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"tenant":"ci","roles":["caller"]}`))
	r := g.request(http.MethodPost, "/v1/sessions", `{"language":"python"}`, "Authorization", ci)
	if p := r.refused(t, http.StatusForbidden); p.Reasons[0].Code != "session_not_granted" {
		t.Errorf("%+v", p)
	}
	g.execute(inSession(at, "result = 1")).ok(t)
}

// A session does not outlive its gateway, and this is recorded at the next start.
func TestSessionOfAGatewayThatWasKilled(t *testing.T) {
	t.Parallel()
	g := startGateway(t, nil)
	at := g.openSession(`{"language":"python"}`)
	g.execute(inSession(at, "a = 1")).ok(t)
	g.kill()
	g.start()
	g.waitReady()
	g.waitNothingLeft()
	if p := g.execute(inSession(at, "1")).refused(t, http.StatusGone); p.Reasons[0].Code != "unknown_crash" {
		t.Errorf("%+v", p)
	}
	if want := []execution.SessionEnd{execution.SessionCrashed}; !slices.Equal(g.sessionEnds(), want) {
		t.Errorf("ends %v", g.sessionEnds())
	}
	g.openSession(`{"language":"python"}`)
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if want := []execution.SessionEnd{execution.SessionCrashed, execution.SessionStopped}; !slices.Equal(g.sessionEnds(), want) {
		t.Errorf("ends %v", g.sessionEnds())
	}
	if left := g.containers(); len(left) > 0 {
		t.Errorf("containers are left: %v", left)
	}
	g.verify()
}

// A session of commands, in an image without a language.
func TestSessionOfCommands(t *testing.T) {
	t.Parallel()
	g := startGateway(t, nil)
	at := g.openSession(`{"image":"python"}`)
	id := strings.TrimPrefix(at, "/v1/sessions/")
	g.execute(`{"session":"` + id + `","command":["/bin/sh","-c","echo kept >file"]}`).ok(t)
	if e := g.execute(`{"session":"` + id + `","command":["/bin/cat","file"]}`).ok(t); e.Stdout != "kept\n" {
		t.Errorf("%+v", e)
	}
	if p := g.execute(inSession(at, "1")).refused(t, http.StatusBadRequest); p.Errors[0].Pointer != "/command" {
		t.Errorf("%+v", p)
	}
}
