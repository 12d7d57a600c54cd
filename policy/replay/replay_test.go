package replay_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/bench/reference"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/replay"
)

func run(t testing.TB, config replay.Config) *replay.Report {
	t.Helper()
	config.Deadline = time.Minute // a busy machine must not turn an answer into none
	report, err := replay.Run(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// filled has decisions that allow and that deny, of two tenants.
func filled(t testing.TB) *recorded {
	r := newRecorded(t, shipped(), nil)
	for n := range 10 {
		allowed := question(n)
		allowed.Request.Limits = execution.Limits{} // the policy's default
		r.decide(allowed)
		denied := question(100 + n)
		denied.Principal.Tenant, denied.Image.Name = "ci", "ubuntu"
		r.decide(denied)
	}
	return r
}

// grants is a policy that allows everything with these limits.
func grants(memory string) string {
	return `package execgate
decision := {"effect": "allow", "runtime": "runc", "image": {"digests": [input.action.image.digest]}, "env": {"allow": []},
	"reasons": [{"code": "granted", "rule": "candidate.all"}],
	"limits": {"timeout_ms": 1000, "memory_mib": ` + memory + `, "cpu_millis": 100, "cpu_shares": 2, "pids": 16, "nofile": 64,
		"tmp_mib": 1, "workspace_mib": 1, "shm_mib": 1, "output_kib": 1, "result_kib": 1, "files_mib": 1, "files_count": 1}}`
}

func TestRecordedRevisionReproducesEverything(t *testing.T) {
	r := filled(t)
	r.activate(rego(`package execgate
decision := {"effect": "deny", "reasons": [{"code": "closed", "rule": "closed"}]}`))
	r.decide(question(1))
	report := run(t, replay.Config{Source: r})
	if report.Replayed != 21 || report.Differing != 0 || report.Classes[replay.Same] != 21 || len(report.Unreplayable) != 0 {
		t.Errorf("%+v", report)
	}
}

// Where a recorded decision is not what its revision decides, that shows, also
// where only the bytes differ.
func TestReplayThatDiffers(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*replay.Input)
		class  replay.Class
	}{
		"effect": {func(in *replay.Input) {
			in.Answered = bytes.Replace(in.Answered, []byte(`"allow"`), []byte(`"deny"`), 1)
		}, replay.DenyToAllow},
		"limit": {func(in *replay.Input) {
			in.Answered = bytes.Replace(in.Answered, []byte(`"memory_mib":256`), []byte(`"memory_mib":128`), 1)
		}, replay.LimitsLoosened},
		"revision": {func(in *replay.Input) {
			in.Answered = bytes.Replace(in.Answered, []byte(`"revision":"sha256:`), []byte(`"revision":"sha256:0`), 1)
		}, replay.Other},
		"a space": {func(in *replay.Input) { in.Answered = append(in.Answered, ' ') }, replay.Other},
		"input": {func(in *replay.Input) {
			in.Asked = bytes.Replace(in.Asked, []byte(`"tenant":"default"`), []byte(`"tenant":"unknown"`), 1)
		}, replay.AllowToDeny},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorded(t, shipped(), nil)
			if d := r.decide(question(1)); !d.Allowed() {
				t.Fatalf("%+v", d)
			}
			r.decide(question(2))
			test.change(&r.inputs[r.groups[0]][0])
			report := run(t, replay.Config{Source: r})
			if report.Replayed != 2 || report.Differing != 1 || report.Classes[test.class] != 1 || len(report.Samples) != 1 || report.Samples[0].Seq != 1 {
				t.Errorf("%+v", report)
			}
		})
	}
}

func TestCandidate(t *testing.T) {
	r := filled(t)
	open := rego(grants("65536"))
	report := run(t, replay.Config{Source: r, Is: &open, Samples: 3})
	if report.Replayed != 20 || report.Found(replay.DenyToAllow) != 10 || report.ByTenant["ci"][replay.DenyToAllow] != 10 ||
		report.ByAction["execute"][replay.DenyToAllow] != 10 || report.ByRule["candidate.all"][replay.DenyToAllow] != 10 {
		t.Errorf("%+v", report)
	}
	if report.Found(replay.LimitsLoosened) != 10 || report.Found(replay.LimitsTightened) != 10 || report.ByTenant["default"][replay.LimitsLoosened] != 10 {
		t.Errorf("of limits: %+v", report.Classes)
	}
	if len(report.Samples) != 6 || report.Samples[0].Execution != "ex_0" || report.Samples[3].Execution != "ex_100" {
		t.Errorf("samples: %+v", report.Samples)
	}
	if !cmp.Equal(report.Samples[0].Limits[0], replay.LimitChange{Limit: "timeout_ms", Was: report.Samples[0].Limits[0].Was, Is: 1000}) {
		t.Errorf("limits of a sample: %+v", report.Samples[0].Limits)
	}
	closed := rego(`package execgate
decision := {"effect": "deny"}`)
	if report := run(t, replay.Config{Source: r, Is: &closed}); report.Found(replay.AllowToDeny) != 10 || report.Found(replay.Other) != 10 {
		t.Errorf("%+v", report)
	}
	if report := run(t, replay.Config{Source: r, Was: &closed, Is: &open}); report.Found(replay.DenyToAllow) != 20 {
		t.Errorf("two candidates: %+v", report)
	}
	same := shipped()
	if report := run(t, replay.Config{Source: r, Is: &same}); report.Classes[replay.Same] != 20 {
		t.Errorf("the same policy: %+v", report)
	}
}

func TestBrokenCandidateIsAnError(t *testing.T) {
	broken := rego("package execgate\ndecision := ")
	_, err := replay.Run(context.Background(), replay.Config{Source: filled(t), Is: &broken})
	if _, ok := errors.AsType[*policy.BundleError](err); !ok {
		t.Errorf("got %v", err)
	}
	empty := &recorded{t: t}
	_, err = replay.Run(context.Background(), replay.Config{Source: empty, Is: &broken})
	if _, ok := errors.AsType[*policy.BundleError](err); !ok {
		t.Errorf("where nothing is recorded: %v", err)
	}
}

// What a tenant may do stays within what its own policy grants, under a candidate
// too: also where that took no part before, because the organisation's denied.
func TestCandidateIsNarrowedByTheRest(t *testing.T) {
	w := &workers{}
	r := newRecorded(t, shipped(), w)
	if _, err := r.witness.ActivateTenant(t.Context(), "default", rego(`package execgate
decision := {"effect": "deny", "reasons": [{"code": "own", "rule": "own.rule"}]}`)); err != nil {
		t.Fatal(err)
	}
	q := question(1)
	q.Image.Name = "ubuntu"
	r.decide(q)
	open := rego(grants("512"))
	report := run(t, replay.Config{Source: r, Is: &open, Workers: &workers{}})
	if report.Replayed != 1 || report.Found(replay.DenyToAllow) != 0 || report.ByRule["own.rule"][replay.Other] != 1 {
		t.Errorf("%+v", report)
	}
	if report := run(t, replay.Config{Source: r, Is: &open}); report.Replayed != 0 || report.Unreplayable[replay.WhyPolicyMissing] != 1 {
		t.Errorf("without workers: %+v", report)
	}
	if report := run(t, replay.Config{Source: r, Workers: &workers{}, Isolated: true}); report.Classes[replay.Same] != 1 {
		t.Errorf("identity, isolated: %+v", report)
	}
}

func TestUnreplayableIsCountedApart(t *testing.T) {
	r := filled(t)
	r.lost["overflow"] = 7
	g := r.groups[0]
	r.inputs[g][0].Asked = nil
	r.inputs[g][1].Asked = []byte(`{"v":99,"future":1}`)
	r.inputs[g][2].Answered = []byte(`{"effect":"deny","reasons":[{"code":"policy_timeout"}],"clamped":[],"revision":"x"}`)
	r.activate(rego(`package execgate
decision := {"effect": "deny"}`))
	r.decide(question(1))
	delete(r.documents, r.witness.Revision())
	report := run(t, replay.Config{Source: r})
	want := map[string]uint64{"erased": 1, "overflow": 7, replay.WhyInputUnknown: 1, replay.WhyNoAnswer: 1, replay.WhyPolicyMissing: 1}
	if diff := cmp.Diff(want, report.Unreplayable); diff != "" || report.Replayed != 17 || report.Differing != 0 {
		t.Errorf("%d replayed, %d differ:\n%s", report.Replayed, report.Differing, diff)
	}
}

func TestReplayEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replay.Run(ctx, replay.Config{Source: filled(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCompare(t *testing.T) {
	allow := func(grant string) string {
		return `{"effect":"allow","reasons":[],"grant":` + grant + `,"revision":"a"}`
	}
	for name, test := range map[string]struct {
		was, is string
		want    []replay.Class
	}{
		"same":                  {allow(`{"limits":{"pids":1}}`), strings.Replace(allow(`{"limits":{"pids":1}}`), `"a"`, `"b"`, 1), []replay.Class{replay.Same}},
		"layers":                {`{"effect":"deny","layers":[{"name":"tenant"}]}`, `{"effect":"deny"}`, []replay.Class{replay.Same}},
		"reason":                {`{"effect":"deny","reasons":[]}`, `{"effect":"deny","reasons":[{"code":"x"}]}`, []replay.Class{replay.Other}},
		"to allow":              {`{"effect":"deny"}`, allow(`{}`), []replay.Class{replay.DenyToAllow}},
		"to deny":               {allow(`{}`), `{"effect":"deny"}`, []replay.Class{replay.AllowToDeny}},
		"to approval":           {allow(`{}`), `{"effect":"require_approval","grant":{}}`, []replay.Class{replay.AllowToApproval}},
		"denied to approval":    {`{"effect":"deny"}`, `{"effect":"require_approval","grant":{}}`, []replay.Class{replay.DenyToApproval}},
		"approval to allow":     {`{"effect":"require_approval","grant":{"limits":{"pids":1}}}`, allow(`{"limits":{"pids":2}}`), []replay.Class{replay.ApprovalToAllow, replay.LimitsLoosened}},
		"approval to deny":      {`{"effect":"require_approval"}`, `{"effect":"deny"}`, []replay.Class{replay.ApprovalToDeny}},
		"unknown effect":        {`{"effect":"maybe"}`, `{"effect":"deny"}`, []replay.Class{replay.Other}},
		"looser":                {allow(`{"limits":{"pids":1}}`), allow(`{"limits":{"pids":2}}`), []replay.Class{replay.LimitsLoosened}},
		"tighter":               {allow(`{"limits":{"pids":2}}`), allow(`{"limits":{"pids":1}}`), []replay.Class{replay.LimitsTightened}},
		"both":                  {allow(`{"limits":{"pids":2,"x":1}}`), allow(`{"limits":{"pids":1,"x":2}}`), []replay.Class{replay.LimitsLoosened, replay.LimitsTightened}},
		"limit gone":            {allow(`{"limits":{"pids":2}}`), allow(`{}`), []replay.Class{replay.LimitsLoosened, replay.LimitsTightened}},
		"longer session":        {allow(`{"session":{"idle_s":2}}`), allow(`{"session":{"idle_s":3}}`), []replay.Class{replay.LimitsLoosened}},
		"optional control":      {allow(`{}`), allow(`{"optional_controls":["seccomp"]}`), []replay.Class{replay.LimitsLoosened}},
		"reuse":                 {allow(`{}`), allow(`{"reuse":"principal"}`), []replay.Class{replay.LimitsLoosened}},
		"requests not decided":  {allow(`{"network":{"decide":"request"}}`), allow(`{"network":{"decide":"grant"}}`), []replay.Class{replay.LimitsLoosened}},
		"requests decided":      {allow(`{}`), allow(`{"network":{"decide":"request"}}`), []replay.Class{replay.LimitsTightened}},
		"no reuse":              {allow(`{"reuse":"principal"}`), allow(`{}`), []replay.Class{replay.LimitsTightened}},
		"runtime":               {allow(`{"runtime":"runsc"}`), allow(`{"runtime":"runc"}`), []replay.Class{replay.Other}},
		"credential":            {allow(`{"credentials":[{"tool":"a"}]}`), allow(`{"credentials":[{"tool":"a"},{"tool":"b"}]}`), []replay.Class{replay.CredentialsWidened}},
		"another credential":    {allow(`{"credentials":[{"tool":"a"}]}`), allow(`{"credentials":[{"tool":"b"}]}`), []replay.Class{replay.CredentialsWidened}},
		"credential taken away": {allow(`{"credentials":[{"tool":"a"}]}`), allow(`{}`), []replay.Class{replay.Other}},
		"destination":           {allow(`{}`), allow(`{"network":{"rules":[{"host":"a"}]}}`), []replay.Class{replay.DestinationsWidened}},
		"obligation dropped":    {`{"effect":"allow","obligations":[{"type":"redact"}]}`, `{"effect":"allow"}`, []replay.Class{replay.ObligationsDropped}},
	} {
		got, err := replay.Compare([]byte(test.was), []byte(test.is))
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
	if _, err := replay.Compare([]byte(`{}`), []byte(`{`)); err == nil {
		t.Error("what is no JSON was compared")
	}
}

// Whatever was recorded, a decision is the same as itself and never of no class.
func FuzzCompare(f *testing.F) {
	f.Add([]byte(`{"effect":"allow","grant":{"limits":{"pids":1},"credentials":[{}]}}`), []byte(`{"effect":"deny","reasons":[{"rule":"r"}]}`))
	f.Add([]byte(`{"effect":null,"grant":null}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, was, is []byte) {
		if classes, err := replay.Compare(was, is); err == nil && len(classes) == 0 {
			t.Error("no class")
		}
		if classes, err := replay.Compare(was, was); err == nil && !cmp.Equal(classes, []replay.Class{replay.Same}) {
			t.Errorf("a decision differs from itself: %v", classes)
		}
	})
}

var decisions = flag.Int("decisions", 20_000, "how many recorded decisions BenchmarkReplay replays")

// BenchmarkReplay replays recorded decisions against a candidate: more than 10,000
// a second on one core.
func BenchmarkReplay(b *testing.B) {
	r := newRecorded(b, shipped(), nil)
	r.decide(question(1))
	g := r.groups[0]
	one := r.inputs[g][0]
	for n := range *decisions - 1 {
		again := one
		again.Seq = uint64(n + 2)
		r.inputs[g] = append(r.inputs[g], again)
	}
	candidate := shipped()
	changed := fstest.MapFS{}
	files, err := policy.ReadFiles(candidate.Files)
	if err != nil {
		b.Fatal(err)
	}
	for name, content := range files {
		changed[name] = &fstest.MapFile{Data: content}
	}
	changed["more/data.json"] = &fstest.MapFile{Data: []byte(`{"x": 1}`)}
	candidate.Files = changed
	reference.Measure(b, func() {
		report := run(b, replay.Config{Source: r, Is: &candidate})
		if report.Replayed != uint64(*decisions) || report.Differing != 0 {
			b.Fatalf("%+v", report)
		}
		b.ReportMetric(report.PerSecond(), "decisions/s")
	})
}
