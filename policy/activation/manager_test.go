package activation_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/execution/recordtest"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/activation"
)

// The test's own program is the worker where it is called as one.
func TestMain(m *testing.M) {
	if len(os.Args) != 3 || os.Args[1] != "worker" {
		os.Exit(m.Run())
	}
	mib, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err == nil {
		err = policy.ServeWorker(os.Stdin, os.Stdout, mib)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// place is a gateway as far as its policy is concerned: what lasts, and what is
// made anew when it starts.
type place struct {
	t      *testing.T
	cfg    activation.Config
	engine *policy.Engine
	images map[string]string

	mu       sync.Mutex
	records  []execution.Record
	recorded error // what comes of recording
}

func newPlace(t *testing.T) *place {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	workers, err := policy.NewRemote(policy.RemoteConfig{Command: []string{program, "worker"}, Deadline: time.Minute, Prepare: time.Minute, MemoryMiB: 256})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(workers.Close)
	p := &place{t: t, images: map[string]string{}}
	p.cfg = activation.Config{
		Workers: workers, Dir: filepath.Join(t.TempDir(), "policy"), Logger: slog.New(slog.DiscardHandler),
		Record: func(_ context.Context, r execution.Record) error {
			recordtest.Check(t, r)
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.recorded == nil {
				p.records = append(p.records, r)
			}
			return p.recorded
		},
	}
	return p
}

// start is the gateway's start with a configured policy.
func (p *place) start(configured activation.Candidate) (*activation.Manager, error) {
	p.t.Helper()
	var err error
	if p.engine, err = policy.New(policy.Config{Deadline: time.Minute}); err != nil {
		p.t.Fatal(err)
	}
	p.cfg.Engine = p.engine
	m, err := activation.New(p.cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	return m, m.Start(p.t.Context(), p.images, configured, nil)
}

func (p *place) mustStart(configured activation.Candidate) *activation.Manager {
	p.t.Helper()
	m, err := p.start(configured)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// says is the code with which the policy in force denies.
func (p *place) says() string {
	d := p.engine.Decide(p.t.Context(), execution.Question{Action: execution.ActionExecute})
	if len(d.Reasons) == 0 {
		return ""
	}
	return d.Reasons[0].Code
}

// types are those of the records so far.
func (p *place) types() (types []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.records {
		types = append(types, string(r.Type))
	}
	return types
}

// saying is a candidate that denies with a code.
func saying(code string) activation.Candidate {
	return rego(`package execgate

decision := {"effect": "deny", "reasons": [{"code": "` + code + `"}]}`)
}

// open is a policy that forbids what it knows, and lets everything else pass.
const open = `package execgate

decision := {"effect": "deny"} if input.principal.tenant == "evil"

decision := {"effect": "allow"} if not input.principal.tenant == "evil"`

// held are workers that run no tests before done, and say when they are asked to.
type held struct {
	activation.Workers
	trying chan<- struct{}
	done   <-chan struct{}
}

func (h *held) Test(ctx context.Context, b policy.Bundle) (policy.TestReport, error) {
	close(h.trying)
	<-h.done
	return h.Workers.Test(ctx, b)
}

// late are workers that give no answer in time to a question the first few times.
type late struct {
	activation.Workers
	times int
	late  func(question string) bool
	asked map[string]int
}

func (l *late) Evaluate(ctx context.Context, tenant, revision string, question []byte, full bool) (policy.Answer, error) {
	if l.asked[string(question)]++; l.late(string(question)) && l.asked[string(question)] <= l.times {
		return policy.Answer{}, context.DeadlineExceeded
	}
	return l.Workers.Evaluate(ctx, tenant, revision, question, full)
}

// What is not answered in time, as on a busy machine, is not taken for a denial.
func TestLateAnswersDenyNothing(t *testing.T) {
	everything := func(string) bool { return true }
	unknown := func(question string) bool { return strings.Contains(question, "frobnicate") }
	for name, test := range map[string]struct {
		c     activation.Candidate
		times int
		late  func(string) bool
		code  string
	}{
		"open, and late at first":                  {rego(open), 1, everything, activation.CodeMustDeny},
		"never in time":                            {saying("x"), 1000, everything, activation.CodeTooSlow},
		"never in time about what is to be denied": {saying("x"), 1000, unknown, activation.CodeTooSlow},
		"late at first":                            {saying("x"), 2, everything, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.cfg.Workers = &late{Workers: p.cfg.Workers, times: test.times, late: test.late, asked: map[string]int{}}
			if _, err := p.start(test.c); codeOf(err) != test.code {
				t.Errorf("%v: want %q", err, test.code)
			}
		})
	}
}

func rego(text string) activation.Candidate {
	return activation.Candidate{Files: policy.Files{"p.rego": []byte(text)}, Source: "the test"}
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*execution.Error](err); ok {
		return e.Code
	}
	return ""
}

func TestLifeOfABundle(t *testing.T) {
	p := newPlace(t)
	m := p.mustStart(saying("first"))
	by := &execution.Principal{Subject: "ak_01", Tenant: "default"}
	second := saying("second")
	second.By, second.Source = by, "api"
	if err := m.Submit(t.Context(), second); err != nil || p.says() != "second" {
		t.Fatalf("%v: says %s", err, p.says())
	}
	if s := m.State(); s.Active.Source != "api" || s.Active.By != "ak_01" || len(s.Before) != 1 || s.Revision != p.engine.Revision() {
		t.Errorf("state is %+v", s)
	}
	if err := m.Submit(t.Context(), second); err != nil || len(p.types()) != 2 {
		t.Errorf("the same again: %v, %v", err, p.types())
	}
	if err := m.Rollback(t.Context(), by); err != nil || p.says() != "first" {
		t.Errorf("back: %v, says %s", err, p.says())
	}
	if err := m.Rollback(t.Context(), by); err != nil || p.says() != "second" {
		t.Errorf("and back: %v, says %s", err, p.says())
	}
	if got := p.types(); !slices.Equal(got, []string{"policy_activated", "policy_activated", "policy_activated", "policy_activated"}) {
		t.Errorf("records are %v", got)
	}
	if last := p.records[3]; last.Principal != by || last.Policy.Digest != second.Files.Digest() || last.Policy.Revision != p.engine.Revision() {
		t.Errorf("the last record is %+v", last.Policy)
	}
	if m.Counts() != (activation.Counts{Activated: 4}) {
		t.Errorf("counts are %+v", m.Counts())
	}
}

func TestNothingToGoBackTo(t *testing.T) {
	m := newPlace(t).mustStart(saying("first"))
	if err := m.Rollback(t.Context(), nil); codeOf(err) != activation.CodeNothingBefore {
		t.Errorf("%v", err)
	}
}

// Whatever is wrong with a bundle, the one in force goes on, and the refusal is a
// record.
func TestBundlesThatAreRefused(t *testing.T) {
	var doubling strings.Builder
	doubling.WriteString("package execgate\n\na0 := input.action.code.sha256\n")
	for i := range 40 {
		fmt.Fprintf(&doubling, "a%d := concat(\"\", [a%d, a%d])\n", i+1, i, i)
	}
	doubling.WriteString("decision := {\"effect\": \"deny\"} if count(a40) > 0\n")
	failing := saying("x")
	failing.Files = policy.Files{"p.rego": failing.Files["p.rego"], "p_test.rego": []byte("package execgate_test\n\ntest_it if false\n")}
	p := newPlace(t)
	p.cfg.RequireTests = false
	m := p.mustStart(saying("good"))
	for name, test := range map[string]struct {
		c          activation.Candidate
		code, says string
	}{
		"broken":        {rego("package execgate\n\ndecision := {"), activation.CodeBroken, "p.rego:3"},
		"empty":         {activation.Candidate{Files: policy.Files{}, Source: "s"}, activation.CodeBroken, "no .rego"},
		"builtin":       {rego("package execgate\n\ndecision := opa.runtime()"), activation.CodeBroken, "opa.runtime"},
		"its own tests": {failing, activation.CodeTests, "test_it"},
		"must deny":     {rego(open), activation.CodeMustDeny, "tenant.missing"},
		"slow":          {rego(doubling.String()), activation.CodeTooSlow, "in time"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(p.types())
			err := m.Submit(t.Context(), test.c)
			if codeOf(err) != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v: want %s", err, test.code)
			}
			if p.says() != "good" {
				t.Errorf("the policy in force says %s", p.says())
			}
			if got := p.types()[before:]; !slices.Equal(got, []string{"policy_refused"}) {
				t.Errorf("records are %v", got)
			}
			if s := m.State(); s.Refused == nil || s.Refused.Code != test.code || len(s.Refused.Errors) == 0 {
				t.Errorf("state is %+v", s.Refused)
			}
		})
	}
	if err := m.Submit(t.Context(), saying("better")); err != nil || m.State().Refused != nil {
		t.Errorf("after a good one: %v, %+v", err, m.State().Refused)
	}
}

func TestTestsAreRequired(t *testing.T) {
	p := newPlace(t)
	p.cfg.RequireTests = true
	tested := saying("tested")
	tested.Files["p_test.rego"] = []byte("package execgate_test\n\ntest_it if data.execgate.decision.effect == \"deny\"\n")
	m := p.mustStart(tested)
	if err := m.Submit(t.Context(), saying("untested")); codeOf(err) != activation.CodeTests {
		t.Errorf("%v", err)
	}
}

// Where keys are configured only what they signed comes into force, each only once
// and in the order in which it was signed.
func TestSignedBundles(t *testing.T) {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(code string, sequence uint64) activation.Candidate {
		c := saying(code)
		if c.Signature, err = policy.Sign(key, c.Files, sequence); err != nil {
			t.Fatal(err)
		}
		return c
	}
	p := newPlace(t)
	p.cfg.Keys = policy.Keys{public}
	m := p.mustStart(signed("five", 5))
	if err := m.Submit(t.Context(), saying("unsigned")); codeOf(err) != activation.CodeUnsigned {
		t.Errorf("unsigned: %v", err)
	}
	moved := signed("moved", 6)
	moved.Files = saying("other").Files
	if err := m.Submit(t.Context(), moved); codeOf(err) != activation.CodeUnsigned {
		t.Errorf("another bundle's signature: %v", err)
	}
	if err := m.Submit(t.Context(), signed("same", 5)); codeOf(err) != activation.CodeSequence {
		t.Errorf("the same sequence: %v", err)
	}
	if err := m.Submit(t.Context(), signed("nine", 9)); err != nil {
		t.Errorf("a higher one: %v", err)
	}
	old := signed("five", 5)
	if err := m.Submit(t.Context(), old); codeOf(err) != activation.CodeSequence || p.says() != "nine" {
		t.Errorf("an old one, as it was signed: %v", err)
	}
	if err := m.Rollback(t.Context(), nil); err != nil || p.says() != "five" {
		t.Errorf("a rollback: %v, says %s", err, p.says())
	}
	// What it was is not forgotten when the gateway starts anew, nor by a rollback.
	m = p.mustStart(signed("five", 5))
	if err := m.Submit(t.Context(), signed("seven", 7)); codeOf(err) != activation.CodeSequence {
		t.Errorf("after a restart: %v", err)
	}
	if p.says() != "five" {
		t.Errorf("says %s", p.says())
	}
}

// somebody is who changes the policy by hand.
var somebody = &execution.Principal{Subject: "ak_01", Tenant: "default"}

func elsewhere(c activation.Candidate) activation.Candidate {
	c.Source = "elsewhere"
	return c
}

// What was kept needs a signature too, where one is asked for by now.
func TestKeptBundleThatNobodySigned(t *testing.T) {
	p := newPlace(t)
	m := p.mustStart(saying("first"))
	if err := m.Submit(t.Context(), saying("second")); err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.cfg.Keys = policy.Keys{public}
	m, err = p.start(saying("second"))
	if codeOf(err) != activation.CodeUnsigned || p.engine.Revision() != "" {
		t.Errorf("%v, in force is %s", err, p.engine.Revision())
	}
	if err := m.Rollback(t.Context(), somebody); codeOf(err) != activation.CodeUnsigned {
		t.Errorf("back to one without a signature: %v", err)
	}
}

// A candidate that takes its time keeps nobody waiting: not those who ask, not an
// image that changes, not a rollback.
func TestCandidateThatTakesItsTime(t *testing.T) {
	p := newPlace(t)
	trying, done := make(chan struct{}), make(chan struct{})
	m := p.mustStart(saying("first"))
	if err := m.Submit(t.Context(), saying("second")); err != nil {
		t.Fatal(err)
	}
	p.cfg.Workers = &held{Workers: p.cfg.Workers, trying: trying, done: done}
	m = p.mustStart(saying("second"))
	submitted := make(chan error, 1)
	go func() { submitted <- m.Submit(t.Context(), saying("slow")) }()
	<-trying
	if s := m.State(); s.Active == nil || s.Active.Digest != saying("second").Files.Digest() {
		t.Errorf("state is %+v", s)
	}
	if err := m.Renew(t.Context(), map[string]string{"python": "sha256:1"}); err != nil {
		t.Error(err)
	}
	if err := m.Rollback(t.Context(), somebody); err != nil || p.says() != "first" {
		t.Errorf("%v, says %s", err, p.says())
	}
	close(done)
	if err := <-submitted; err != nil || p.says() != "slow" {
		t.Errorf("%v, says %s", err, p.says())
	}
}

func TestStarts(t *testing.T) {
	for name, test := range map[string]struct {
		then func(*place, *activation.Manager) // in the first life
		next activation.Candidate              // configured in the second
		says string
	}{
		"the same":             {next: saying("first"), says: "first"},
		"changed while it was": {next: saying("second"), says: "second"},
		"broken while it was":  {next: rego("package"), says: "first"},
		"another from the API": {then: func(p *place, m *activation.Manager) {
			c := saying("api")
			c.Source, c.By = "api", somebody
			if err := m.Submit(p.t.Context(), c); err != nil {
				p.t.Fatal(err)
			}
		}, next: saying("first"), says: "api"},
		"rolled back": {then: func(p *place, m *activation.Manager) {
			if err := errors.Join(m.Submit(p.t.Context(), saying("bad")), m.Rollback(p.t.Context(), somebody)); err != nil {
				p.t.Fatal(err)
			}
		}, next: saying("bad"), says: "first"},
		"configured elsewhere": {next: elsewhere(saying("other")), says: "other"},
		"elsewhere and back": {then: func(p *place, _ *activation.Manager) {
			p.mustStart(elsewhere(saying("other")))
		}, next: saying("first"), says: "first"},
		"the API, then configured elsewhere": {then: func(p *place, m *activation.Manager) {
			c := saying("api")
			c.By = somebody
			if err := m.Submit(p.t.Context(), c); err != nil {
				p.t.Fatal(err)
			}
		}, next: elsewhere(saying("other")), says: "other"},
		"refused before, as it was": {then: func(p *place, m *activation.Manager) {
			if m.Submit(p.t.Context(), rego("package")) == nil {
				p.t.Fatal("taken")
			}
		}, next: rego("package"), says: "first"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			m := p.mustStart(saying("first"))
			if test.then != nil {
				test.then(p, m)
			}
			p.mustStart(test.next) // the last good one serves, whatever came of it
			if p.says() != test.says {
				t.Errorf("says %s, want %s", p.says(), test.says)
			}
		})
	}
}

// The policy of the program never takes the place of another, and a newer one
// takes the place of an older one.
func TestShippedPolicy(t *testing.T) {
	shipped := func(code string) activation.Candidate {
		c := saying(code)
		c.Source = "embedded"
		return c
	}
	p := newPlace(t)
	p.cfg.Shipped = shipped("old").Files.Digest()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.cfg.Keys = policy.Keys{public} // which it needs no signature of
	p.mustStart(shipped("old"))
	p.cfg.Shipped = shipped("new").Files.Digest()
	p.mustStart(shipped("new"))
	if p.says() != "new" {
		t.Errorf("says %s", p.says())
	}
	p.cfg.Keys = nil
	m := p.mustStart(shipped("new"))
	ours := saying("ours")
	ours.By = somebody
	if err := m.Submit(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	p.cfg.Shipped = shipped("newest").Files.Digest()
	p.mustStart(shipped("newest"))
	if p.says() != "ours" {
		t.Errorf("says %s", p.says())
	}
}

// What was kept and is changed on the disk is not put in force.
func TestKeptBundleThatWasChanged(t *testing.T) {
	p := newPlace(t)
	m := p.mustStart(saying("first"))
	if err := m.Submit(t.Context(), saying("second")); err != nil {
		t.Fatal(err)
	}
	first := strings.TrimPrefix(saying("first").Files.Digest(), "sha256:")
	second := strings.TrimPrefix(saying("second").Files.Digest(), "sha256:")
	text, err := os.ReadFile(filepath.Join(p.cfg.Dir, second+".tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.cfg.Dir, first+".tar.gz"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Rollback(t.Context(), nil); err == nil || p.says() != "second" {
		t.Errorf("%v: says %s", err, p.says())
	}
	if err := os.WriteFile(filepath.Join(p.cfg.Dir, "history.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := activation.New(p.cfg); err == nil {
		t.Error("a history that cannot be read is forgotten, and with it the highest sequence")
	}
}

// What cannot be recorded does not come into force.
func TestActivationThatIsNotRecorded(t *testing.T) {
	p := newPlace(t)
	m := p.mustStart(saying("first"))
	p.recorded = errors.New("the disk is full")
	if err := m.Submit(t.Context(), saying("second")); codeOf(err) != "audit_unavailable" || p.says() != "first" {
		t.Errorf("%v: says %s", err, p.says())
	}
	p.recorded = nil
	if err := m.Submit(t.Context(), saying("second")); err != nil || p.says() != "second" {
		t.Errorf("%v: says %s", err, p.says())
	}
}

func TestImagesOfThePolicyInForce(t *testing.T) {
	p := newPlace(t)
	p.images = map[string]string{"python": "sha256:01"}
	m := p.mustStart(rego("package execgate\n\ndecision := {\"effect\": \"deny\", \"reasons\": [{\"code\": data.images.python}]}"))
	if p.says() != "sha256:01" {
		t.Fatalf("says %s", p.says())
	}
	for range 2 {
		if err := m.Renew(t.Context(), map[string]string{"python": "sha256:02"}); err != nil || p.says() != "sha256:02" {
			t.Errorf("%v: says %s", err, p.says())
		}
	}
	if got := len(p.types()); got != 2 {
		t.Errorf("%d records, want 2", got)
	}
}

// Old bundles do not fill the disk.
func TestBundlesKept(t *testing.T) {
	p := newPlace(t)
	m := p.mustStart(saying("0"))
	for i := range 9 {
		if err := m.Submit(t.Context(), saying(strconv.Itoa(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	archives, err := filepath.Glob(filepath.Join(p.cfg.Dir, "*.tar.gz"))
	if err != nil || len(archives) != 6 || len(m.State().Before) != 5 {
		t.Errorf("%v: %d archives, %d before", err, len(archives), len(m.State().Before))
	}
}

// While bundles are swapped, every question is answered, each by one of them.
func TestSwapUnderLoad(t *testing.T) {
	p := newPlace(t)
	m := p.mustStart(saying("a"))
	revisions := map[string]string{}
	for _, code := range []string{"a", "b"} {
		revision, err := policy.Bundle{Files: saying(code).Files, Images: p.images}.Revision()
		if err != nil {
			t.Fatal(err)
		}
		revisions[revision] = code
	}
	stop, cancel := context.WithCancel(t.Context())
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for stop.Err() == nil {
				d := p.engine.Decide(t.Context(), execution.Question{Action: execution.ActionExecute})
				if len(d.Reasons) != 1 || d.Reasons[0].Code != revisions[d.Revision] {
					t.Errorf("%s answers %+v", d.Revision, d.Reasons)
					return
				}
			}
		})
	}
	for i := range 10 {
		if err := m.Submit(t.Context(), saying([]string{"b", "a"}[i%2])); err != nil {
			t.Error(err)
		}
	}
	cancel()
	askers.Wait()
}
