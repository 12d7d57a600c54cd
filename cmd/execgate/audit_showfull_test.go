package main

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

// What is shown is held against the log, says what cannot be shown and why, and holds
// nothing that a terminal obeys.
func TestShowFull(t *testing.T) {
	t.Parallel()
	state, log, stop := newLog(t)
	db, err := store.Open(t.Context(), filepath.Join(state, inputsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	kept, err := store.NewInputs(store.InputsConfig{Store: db, KeyFile: filepath.Join(state, inputsKey)})
	if err != nil {
		t.Fatal(err)
	}
	const ask, answer = `{"v":1}`, `{"effect":"allow"}`
	hold := func(id, input, output string) {
		t.Helper()
		now := time.Now()
		seq, err := log.Append(t.Context(), execution.Record{
			Type: execution.RecordDecided, Execution: id, Decided: &execution.Decided{
				RequestSHA256: execution.HexSHA256(nil), InputSHA256: input, AnswerSHA256: execution.HexSHA256([]byte(answer)),
				Decision: execution.Deny("sha256:rev", execution.Reason{Code: "no"}),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		held := store.Held{Input: &store.Input{Execution: id, Seq: seq, Tenant: "acme", Subject: "ak_1", Time: now, Asked: []byte(ask), Answered: []byte(answer)}}
		if output != "" {
			held.Materials = []store.Material{{Execution: id, Part: store.PartOutput, Seq: seq, Tenant: "acme", Subject: "ak_1", Time: now, Content: []byte(output)}}
		}
		if err := kept.Hold(t.Context(), held); err != nil {
			t.Fatal(err)
		}
	}
	digest := execution.HexSHA256([]byte(ask))
	hold("ex_good", digest, `{"stdout":"`+b64("a\x1b[2J\u009b2J\x7f\u202e")+`","stderr":"`+b64("\xff")+`","result":"`+"\x9b"+`2J"}`)
	hold("ex_other", execution.HexSHA256([]byte("another")), "")
	hold("ex_old", "", "")
	hold("ex_gone", digest, "")
	if _, err := kept.Erase(t.Context(), store.Selection{Execution: "ex_gone"}, func(store.Erased) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var none bytes.Buffer
	if code := Main(t.Context(), []string{"audit", "show-full", "ex_good", "--state", state}, nil, &none, io.Discard); code == 0 || none.Len() > 0 {
		t.Errorf("while the log cannot be written: exit code %d, %s", code, none.String())
	}
	stop()
	for id, want := range map[string][]string{
		"ex_good": {
			`"recorded": "matches"`, `"effect": "allow"`, `"subject": "ak_1"`, `"stdout": "a\u001b[2J\u009b2J\u007f\u202e"`, `"result": "\ufffd2J"`, `"stderr_base64": "/w=="`,
		},
		"ex_other": {`"recorded": "input_differs"`},
		"ex_old":   {`"recorded": "not_compared"`},
		"ex_gone":  {`"missing": "input_erased"`},
	} {
		var out, errs bytes.Buffer
		if code := Main(t.Context(), []string{"audit", "show-full", id, "--state", state}, nil, &out, &errs); code != 0 {
			t.Fatalf("%s: exit code %d, %s", id, code, errs.String())
		}
		for _, part := range want {
			if !strings.Contains(out.String(), part) {
				t.Errorf("%s has no %s:\n%s", id, part, out.String())
			}
		}
		if !json.Valid(out.Bytes()) || !utf8.Valid(out.Bytes()) || strings.ContainsAny(out.String(), "\x1b\x7f\u009b\u202e") {
			t.Errorf("%s: %q", id, out.String())
		}
	}
	counts := map[string]int{}
	for r, err := range audit.Read(filepath.Join(state, "audit")) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Type == execution.RecordAuditRead && r.AuditRead.What == execution.ReadFull && r.Principal.Subject == "local" {
			counts[r.AuditRead.Filter["execution"]] = r.AuditRead.Count
		}
	}
	if want := map[string]int{"ex_good": 2, "ex_other": 1, "ex_old": 1, "ex_gone": 1}; !maps.Equal(counts, want) {
		t.Errorf("recorded are %v, want %v", counts, want)
	}
	for name, args := range map[string][]string{"unknown": {"ex_none", "--state", state}, "no state": {"ex_good", "--state", t.TempDir()}} {
		var errs bytes.Buffer
		if code := Main(t.Context(), append([]string{"audit", "show-full"}, args...), nil, &errs, &errs); code == 0 {
			t.Errorf("%s: %s", name, errs.String())
		}
	}
}

// b64 is text as JSON has bytes.
func b64(text string) string {
	quoted, err := json.Marshal([]byte(text))
	if err != nil {
		panic(err)
	}
	return strings.Trim(string(quoted), `"`)
}
