package policy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

// witnessed is a Witness with these policies in force.
func witnessed(t testing.TB, config policy.Config, organisation policy.Bundle, c *policy.Ceilings, own map[string]policy.Bundle) *policy.Witness {
	t.Helper()
	engine, err := policy.New(config)
	if err != nil {
		t.Fatal(err)
	}
	w := policy.NewWitness(engine)
	if _, err := w.Activate(context.Background(), organisation); err != nil {
		t.Fatal(err)
	}
	if c != nil {
		if err := w.SetCeilings(*c); err != nil {
			t.Fatal(err)
		}
	}
	for tenant, bundle := range own {
		if _, err := w.ActivateTenant(context.Background(), tenant, bundle); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// compiledOf compiles what a decision was made of, from its documents alone.
func compiledOf(t testing.TB, asked *execution.Asked, isolated bool) *policy.Compiled {
	t.Helper()
	config := policy.CompileConfig{Deadline: 30 * time.Second, Workers: &workers{}, Isolated: isolated}
	var own *execution.PolicyDocument
	for _, d := range asked.Documents {
		var err error
		switch {
		case d.Kind == execution.PolicyTerms:
			config.Terms, err = policy.ReadTerms(d.Content, asked.Terms)
		case d.Tenant == "":
			config.Organisation, err = policy.Unpack(d.Content, asked.Organisation)
		default:
			own = &d
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	compiled, err := policy.Compile(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(compiled.Close)
	if own != nil {
		bundle, err := policy.Unpack(own.Content, asked.Own)
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled.SetTenant(context.Background(), own.Tenant, bundle); err != nil {
			t.Fatal(err)
		}
	}
	return compiled
}

// questions are of many kinds: allowed, clamped, denied for one reason and for
// several.
func questions() map[string]execution.Question {
	all := map[string]execution.Question{}
	add := func(name string, change func(*execution.Question)) {
		q := question()
		change(&q)
		all[name] = q
	}
	add("allowed", func(*execution.Question) {})
	add("clamped", func(q *execution.Question) { q.Request.Limits = execution.Limits{MemoryMiB: 1 << 20, TimeoutMS: 1000} })
	add("image", func(q *execution.Question) { q.Image.Name = "ubuntu" })
	add("much", func(q *execution.Question) {
		q.Request.Env = map[string]string{"B": "1", "A<>&\u2028": "2"}
		q.Request.Network = []execution.Destination{{Host: "EXAMPLE.com.", Port: 443}}
		q.Request.Tools = []string{"github"}
		q.Request.Runtime = "runsc"
		q.Request.Files = []execution.File{{Path: "./a//b", Content: []byte("x")}}
		q.Request.Metadata = map[string]string{"agent": "é\x00\xff", "purpose": "</script>"}
	})
	add("session", func(q *execution.Question) { q.Action = execution.ActionSession })
	add("nobody", func(q *execution.Question) { q.Principal.Roles = nil })
	add("stranger", func(q *execution.Question) { q.Principal.Tenant = "stranger" })
	add("approved", func(q *execution.Question) {
		q.Approval = &execution.ApprovalGiven{ID: "ap_1", By: "ak_2", At: q.Time, Comment: "go", RequestSHA256: "00"}
	})
	return all
}

// A recorded decision is reproduced byte for byte from what is kept with it.
func TestReplayReproducesTheDecision(t *testing.T) {
	least := &policy.Ceilings{Ceiling: policy.Ceiling{Limits: execution.Limits{MemoryMiB: 128}, NoSessions: true}}
	narrow := rego(`package execgate
decision := {"effect": "allow", "limits": {"timeout_ms": 2000}} if input.principal.subject == "ak_01"
decision := {"effect": "deny", "reasons": [{"code": "own", "rule": "own.rule"}]} if input.principal.subject != "ak_01"`)
	for name, test := range map[string]struct {
		organisation policy.Bundle
		ceilings     *policy.Ceilings
		own          map[string]policy.Bundle
	}{
		"shipped":     {organisation: shipped()},
		"ceilings":    {organisation: shipped(), ceilings: least},
		"tenant":      {organisation: shipped(), ceilings: least, own: map[string]policy.Bundle{"default": narrow}},
		"denies":      {organisation: answer(`{"effect": "deny", "reasons": [{"code": "c", "message": "<m>", "rule": "r"}]}`)},
		"invalid":     {organisation: answer(`{"effect": "maybe"}`)},
		"undefined":   {organisation: rego("package execgate\ndecision := {} if input.v == 2")},
		"unsupported": {organisation: answer(`{"effect": "allow", "obligations": [{"type": "dance", "must": true, "x": {"b": 1, "a": 2}}]}`)},
	} {
		for asked, q := range questions() {
			t.Run(name+"/"+asked, func(t *testing.T) {
				w := witnessed(t, policy.Config{
					Deadline: 30 * time.Second, Workers: &workers{}, Environment: "test", InputCode: asked == "allowed",
					Obligations: []string{"redact"},
				}, test.organisation, test.ceilings, test.own)
				d := w.Decide(context.Background(), q)
				if d.Asked == nil {
					t.Fatal("the decision does not say what was asked")
				}
				for _, isolated := range []bool{false, true} {
					again, err := compiledOf(t, d.Asked, isolated).Decide(context.Background(), d.Asked.Input)
					if err != nil {
						t.Fatal(err)
					}
					text, err := json.Marshal(again)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(text, d.Asked.Answer) {
						t.Errorf("isolated %v: decided\n%s\nand replayed\n%s", isolated, d.Asked.Answer, text)
					}
				}
				input, refusal := policy.InputJSON(q, policy.Config{Environment: "test", InputCode: asked == "allowed"})
				if refusal != nil || !bytes.Equal(input, d.Asked.Input) {
					t.Errorf("InputJSON is\n%s\nand evaluated was\n%s", input, d.Asked.Input)
				}
			})
		}
	}
}

// A decision of an earlier policy is kept with that one, also where its tenant's
// own took no part because it was denied before.
func TestWitnessNamesWhatDecided(t *testing.T) {
	own := answer(`{"effect": "allow"}`)
	w := witnessed(t, policy.Config{Deadline: 30 * time.Second, Workers: &workers{}}, shipped(), nil, map[string]policy.Bundle{"default": own})
	q := questions()["image"]
	first := w.Decide(context.Background(), q)
	if first.Asked.Organisation != w.Revision() || first.Asked.Own != w.TenantRevision("default") || len(first.Asked.Documents) != 3 {
		t.Errorf("asked is %+v", first.Asked)
	}
	if _, err := w.Activate(context.Background(), rego("package broken")); err == nil {
		t.Error("a broken policy was activated")
	}
	if still := w.Decide(context.Background(), q); len(still.Asked.Documents) != 3 || still.Asked.Organisation != first.Asked.Organisation {
		t.Errorf("after a refused policy asked is %+v", still.Asked)
	}
	if _, err := w.Activate(context.Background(), answer(`{"effect": "deny"}`)); err != nil {
		t.Fatal(err)
	}
	if second := w.Decide(context.Background(), q); second.Asked.Organisation == first.Asked.Organisation || len(second.Asked.Documents) != 3 {
		t.Errorf("after another policy asked is %+v", second.Asked)
	}
	bare, err := policy.New(policy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if d := policy.NewWitness(bare).Decide(context.Background(), q); d.Allowed() || d.Asked != nil {
		t.Errorf("without a policy: %+v", d)
	}
}

func TestDocumentsThatAreNotWhatTheyAreCalled(t *testing.T) {
	document, _, revision, err := policy.Pack(shipped())
	if err != nil {
		t.Fatal(err)
	}
	if bundle, err := policy.Unpack(document, revision); err != nil || bundle.Images["python"] != digest {
		t.Errorf("%v, %v", bundle.Images, err)
	}
	for name, damaged := range map[string][]byte{
		"empty":        {},
		"not packed":   []byte(`{"v":1}`),
		"other images": zipped(t, `{"v":1,"images":{"python":"sha256:1"},"files":{}}`),
		"version":      zipped(t, `{"v":2}`),
		"no JSON":      zipped(t, `{`),
		"cut":          document[:len(document)-9],
	} {
		if _, err := policy.Unpack(damaged, revision); err == nil {
			t.Errorf("%s: unpacked", name)
		}
	}
	if _, err := policy.ReadTerms([]byte(`{"obligations":[]}`), "sha256:00"); err == nil {
		t.Error("terms of another revision were read")
	}
	if _, err := policy.ReadTerms([]byte(`{"obligation":[]}`), "sha256:00"); err == nil || !strings.Contains(err.Error(), "unknown field") {
		t.Errorf("terms with an unknown field: %v", err)
	}
}

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func TestWhatCannotBeCompiled(t *testing.T) {
	broken, isBundle := error(nil), false
	_, broken = policy.Compile(context.Background(), policy.CompileConfig{Organisation: rego("package execgate\nx := ")})
	if _, isBundle = errors.AsType[*policy.BundleError](broken); !isBundle {
		t.Errorf("a broken policy: %v", broken)
	}
	if _, err := policy.Compile(context.Background(), policy.CompileConfig{Organisation: shipped(), Isolated: true}); err == nil {
		t.Error("compiled outside of the process without workers")
	}
	compiled, err := policy.Compile(context.Background(), policy.CompileConfig{Organisation: shipped()})
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.SetTenant(context.Background(), "a", shipped()); err == nil {
		t.Error("a tenant's policy is evaluated without workers")
	}
	for _, text := range []string{``, `[]`, `{"v":1,"unknown":2}`, `{"v":1}{`, `{"v":1,"V":2}`} {
		if d, err := compiled.Decide(context.Background(), []byte(text)); err == nil && d.Allowed() {
			t.Errorf("%s is allowed: %+v", text, d)
		}
	}
}

// A document that another version wrote is evaluated as it stands.
func TestRecordedInputOfAnotherForm(t *testing.T) {
	compiled, err := policy.Compile(context.Background(), policy.CompileConfig{
		Organisation: rego(`package execgate
decision := {"effect": "deny", "reasons": [{"code": "absent"}]} if not input.agent
decision := {"effect": "deny", "reasons": [{"code": "present"}]} if input.agent`), Deadline: 30 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := compiled.Decide(context.Background(), []byte(`{"v": 1}`))
	if err != nil || d.Reasons[0].Code != "absent" {
		t.Errorf("%+v, %v", d, err)
	}
}

// BenchmarkWitness is BenchmarkAllow with what a replay needs: the difference is
// what keeping inputs costs a request.
func BenchmarkWitness(b *testing.B) {
	w := witnessed(b, unhurried, shipped(), nil, nil)
	q := toAllow()
	benchmark(b, func() bool { return w.Decide(context.Background(), q).Allowed() }, true)
}

func BenchmarkCompiled(b *testing.B) {
	w := witnessed(b, unhurried, shipped(), nil, nil)
	asked := w.Decide(context.Background(), question()).Asked
	compiled, err := policy.Compile(context.Background(), policy.CompileConfig{
		Organisation: policy.Bundle{Files: policies.Files, Images: shipped().Images}, Deadline: time.Minute,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if d, err := compiled.Decide(context.Background(), asked.Input); err != nil || !d.Allowed() {
				b.Error(d, err)
				return
			}
		}
	})
}

// Whatever stands in the database, it is refused or decided, and nothing else.
func FuzzRecordedInput(f *testing.F) {
	w := witnessed(f, policy.Config{Deadline: time.Minute}, shipped(), nil, nil)
	for _, q := range questions() {
		if d := w.Decide(context.Background(), q); d.Asked != nil {
			f.Add([]byte(d.Asked.Input))
		}
	}
	f.Add([]byte(`{"v":1,"action":{"limits":{"pids":-1}}}`))
	compiled, err := policy.Compile(context.Background(), policy.CompileConfig{Organisation: shipped(), Deadline: time.Minute})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := compiled.Decide(context.Background(), text)
		if err != nil {
			if d.Allowed() {
				t.Error("what cannot be read is allowed")
			}
			return
		}
		again, err := compiled.Decide(context.Background(), text)
		if err != nil {
			t.Fatal(err)
		}
		first, err1 := json.Marshal(d)
		second, err2 := json.Marshal(again)
		if err1 != nil || err2 != nil || !bytes.Equal(first, second) {
			t.Errorf("asked twice, it decides\n%s\nand\n%s", first, second)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	document, _, revision, err := policy.Pack(shipped())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(document)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		bundle, err := policy.Unpack(text, revision)
		if err != nil {
			return
		}
		if is, err := bundle.Revision(); err != nil || is != revision {
			t.Errorf("it unpacks to %s, %v", is, err)
		}
	})
}
