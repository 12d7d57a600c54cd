package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// hostile is text that takes six bytes of JSON for each of its own.
func hostile(n int) string { return strings.Repeat("\x01", n) }

// What a log reserves for an end, and takes as a record, where its segments have
// their default size.
const (
	endBytes    = 64 << 10
	recordBytes = 1 << 20
)

// size is an upper bound of the record's JSON in the log, which escapes DEL and
// C1 controls besides.
func size(t *testing.T, r execution.Record) int {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	n := len(text)
	for _, c := range string(text) {
		if c >= 0x7f && c <= 0x9f {
			n += len(`\u0000`) - utf8.RuneLen(c)
		}
	}
	return n
}

// Whatever a program leaves behind, its end fits into the space that the log
// keeps for it, and stands for all of it.
func TestAnEndedRecordIsBounded(t *testing.T) {
	for _, c := range []string{"\x01", "\x7f", "<", "\u0085", "\u2028", "a\xff", "é", "x", `"`, "🙂"} {
		var artifacts []execution.Artifact
		var all []execution.ArtifactHash
		for i := range 1000 {
			path := fmt.Sprintf("%s/%03d", strings.Repeat(c, 4000/len(c)), i)
			artifacts = append(artifacts, execution.Artifact{Path: path, Size: 1 << 40, Content: []byte(path)})
			all = append(all, execution.ArtifactHash{Path: path, Size: 1 << 40, SHA256: execution.HexSHA256([]byte(path))})
		}
		w := newWorld()
		w.decide = func(execution.Question) execution.Decision {
			return allow(slices.Repeat([]string{strings.Repeat("x", 64)}, 64)...)
		}
		w.revoke = func(context.Context) ([]execution.Lease, error) {
			return slices.Repeat([]execution.Lease{{Tool: strings.Repeat(c, 500), ID: strings.Repeat(c, 4000), Expires: time.Now()}}, 1000), nil
		}
		w.execute = func(context.Context, execution.Job) (execution.Result, error) {
			r := exited(0)
			r.Artifacts, r.Usage.LimitsHit = artifacts, slices.Repeat([]string{hostile(1000)}, 1000)
			return r, nil
		}
		got, err := w.service(t).Execute(t.Context(), call())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Result.Artifacts) != 1000 || len(got.Result.Artifacts[0].Path) < 4000 {
			t.Error("the caller does not get what the program left")
		}
		record := w.recorded()[1]
		if n := size(t, record); n > endBytes {
			t.Errorf("%q: the end takes %d bytes", c, n)
		}
		e := record.Ended
		if len(e.Artifacts) != execution.MaxRecordArtifacts || e.ArtifactsCount != 1000 || e.ArtifactsSHA256 != execution.ArtifactsSHA256(all) {
			t.Errorf("%q: listed are %d of %d artifacts, digest %s", c, len(e.Artifacts), e.ArtifactsCount, e.ArtifactsSHA256)
		}
		for i, a := range e.Artifacts {
			if a.Path == all[i].Path || !utf8.ValidString(a.Path) || a.SHA256 != all[i].SHA256 || len(a.Path) < 40 {
				t.Errorf("%q: listed is %+v", c, a)
			}
		}
	}
}

// A path that is short enough stands as it is.
func TestShortPathsAreRecordedWhole(t *testing.T) {
	w := newWorld()
	path := strings.Repeat("p", execution.MaxRecordPath)
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		r := exited(0)
		r.Artifacts = []execution.Artifact{{Path: path, Size: 1, Content: []byte("x")}}
		return r, nil
	}
	if _, err := w.service(t).Execute(t.Context(), call()); err != nil {
		t.Fatal(err)
	}
	if e := w.recorded()[1].Ended; e.Artifacts[0].Path != path || e.ArtifactsCount != 1 {
		t.Errorf("ended %+v", e)
	}
}

// largest is a request at every bound of the decoder that shows in a record.
func largest(t *testing.T) string {
	t.Helper()
	name := func(i, n int) string { return fmt.Sprintf("n%03d", i) + strings.Repeat("_", n-4) }
	host := strings.Repeat(strings.Repeat("a", 62)+".", 4)[:251] + "a"
	env, metadata := map[string]string{}, map[string]string{}
	for i := range 256 {
		env[name(i, 128)] = ""
	}
	for i := range 32 {
		metadata[name(i, 64)] = hostile(512)
	}
	body, err := json.Marshal(map[string]any{
		"image": strings.Repeat("i", 64), "language": strings.Repeat("l", 32), "code": "1", "env": env, "metadata": metadata,
		"tools":   slices.Repeat([]string{strings.Repeat("t", 64)}, 64),
		"network": slices.Repeat([]string{host + ":65535"}, 64),
		"runtime": strings.Repeat("r", 64),
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// The largest request that is decoded, under the most talkative policy, makes a
// record that the log takes: allowed or denied.
func TestADecidedRecordIsBounded(t *testing.T) {
	long := execution.Reason{Code: hostile(9999), Rule: hostile(9999), Message: hostile(9999), Remediation: hostile(9999)}
	for name, reasons := range map[string][]execution.Reason{
		"long": slices.Repeat([]execution.Reason{long}, 10_000),
		"many": slices.Repeat([]execution.Reason{{Code: "c"}}, 10_000),
	} {
		for _, effect := range []execution.Effect{execution.EffectAllow, execution.EffectDeny} {
			w := newWorld()
			w.decide = func(q execution.Question) execution.Decision {
				d := allow(slices.Repeat([]string{strings.Repeat("t", 64)}, 64)...)
				d.Effect, d.Reasons, d.Revision = effect, reasons, hostile(9999)
				d.Warnings, d.Shadowed = reasons, reasons
				d.Grant.Env = nil
				for name := range q.Request.Env {
					d.Grant.Env = append(d.Grant.Env, name)
				}
				d.Grant.Runtime = hostile(21)
				d.Grant.OptionalControls = slices.Repeat([]string{hostile(21)}, 64)
				d.Obligations = slices.Repeat([]execution.Obligation{{Type: hostile(21)}}, 64)
				for _, l := range execution.AllLimits() {
					d.Clamped = append(d.Clamped, execution.Clamp{Limit: l.Name, Requested: 1 << 62, Granted: 1 << 62})
					*l.Of(&d.Grant.Limits) = l.Max
				}
				return d
			}
			a := serve(t, w, nil).do("POST", "/v1/executions", callerToken, largest(t))
			if want := map[execution.Effect]int{execution.EffectAllow: 200, execution.EffectDeny: 403}[effect]; a.StatusCode != want {
				t.Fatalf("%s %s: %d %.300s", name, effect, a.StatusCode, a.body)
			}
			record := w.recorded()[0]
			if n := size(t, record); n > recordBytes {
				t.Errorf("%s %s: the decision takes %d bytes", name, effect, n)
			}
			d := record.Decided
			if len(d.Metadata) != 32 || len(d.EnvNames) != 256 || len(d.Network) != 64 || len(d.Tools) != 64 {
				t.Errorf("%s %s: what was asked is not all there", name, effect)
			}
			if last := d.Decision.Reasons[len(d.Decision.Reasons)-1]; last.Code != "reasons_omitted" {
				t.Errorf("%s %s: the last reason is %.100q", name, effect, last.Code)
			}
		}
	}
}

// What a policy grants is never cut in the record: a grant too large for it is
// none.
func TestAGrantTooLargeForTheRecordDenies(t *testing.T) {
	for name, change := range map[string]func(*execution.Decision){
		"credentials":   func(d *execution.Decision) { d.Grant.Credentials = make([]execution.Credential, 65) },
		"a tool":        func(d *execution.Decision) { d.Grant.Credentials = []execution.Credential{{Tool: hostile(11)}} },
		"controls":      func(d *execution.Decision) { d.Grant.OptionalControls = make([]string, 65) },
		"a control":     func(d *execution.Decision) { d.Grant.OptionalControls = []string{hostile(22)} },
		"obligations":   func(d *execution.Decision) { d.Obligations = make([]execution.Obligation, 65) },
		"an obligation": func(d *execution.Decision) { d.Obligations = []execution.Obligation{{Type: hostile(22)}} },
		"what to do": func(d *execution.Decision) {
			d.Obligations = []execution.Obligation{{Type: "a", Args: []byte(`"` + strings.Repeat("x", 32<<10) + `"`)}}
		},
		"variables":        func(d *execution.Decision) { d.Grant.Env = make([]string, 257) },
		"a variable":       func(d *execution.Decision) { d.Grant.Env = []string{strings.Repeat("x", 129)} },
		"clamps":           func(d *execution.Decision) { d.Clamped = make([]execution.Clamp, 14) },
		"a limit's name":   func(d *execution.Decision) { d.Clamped = []execution.Clamp{{Limit: hostile(22)}} },
		"a runtime's name": func(d *execution.Decision) { d.Grant.Runtime = hostile(22) },
	} {
		w := newWorld()
		w.decide = func(execution.Question) execution.Decision {
			d := allow()
			change(&d)
			return d
		}
		_, err := w.service(t).Execute(t.Context(), call())
		if e := problemOf(err); e.Kind != execution.KindDenied || e.Reasons[0].Code != execution.CodePolicyInvalid {
			t.Errorf("%s: %v", name, err)
		}
		if n := size(t, w.recorded()[0]); n > 4<<10 {
			t.Errorf("%s: the decision takes %d bytes", name, n)
		}
	}
}

// A record that is too large is no fault of the log.
func TestATooLargeRecordLeavesTheServiceReady(t *testing.T) {
	w := newWorld()
	w.append = func(context.Context, execution.Record) error {
		return &execution.Error{Kind: execution.KindTooLarge, Code: "audit_record_too_large", Detail: "ask for less"}
	}
	s := w.service(t)
	_, err := s.Execute(t.Context(), call())
	if e := problemOf(err); e.Kind != execution.KindTooLarge || e.Code != "audit_record_too_large" || e.Detail == "" {
		t.Errorf("error %v", err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
	if w.history() != "resolve decide decided" {
		t.Errorf("history %q", w.history())
	}
}

// tellingLog is a log that says whether it works.
type tellingLog struct {
	*world
	ready error
}

func (l *tellingLog) Ready(context.Context) error { return l.ready }

// The service is ready again as soon as a record was written, or the log says
// that it works again, and no sooner.
func TestReadyOnceTheLogWorksAgain(t *testing.T) {
	broken := errors.New("no space left on device")
	w := newWorld()
	w.append = func(context.Context, execution.Record) error { return broken }
	log := &tellingLog{w, broken}
	config := w.config()
	config.Recorder = log
	s, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Execute(t.Context(), call()); err == nil || s.Ready(t.Context()) == nil {
		t.Fatal("ready on a log that fails")
	}
	log.ready = nil
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("not ready though the log is: %v", err)
	}

	s = w.service(t) // its log tells nothing
	if _, err := s.Execute(t.Context(), call()); err == nil || s.Ready(t.Context()) == nil {
		t.Fatal("ready on a log that fails")
	}
	w.append = func(context.Context, execution.Record) error { return nil }
	if _, err := s.Execute(t.Context(), call()); err != nil || s.Ready(t.Context()) != nil {
		t.Errorf("not ready after a record was written: %v, %v", err, s.Ready(t.Context()))
	}
}

// That policy gave no answer is not its answer: another try may get one.
func TestNoAnswerOfPolicyIsUnavailable(t *testing.T) {
	for _, code := range []string{execution.CodePolicyTimeout, execution.CodePolicyNotLoaded} {
		w := newWorld()
		w.decide = func(execution.Question) execution.Decision {
			return execution.Deny("r", execution.Reason{Code: code, Message: "no answer"})
		}
		s := serve(t, w, nil)
		a := s.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k")
		if p := a.problem(t); a.StatusCode != 503 || p.Code != code || len(p.Reasons) != 1 || p.Reasons[0].Code != code || a.Header.Get("Retry-After") == "" {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if d := w.recorded()[0].Decided.Decision; d.Effect != execution.EffectDeny || w.history() != "resolve decide decided" {
			t.Errorf("recorded %+v, history %q", d, w.history())
		}
		w.decide = func(execution.Question) execution.Decision { return allow() }
		if a := s.do("POST", "/v1/executions", callerToken, program, "Idempotency-Key", "k"); a.StatusCode != 200 {
			t.Errorf("the key is not free again: %d %s", a.StatusCode, a.body)
		}
	}
}
