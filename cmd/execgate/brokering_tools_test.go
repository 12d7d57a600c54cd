package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// toolsOfReports are a tool that asks the API, one that adds, one that does not end, one
// that asks the API for a token, and one that is granted to nobody.
const toolsOfReports = `tools:
  - name: report
    description: Reads a report.
    kind: http
    request: {method: GET, url: "https://%[1]s:%[2]d/reports/{id}?lang={lang}"}
    arguments:
      type: object
      additionalProperties: false
      required: [id]
      properties: {id: {type: string, maxLength: 200}, lang: {type: string}, page: {type: integer}}
    limits: {timeout_ms: 60000}
    network: ["%[1]s:%[2]d"]
    credential:
      engine: kv2
      mount: secret
      path: reports-api
      vault_policies: [reports-api]
      inject: egress
      bind: [{host: %[1]s, port: %[2]d, methods: [GET], paths: [/reports/*], mode: bearer}]
  - name: adder
    description: Adds two numbers.
    kind: container
    image: python
    command: [python3, -c, "import json, sys; x = json.load(sys.stdin); print(json.dumps({'sum': x['a'] + x['b']}))"]
    limits: {memory_mib: 64}
    arguments:
      type: object
      additionalProperties: false
      required: [a, b]
      properties: {a: {type: number}, b: {type: number}}
  - name: sleeper
    description: Sleeps for longer than anybody waits.
    kind: container
    image: python
    command: [python3, -c, "import time; time.sleep(600)"]
    arguments: {type: object, additionalProperties: false}
  - name: access_tokens
    description: Would be answered with a token that the API makes.
    kind: http
    request: {method: GET, url: "https://%[1]s:%[2]d/reports/oauth/token"}
    arguments: {type: object, additionalProperties: false}
    network: ["%[1]s:%[2]d"]
    credential:
      engine: kv2
      mount: secret
      path: reports-api
      vault_policies: [reports-api]
      inject: egress
      bind: [{host: %[1]s, port: %[2]d, methods: [GET], paths: [/reports/*], mode: bearer}]
  - name: secret-report
    description: Is granted to nobody.
    kind: http
    request: {method: GET, url: "https://%[1]s:%[2]d/reports/secret"}
    arguments: {type: object, additionalProperties: false}
    network: ["%[1]s:%[2]d"]
`

// toolsInside opens the tools to programs.
var toolsInside = map[string]any{"host": "tools.execgate", "ports": []int{80}, "mode": "intercept"}

// toolAnswer is the answer of a call.
type toolAnswer struct {
	ID         string
	Content    string
	Structured map[string]any
	Outcome    string
	Status     *int
	IsError    bool `json:"is_error"`
	Records    []uint64
}

// wantRequestStory wants that of a request that was made with a key, which is fetched once
// the request may leave.
func wantRequestStory(t *testing.T, l *lending, id string) {
	t.Helper()
	want := []execution.RecordType{
		execution.RecordDecided, execution.RecordStarted, execution.RecordEgressDecided, execution.RecordLeaseIssued,
		execution.RecordEgressEnded, execution.RecordLeaseRevoked, execution.RecordEnded,
	}
	if story := l.story(id); !slices.Equal(story, want) {
		t.Errorf("the log tells %v, want %v", story, want)
	}
}

// A tool that is a request is made with a key that the caller never has: the gateway sets
// it, takes it out of what comes back, and gives it back at the end.
func TestToolThatIsARequest(t *testing.T) {
	t.Parallel()
	l, u := startBrokering(t, brokering{tools: toolsOfReports, granted: []string{"report", "adder"}})
	call := func(tool, arguments string) reply {
		return l.request(http.MethodPost, "/v1/tools/"+tool+"/calls", `{"arguments": `+arguments+`}`)
	}
	r := call("report", `{"id": "7 ?lang=x&é#", "lang": "a&b=c", "page": 2}`)
	var got toolAnswer
	if err := json.Unmarshal(r.body, &got); err != nil || r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	want := map[string]any{"path": "/reports/7 ?lang=x&é#", "query": "lang=a%26b%3Dc&page=2", "authorization": "Bearer [redacted]"}
	if got.Status == nil || *got.Status != 200 || got.IsError || got.Outcome != "exited" || fmt.Sprint(got.Structured) != fmt.Sprint(want) {
		t.Errorf("%s", r.body)
	}
	if keys := u.seen(); !slices.Equal(keys, []string{"Bearer " + apiKey}) {
		t.Errorf("the API was sent %q", keys)
	}
	wantRequestStory(t, l, got.ID)

	for arguments, pointer := range map[string]string{
		`{"id": "../admin"}`: "/arguments/id", `{"id": "a/b"}`: "/arguments/id", `{"id": "%2e%2e%2fadmin"}`: "/arguments/id", `{"id": "x\r\nHost: y"}`: "/arguments/id",
		`{"id": ".."}`: "/arguments/id", `{"id": ""}`: "/arguments/id", `{"id": "a\u0000"}`: "/arguments/id", `{"id": 7}`: "/arguments/id", `{}`: "/arguments/id",
		`{"id": "7", "url": "https://evil.example"}`: "/arguments/url",
	} {
		if p := call("report", arguments).refused(t, http.StatusBadRequest); len(p.Errors) != 1 || p.Errors[0].Pointer != pointer {
			t.Errorf("%s: %+v", arguments, p)
		}
	}
	// From the command line, which exits by whether it went well.
	for id, want := range map[string]int{"7": 0, "none": 1} {
		cmd := exec.Command("execgate", "tools", "call", "report", "--arguments", `{"id": "`+id+`"}`)
		cmd.Env = append(os.Environ(), "EXECGATE_URL="+l.url, "EXECGATE_API_KEY="+l.key())
		out, _ := cmd.CombinedOutput() // its exit code says it
		if code := cmd.ProcessState.ExitCode(); code != want || !bytes.Contains(out, []byte(`"path":"/reports/`+id+`"`)) || bytes.Contains(out, []byte("answered 404")) != (want == 1) {
			t.Errorf("exit code %d: %s", code, out)
		}
	}
	another, none := call("secret-report", `{}`).refused(t, http.StatusForbidden), call("nothing", `{}`).refused(t, http.StatusForbidden)
	if strings.ReplaceAll(another.Detail, "secret-report", "nothing") != none.Detail || another.Code != "tool_not_granted" || none.Code != another.Code {
		t.Errorf("%+v and %+v", another, none)
	}
	if keys := u.seen(); len(keys) != 3 {
		t.Errorf("what was refused left: %q", keys)
	}

	list := l.request(http.MethodGet, "/v1/tools", "")
	if !bytes.Contains(list.body, []byte(`"name":"report","description":"Reads a report.","kind":"http"`)) || bytes.Contains(list.body, []byte("secret-report")) {
		t.Errorf("%s", list.body)
	}
	l.endsWithout(t, apiKey)
}

// A program calls tools by name, without a key and without a library: twice one that is a
// request, once one that runs a program, and others that it may not.
func TestProgramCallsTools(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ runtime, decide string }{{"runc", "grant"}, {"runsc", "request"}} {
		t.Run(c.runtime+", decided by "+c.decide, func(t *testing.T) {
			t.Parallel()
			needsRuntime(t, c.runtime)
			programCallsTools(t, c.runtime, c.decide)
		})
	}
}

func programCallsTools(t *testing.T, runtime, decide string) {
	l, u := startBrokering(t, brokering{
		tools: toolsOfReports, granted: []string{"report", "adder", "access_tokens"}, rules: []any{toolsInside}, decide: decide, runtime: runtime,
	})
	const code = `
import json, urllib.error, urllib.request
def ask(path, body=None, method=None, host=None):
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request("http://tools.execgate" + path, data=data, method=method, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request) as answer:
            return [answer.status, json.load(answer)]
    except urllib.error.HTTPError as refused:
        return [refused.code, json.load(refused)]
def call(name, **arguments):
    return ask("/" + name, arguments)
result = {
    "list": ask("/"), "first": call("report", id="1"), "second": call("report", id="2", lang="de"), "sum": call("adder", a=1, b=2.5), "token": call("access_tokens"),
    "climbs": call("report", id="../admin"), "off": call("adder", a="1"), "secret": call("secret-report"), "none": call("nothing"),
    "get": ask("/adder", method="GET"), "deep": ask("/a/b", {}), "junk": ask("/adder", b"{} {}"), "large": ask("/adder", b" " * 300000),
    "host": ask("/", host="` + apiHost + `"),
}
`
	e := l.execute(python(code, `"network": ["tools.execgate:80"]`)).ok(t)
	var got map[string][2]json.RawMessage
	if err := json.Unmarshal(e.Result, &got); err != nil {
		t.Fatalf("%+v: %v", e, err)
	}
	answer := func(name string, status int) (a toolAnswer) {
		if string(got[name][0]) != fmt.Sprint(status) {
			t.Errorf("%s: %s", name, got[name])
		}
		if err := json.Unmarshal(got[name][1], &a); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return a
	}
	first, second, sum := answer("first", 200), answer("second", 200), answer("sum", 200)
	if first.Structured["path"] != "/reports/1" || second.Structured["query"] != "lang=de" || second.Structured["authorization"] != "Bearer [redacted]" || sum.Structured["sum"] != 3.5 {
		t.Errorf("%s", e.Result)
	}
	// A tool may be called as credentials are; one that is sent where they are made is
	// refused where requests are decided, and nothing leaves then.
	sent := []string{"Bearer " + apiKey, "Bearer " + apiKey}
	if token := answer("token", 200); decide == "grant" {
		sent = append(sent, "Bearer "+apiKey)
		if token.IsError || token.Structured["path"] != "/reports/oauth/token" {
			t.Errorf("%s", got["token"])
		}
	} else if !token.IsError || token.Status != nil || token.Structured["code"] != "token_endpoint" {
		t.Errorf("%s", got["token"])
	}
	for name, status := range map[string]int{
		"list": 200, "climbs": 400, "off": 400, "secret": 403, "none": 403, "get": 400, "deep": 400, "junk": 400, "large": 413, "host": 403,
	} {
		answer(name, status)
	}
	if bytes.Contains(got["list"][1], []byte("secret-report")) || !bytes.Contains(got["off"][1], []byte(`"pointer":"/a"`)) || !bytes.Contains(got["host"][1], []byte("host_mismatch")) {
		t.Errorf("%s", e.Result)
	}
	if keys := u.seen(); !slices.Equal(keys, sent) {
		t.Errorf("the API was sent %q", keys)
	}

	wantRequestStory(t, l, first.ID)
	wantRequestStory(t, l, second.ID)
	if story := l.story(sum.ID); !slices.Equal(story, []execution.RecordType{execution.RecordDecided, execution.RecordStarted, execution.RecordEnded}) {
		t.Errorf("of the sum the log tells %v", story)
	}
	var calls []string
	for _, r := range l.recordsOf(execution.RecordDecided) {
		if d := r.Decided; d.Parent != "" {
			calls = append(calls, fmt.Sprint(d.Tool, " ", d.Decision.Effect, " ", d.Parent == e.ID, " ", r.Principal.Tenant))
		}
	}
	if want := []string{"report allow true default", "report allow true default", "adder allow true default", "access_tokens allow true default", "secret-report deny true default", "nothing deny true default"}; !slices.Equal(calls, want) {
		t.Errorf("recorded %q", calls)
	}
	var asked []string
	for _, r := range l.recordsOf(execution.RecordEgressDecided) {
		if d := r.EgressDecided; r.Execution == e.ID && d.Effect == execution.EffectAllow {
			asked = append(asked, fmt.Sprint(d.Method, " ", d.Host, d.Path, " ", d.Address))
		}
	}
	if len(asked) != 10 || asked[1] != "POST tools.execgate/report " {
		t.Errorf("recorded %q", asked)
	}
	if e.Usage.EgressRequests != 13 {
		t.Errorf("usage %+v", e.Usage)
	}

	// Nobody who is not granted them reaches them.
	for _, members := range []string{`"network": []`, `"network": ["` + apiHost + `:` + fmt.Sprint(u.port) + `"]`} {
		e := l.execute(python(code, members)).ok(t)
		if e.Outcome != execution.OutcomeExited || e.ExitCode == nil || *e.ExitCode == 0 {
			t.Errorf("%s: %+v", members, e)
		}
	}
	l.execute(python(code, `"network": ["tools.execgate:443"]`)).refused(t, http.StatusForbidden)
	l.endsWithout(t, apiKey)
}

// What a program has called ends with it, and leaves nothing.
func TestCalledToolEndsWithItsProgram(t *testing.T) {
	t.Parallel()
	l, _ := startBrokering(t, brokering{tools: toolsOfReports, granted: []string{"sleeper"}, rules: []any{toolsInside}})
	cancel, done := l.beginTold(python(`
import urllib.request
print("calling", flush=True)
urllib.request.urlopen("http://tools.execgate/sleeper", b"{}")
`, `"network": ["tools.execgate:80"]`))
	eventually(t, "the tool is called", func() bool { return len(l.recordsOf(execution.RecordDecided)) == 2 })
	l.waitContainers(2) // its own, and the program's
	if r := cancel(); r.status >= 300 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if rest := <-done; !strings.Contains(rest, `"outcome":"cancelled"`) {
		t.Errorf("%s", rest)
	}
	eventually(t, "both have ended", func() bool { return len(l.recordsOf(execution.RecordEnded)) == 2 })
	for _, r := range l.recordsOf(execution.RecordEnded) {
		if r.Ended.Outcome != execution.OutcomeCancelled {
			t.Errorf("recorded %+v", r.Ended)
		}
	}
	for _, r := range l.recordsOf(execution.RecordEgressEnded) {
		if r.EgressEnded.Error != "cancelled" {
			t.Errorf("recorded %+v", r.EgressEnded)
		}
	}
	if code := l.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	l.waitNothingLeft()
	l.verify()
}
