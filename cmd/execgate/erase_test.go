package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// keepingPolicy allows short programs, and has all of them kept.
func keepingPolicy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.rego"), []byte(`package execgate

decision := {
	"effect": "allow",
	"image": {"digests": [data.images.python]},
	"runtime": "runc",
	"env": {"allow": ["MODE"]},
	"limits": {
		"timeout_ms": 600000, "memory_mib": 128, "cpu_millis": 1000, "cpu_shares": 256, "pids": 50, "nofile": 256,
		"tmp_mib": 8, "workspace_mib": 8, "shm_mib": 4, "output_kib": 1024, "result_kib": 64, "files_mib": 1, "files_count": 4,
	},
	"obligations": [
		{"type": "record_full", "must": true},
		{"type": "retain", "must": true, "days": 90},
		{"type": "redact", "must": true, "patterns": ["AKIA[0-9]{4}"]},
	],
} if {
	input.action.kind == "execute"
	input.principal.tenant == "default"
	input.action.code.bytes < 300
} else := {"effect": "allow"} if {
	input.action.kind == "audit_read"
	"auditor" in input.principal.roles
} else := {"effect": "allow"} if {
	input.action.kind == "audit_read"
	"admin" in input.principal.roles
} else := {"effect": "deny", "reasons": [{"code": "too_long"}]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// files calls do with every file of the state folder.
func (g *gatewayUnderTest) files(do func(name string, content []byte)) {
	g.t.Helper()
	contents := map[string][]byte{}
	eventually(g.t, "all files are read, and none of them is replaced meanwhile", func() bool {
		clear(contents)
		err := filepath.WalkDir(g.state, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			contents[path], err = os.ReadFile(path)
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			g.t.Fatal(err)
		}
		return err == nil
	})
	for name, content := range contents {
		do(name, content)
	}
}

// holds names the files of the state folder that have one of the texts in them.
func (g *gatewayUnderTest) holds(texts ...[]byte) (found []string) {
	g.t.Helper()
	g.files(func(name string, content []byte) {
		for _, text := range texts {
			if bytes.Contains(content, text) {
				found = append(found, name)
			}
		}
	})
	return found
}

// showFull is `execgate audit show-full`.
func (g *gatewayUnderTest) showFull(id string) (full fullExecution) {
	g.t.Helper()
	cmd := exec.Command("execgate", "audit", "show-full", id, "--state", g.state)
	cmd.Env = append(os.Environ(), envURL+"="+g.url, envKey+"="+g.key())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatalf("%v: %s", err, errs.String())
	}
	if err := json.Unmarshal(out, &full); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
	return full
}

// wrappedKeys are the keys that everything of the gateway is encrypted under, as they
// stand in its database.
func (g *gatewayUnderTest) wrappedKeys() (keys [][]byte) {
	g.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(g.state, inputsFile)+busy+"&mode=ro")
	if err != nil {
		g.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT wrapped FROM inputs UNION ALL SELECT wrapped FROM materials")
	if err != nil {
		g.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key []byte
		if err := rows.Scan(&key); err != nil {
			g.t.Fatal(err)
		}
		if key != nil {
			keys = append(keys, key)
		}
	}
	if err := rows.Err(); err != nil {
		g.t.Fatal(err)
	}
	return keys
}

// What record_full keeps is nowhere in plain, can be shown by the operator and is what
// was recorded; and once erased it is nowhere at all, while the log stays whole.
func TestRecordFullAndErasure(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_FOLDER": keepingPolicy(t)})
	body := python(`import os, sys; print("needle-" + "out AKIA1234"); print(os.environ["MODE"][::-1], file=sys.stderr); result = {"n": INPUT_DATA["n"][::-1]}`,
		`"env": {"MODE": "needle-env"}`, `"input": {"n": "needle-input"}`, `"stdin": "needle-stdin"`)
	r := g.execute(body)
	var answer struct{ ID, Stdout, Stderr string }
	if err := json.Unmarshal(r.body, &answer); err != nil || r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if found := g.holds([]byte("needle"), []byte("tupni-eldeen"), []byte("vne-eldeen"), []byte("AKIA1234")); found != nil {
		t.Errorf("plain text in %v", found)
	}

	full := g.showFull(answer.ID)
	var request execution.Request
	var output struct {
		Stdout, Stderr string
		Result         map[string]string
	}
	if full.Request == nil || full.Output == nil || len(full.Decisions) != 1 {
		t.Fatalf("%+v", full)
	}
	if err := json.Unmarshal(full.Request.Content, &request); err != nil || !strings.Contains(request.Code, "needle") ||
		request.Env["MODE"] != "needle-env" || request.Stdin != "needle-stdin" {
		t.Errorf("the request is %s, %v", full.Request.Content, err)
	}
	if err := json.Unmarshal(full.Output.Content, &output); err != nil || output.Stdout != "needle-out [redacted]\n" ||
		output.Stdout != answer.Stdout || output.Stderr != "vne-eldeen\n" || output.Result["n"] != "tupni-eldeen" {
		t.Errorf("the output is %s, %v", full.Output.Content, err)
	}
	decided := g.recordsOf(execution.RecordDecided)[0]
	if d := full.Decisions[0]; d.Recorded != "matches" || d.Seq != decided.Seq || len(d.Input) == 0 || len(d.Answer) == 0 ||
		full.Request.SHA256 != decided.Decided.RequestSHA256 || decided.Decided.InputSHA256 == "" || decided.Decided.AnswerSHA256 == "" {
		t.Errorf("%+v of the record %+v", full, decided.Decided)
	}

	// Nothing is shown without a record in this very log.
	showing := func() (found []execution.Record) {
		for _, r := range g.recordsOf(execution.RecordAuditRead) {
			if r.AuditRead.What == execution.ReadFull {
				found = append(found, r)
			}
		}
		return found
	}
	if found := showing(); len(found) != 1 || found[0].AuditRead.Filter["execution"] != answer.ID || found[0].AuditRead.Count != 3 || found[0].Principal.Tenant != "default" {
		t.Errorf("recorded is %+v", found)
	}
	outsider := keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"tenant":"other","roles":["auditor"]}`))
	running := keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"tenant":"default","roles":["caller"]}`))
	lying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"record":%d,"request_id":"rq_1"}`, showing()[0].Seq)
	}))
	defer lying.Close()
	for name, env := range map[string][2]string{
		"another tenant's auditor": {g.url, outsider}, "no auditor": {g.url, running}, "no key": {g.url, ""}, "another gateway": {lying.URL, g.key()},
	} {
		cmd := exec.Command("execgate", "audit", "show-full", answer.ID, "--state", g.state)
		cmd.Env = append(os.Environ(), envURL+"="+env[0], envKey+"="+env[1])
		if out, err := cmd.Output(); err == nil || len(out) > 0 {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
	if found := showing(); len(found) != 1 {
		t.Errorf("recorded is %+v", found)
	}

	// One that is remembered with its result, which is kept in plain for a day.
	again := g.request(http.MethodPost, "/v1/executions", python(`print("remembered " * 2)`), "Idempotency-Key", "k1")
	if again.status != http.StatusOK || g.holds([]byte("remembered remembered")) == nil {
		t.Fatalf("%d %s", again.status, again.body)
	}
	keys := g.wrappedKeys()
	if len(keys) != 6 {
		t.Fatalf("%d keys of two inputs, two requests and two outputs", len(keys))
	}

	caller := keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"tenant":"default","roles":["caller","auditor"]}`))
	stranger := keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"tenant":"other","roles":["admin"]}`))
	for name, ask := range map[string]struct {
		key, body string
		status    int
	}{
		"no admin":          {caller, `{"tenant":"default"}`, http.StatusForbidden},
		"another's admin":   {stranger, `{"tenant":"default"}`, http.StatusForbidden},
		"nothing":           {g.key(), `{}`, http.StatusBadRequest},
		"unknown member":    {g.key(), `{"tenants":"default"}`, http.StatusBadRequest},
		"subject alone":     {g.key(), `{"subject":"ak_1"}`, http.StatusBadRequest},
		"no id":             {g.key(), `{"execution":"ex_1"}`, http.StatusBadRequest},
		"no time":           {g.key(), `{"before":"now"}`, http.StatusBadRequest},
		"another's by id":   {stranger, `{"execution":"` + answer.ID + `"}`, http.StatusOK},
		"another's by time": {stranger, `{"before":"2100-01-01T00:00:00Z"}`, http.StatusOK},
	} {
		if r := g.request(http.MethodPost, "/v1/erasures", ask.body, "Authorization", "Bearer "+ask.key); r.status != ask.status {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	if left := g.wrappedKeys(); len(left) != 6 {
		t.Fatalf("%d keys are left", len(left))
	}

	r = g.request(http.MethodPost, "/v1/erasures", `{"tenant":"default","before":"2100-01-01T00:00:00Z"}`)
	var erased struct {
		execution.Erasure
		Record uint64
	}
	if err := json.Unmarshal(r.body, &erased); err != nil || r.status != http.StatusOK || erased.Inputs != 2 || erased.Materials != 4 || erased.Results != 1 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if found := g.holds(append(keys, []byte("needle"), []byte("remembered remembered"))...); found != nil {
		t.Errorf("what was erased is in %v", found)
	}
	full = g.showFull(answer.ID)
	if full.Decisions[0].Missing != "input_erased" || full.Request.Missing != "input_erased" || full.Output.Missing != "input_erased" {
		t.Errorf("%+v", full)
	}
	if r := g.request(http.MethodGet, "/v1/executions/"+answerID(t, again), ""); r.status == http.StatusOK && bytes.Contains(r.body, []byte("remembered")) {
		t.Errorf("%d %s", r.status, r.body)
	}
	out, err := exec.Command("execgate", "policy", "replay", "--state", g.state).CombinedOutput()
	if err != nil || !strings.Contains(string(out), `2  not replayed: "input_erased"`) {
		t.Errorf("%v: %s", err, out)
	}
	if r := g.execute(python(`print("needle-" + "again")`)); r.status != http.StatusOK {
		t.Errorf("after an erasure: %d %s", r.status, r.body)
	}
	g.stop()
	g.verify()
	records := g.recordsOf(execution.RecordErased)
	last := records[len(records)-1]
	if last.Seq != erased.Record || last.Erasure.Materials != 4 || last.Principal == nil || !slices.Contains(last.Principal.Roles, execution.RoleAdmin) {
		t.Errorf("the record is %+v", last)
	}
}

func answerID(t *testing.T, r reply) string {
	t.Helper()
	var answer struct{ ID string }
	if err := json.Unmarshal(r.body, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.ID
}

// What must be kept and finds no room is not answered, and the record says why.
func TestRecordFullWithoutRoom(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_FOLDER": keepingPolicy(t), "EXECGATE_POLICY_INPUTS_MAX_MIB": "1"})
	r := g.execute(python(`print("x" * 700_000)`))
	if r.status != http.StatusServiceUnavailable || !strings.Contains(string(r.body), "obligation_failed") || strings.Contains(string(r.body), "xxxx") {
		t.Errorf("%d %.300s", r.status, r.body)
	}
	if r := g.execute(python(`print(1)`)); r.status != http.StatusOK {
		t.Errorf("a small one: %d %s", r.status, r.body)
	}
	g.stop()
	g.verify()
	ended := g.recordsOf(execution.RecordEnded)
	if len(ended) != 2 || ended[0].Ended.Error != "obligation_failed" || ended[0].Ended.Outcome != execution.OutcomeEngineFailed {
		t.Errorf("the ends are %+v", ended)
	}
}

// What was asked is kept before it runs: a gateway that dies meanwhile has it, and the
// next one shows and erases it.
func TestRecordFullOutlivesACrash(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_POLICY_FOLDER": keepingPolicy(t)})
	g.begin(python(`import time; time.sleep(600)`))
	var id string
	eventually(t, "the request is held", func() bool {
		for _, r := range g.recordsOf(execution.RecordDecided) {
			id = r.Execution
		}
		return id != "" && len(g.wrappedKeys()) == 2
	})
	g.kill()
	if full := g.showFull(id); full.Request == nil || !bytes.Contains(full.Request.Content, []byte("time.sleep(600)")) || full.Output != nil || full.Decisions[0].Recorded != "matches" {
		t.Errorf("after the crash: %+v", full)
	}
	g.start()
	g.waitReady()
	if r := g.request(http.MethodPost, "/v1/erasures", `{"execution":"`+id+`"}`); r.status != http.StatusOK || !bytes.Contains(r.body, []byte(`"inputs":1,"materials":1`)) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if full := g.showFull(id); full.Request.Missing != "input_erased" {
		t.Errorf("after the erasure: %+v", full)
	}
	g.stop()
	g.verify()
}
