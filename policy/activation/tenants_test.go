package activation_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/activation"
	"github.com/google/go-cmp/cmp"
)

// tenantsPlace is a gateway whose organisation allows everything, and the folder of its
// tenants' own policies.
type tenantsPlace struct {
	*place
	folder  string
	tenants *activation.Tenants
}

func newTenantsPlace(t *testing.T) *tenantsPlace {
	t.Helper()
	p := &tenantsPlace{place: newPlace(t), folder: t.TempDir()}
	var err error
	if p.engine, err = policy.New(policy.Config{Deadline: time.Minute, Workers: p.cfg.Workers}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.engine.Activate(t.Context(), policy.Bundle{Files: rego(granting(t)).Files, Source: "test"}); err != nil {
		t.Fatal(err)
	}
	p.anew()
	return p
}

// granting is a policy that grants what it can but no image, and so denies in the end.
func granting(t *testing.T) string {
	t.Helper()
	limits := map[string]int64{}
	for _, limit := range execution.AllLimits() {
		limits[limit.Name] = limit.Max
	}
	limits["memory_mib"] = 1024
	for _, tmpfs := range []string{"tmp_mib", "workspace_mib", "shm_mib"} {
		limits[tmpfs] = 64
	}
	text, err := json.Marshal(map[string]any{"effect": "allow", "runtime": "runc", "limits": limits})
	if err != nil {
		t.Fatal(err)
	}
	return "package execgate\n\ndecision := " + string(text)
}

// anew is what a start of the gateway makes.
func (p *tenantsPlace) anew() {
	p.tenants = activation.NewTenants(activation.TenantsConfig{
		Folder: p.folder, Valid: func(name string) bool { return name != "No" },
		Engine: p.engine, Workers: p.cfg.Workers, Record: p.cfg.Record, Logger: p.cfg.Logger,
	})
}

// says is the code with which a request of a tenant is denied: alone where the tenant has
// no policy of its own.
func (p *tenantsPlace) says(tenant string) string {
	d := p.engine.Decide(p.t.Context(), execution.Question{Action: execution.ActionExecute, Principal: execution.Principal{Tenant: tenant}})
	return d.Reasons[0].Code
}

const alone = "image_not_granted"

func (p *tenantsPlace) wantSays(when, tenant, want string) {
	p.t.Helper()
	if got := p.says(tenant); got != want {
		p.t.Errorf("%s: a request of %s is denied with %q, want %q", when, tenant, got, want)
	}
}

// look looks at the folder, which must not ask to be looked at again.
func (p *tenantsPlace) look(when string) {
	p.t.Helper()
	if p.tenants.Look(p.t.Context()) {
		p.t.Errorf("%s: the folder has to be looked at again", when)
	}
}

// deny is a tenant's policy that denies with a code.
func deny(code string) string {
	return `package execgate

decision := {"effect": "deny", "reasons": [{"code": "` + code + `"}]}`
}

// own writes a tenant's policy.
func (p *tenantsPlace) own(tenant, rego string) {
	p.t.Helper()
	write(p.t, filepath.Join(p.folder, tenant, "own.rego"), rego)
}

// changes are the records so far, in short, and are forgotten.
func (p *tenantsPlace) changes() (changes []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.records {
		change := strings.TrimPrefix(string(r.Type), "policy_") + " " + r.Policy.Tenant
		if len(r.Policy.Errors) > 0 {
			change += ": " + r.Policy.Errors[0]
		}
		if (r.Policy.Layer == execution.LayerTenant) != (r.Policy.Tenant != "") {
			p.t.Errorf("%s has the layer %q", change, r.Policy.Layer)
		}
		changes = append(changes, change)
	}
	p.records = nil
	return changes
}

func (p *tenantsPlace) wantChanges(when string, want ...string) {
	p.t.Helper()
	got := p.changes()
	for i := range min(len(got), len(want)) {
		if strings.HasSuffix(want[i], "…") && strings.HasPrefix(got[i], strings.TrimSuffix(want[i], "…")) {
			got[i] = want[i]
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Errorf("%s: (-want +got)\n%s", when, diff)
	}
}

const (
	brokenRego  = "package execgate\n\ndecision := {"
	failingTest = "package execgate_test\n\ntest_nothing if false"
)

func TestTenantsAreFollowed(t *testing.T) {
	p := newTenantsPlace(t)
	p.own("a", deny("one"))
	p.own("b", brokenRego)
	if err := p.tenants.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.wantChanges("at the start", "activated a", "refused b: own.rego:…")
	p.wantSays("at the start", "a", "one")
	p.wantSays("at the start", "b", execution.CodePolicyNotLoaded)
	p.wantSays("at the start", "c", alone)

	p.look("nothing changed")
	p.wantChanges("nothing changed")

	p.own("b", deny("mended"))
	p.own("c", deny("new"))
	p.look("one is mended, one new")
	p.wantChanges("one is mended, one new", "activated b", "activated c")
	p.wantSays("mended", "b", "mended")
	p.wantSays("new", "c", "new")

	p.own("a", brokenRego)
	p.look("one is broken")
	p.look("one is broken, and looked at again")
	p.wantChanges("one is broken", "refused a: own.rego:…")
	p.wantSays("the last good one stays", "a", "one")
	p.own("a", deny("one"))
	p.look("it is as it was")
	p.wantSays("it is as it was", "a", "one")
	p.wantChanges("it is as it was", "activated a")

	write(t, filepath.Join(p.folder, "a", "own_test.rego"), failingTest)
	p.own("a", deny("two"))
	p.look("its tests fail")
	p.wantChanges("its tests fail", "refused a: own_test.rego:…")
	p.wantSays("its tests fail", "a", "one")

	for _, gone := range []string{"a", "c"} {
		if err := os.RemoveAll(filepath.Join(p.folder, gone)); err != nil {
			t.Fatal(err)
		}
	}
	p.look("two are gone")
	p.wantChanges("two are gone", "dropped a", "dropped c")
	p.wantSays("gone", "a", alone)
	p.wantSays("still there", "b", "mended")
	if got, want := p.tenants.Counts(), (activation.Counts{Activated: 4, Refused: 3}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

// Two tenants with the same files have the same revision: the one's end is not the other's.
func TestTenantsWithTheSamePolicy(t *testing.T) {
	p := newTenantsPlace(t)
	p.own("a", deny("same"))
	p.own("b", deny("same"))
	p.look("at first")
	if err := os.RemoveAll(filepath.Join(p.folder, "a")); err != nil {
		t.Fatal(err)
	}
	p.look("one is gone")
	p.wantSays("the other's", "b", "same")
	if revision, err := p.cfg.Workers.Load(t.Context(), policy.Bundle{Files: rego(deny("same")).Files}); err != nil {
		t.Fatal(err)
	} else {
		p.cfg.Workers.Forget(revision) // as a candidate does that is the same
	}
	p.wantSays("after somebody else let go of it", "b", "same")
}

// Where nobody can say which tenants have a policy, all stay, and it is recorded once.
func TestTenantsThatCannotBeListed(t *testing.T) {
	for name, test := range map[string]struct{ breaks, mends func(*tenantsPlace) error }{
		"a file": {
			func(p *tenantsPlace) error { return os.WriteFile(filepath.Join(p.folder, "README"), nil, 0o600) },
			func(p *tenantsPlace) error { return os.Remove(filepath.Join(p.folder, "README")) },
		},
		"a link": {
			func(p *tenantsPlace) error { return os.Symlink("a", filepath.Join(p.folder, "b")) },
			func(p *tenantsPlace) error { return os.Remove(filepath.Join(p.folder, "b")) },
		},
		"no name of a tenant": {
			func(p *tenantsPlace) error { return os.Mkdir(filepath.Join(p.folder, "No"), 0o700) },
			func(p *tenantsPlace) error { return os.Remove(filepath.Join(p.folder, "No")) },
		},
		"the folder is gone": {
			func(p *tenantsPlace) error { return os.Rename(p.folder, p.folder+".away") },
			func(p *tenantsPlace) error { return os.Rename(p.folder+".away", p.folder) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTenantsPlace(t)
			p.own("a", deny("one"))
			p.look("at first")
			p.changes()
			if err := test.breaks(p); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if !p.tenants.Look(t.Context()) {
					t.Error("the folder is not looked at again")
				}
			}
			if p.tenants.Check() == nil {
				t.Error("a start has nothing against it")
			}
			if changes := p.changes(); len(changes) != 1 || !strings.HasPrefix(changes[0], "refused : ") {
				t.Errorf("recorded %q, want one refusal", changes)
			}
			p.wantSays("nothing changed", "a", "one")
			if err := test.mends(p); err != nil {
				t.Fatal(err)
			}
			p.look("mended")
			p.wantChanges("mended")
		})
	}
}

// What cannot be recorded does not come into force, and is tried again.
func TestTenantsThatAreNotRecorded(t *testing.T) {
	p := newTenantsPlace(t)
	p.own("a", deny("one"))
	p.own("b", brokenRego)
	p.look("at first")
	fails := func(when, says string) {
		t.Helper()
		p.recorded = errors.New("the disk is full")
		if !p.tenants.Look(t.Context()) {
			t.Errorf("%s: it is not tried again", when)
		}
		p.recorded = nil
		p.wantSays(when, "a", says)
		p.changes()
	}
	p.own("a", deny("two"))
	p.own("b", deny("two"))
	fails("another", "one")
	p.wantSays("one that was refused", "b", execution.CodePolicyNotLoaded)
	p.look("another, recorded")
	p.wantChanges("another, recorded", "activated a", "activated b")
	p.wantSays("another, recorded", "a", "two")
	if err := os.RemoveAll(filepath.Join(p.folder, "a")); err != nil {
		t.Fatal(err)
	}
	fails("gone", "two")
	p.look("gone, recorded")
	p.wantSays("gone, recorded", "a", alone)

	p.anew()
	p.recorded = errors.New("the disk is full")
	if err := p.tenants.Load(t.Context()); err == nil {
		t.Error("a start goes on without a record")
	}
}

// A worker that cannot be had is not the policy's fault: it is tried again, and refused in the
// records once.
func TestTenantsThatCannotBeTried(t *testing.T) {
	p := newTenantsPlace(t)
	broken := &unavailable{Workers: p.cfg.Workers, fails: true}
	p.cfg.Workers = broken
	p.anew()
	p.own("a", deny("one"))
	for range 2 {
		if !p.tenants.Look(t.Context()) {
			t.Error("it is not tried again")
		}
	}
	p.wantChanges("no worker", "refused a: no worker can be had")
	p.wantSays("no worker", "a", execution.CodePolicyNotLoaded)
	broken.fails = false
	p.look("there is one again")
	p.wantSays("there is one again", "a", "one")
}

// unavailable are workers of which none can be had for a time.
type unavailable struct {
	activation.Workers
	fails bool
}

func (u *unavailable) Load(ctx context.Context, b policy.Bundle) (string, error) {
	if u.fails {
		return "", errors.New("no worker can be had")
	}
	return u.Workers.Load(ctx, b)
}

func TestCeilingsAreFollowed(t *testing.T) {
	p := newTenantsPlace(t)
	file := filepath.Join(t.TempDir(), "ceilings.json")
	cfg := activation.CeilingsConfig{File: file, Engine: p.engine, Record: p.cfg.Record, Logger: p.cfg.Logger}
	write(t, file, `{"limits": {"memory_mib": 0}}`)
	if _, err := activation.NewCeilings(cfg); err == nil {
		t.Error("ceilings that make no sense are in force")
	}
	write(t, file, `{"limits": {"memory_mib": 256}}`)
	c, err := activation.NewCeilings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	layer := func() string {
		d := p.engine.Decide(t.Context(), execution.Question{Action: execution.ActionExecute})
		if len(d.Layers) != 1 || d.Layers[0].Name != execution.LayerCeilings {
			t.Fatalf("layers %+v", d.Layers)
		}
		return d.Layers[0].Revision
	}
	first := layer()
	look := func(when string, again bool, want string) {
		t.Helper()
		if c.Look(t.Context()) != again {
			t.Errorf("%s: it has to be looked at again: want %v", when, again)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		var got string
		for _, r := range p.records {
			got += string(r.Type) + " " + r.Policy.Layer + " "
			if r.Type == execution.RecordPolicyActivated && r.Policy.Revision == "" {
				t.Error("it names no revision")
			}
		}
		if got != want {
			t.Errorf("%s: recorded %q, want %q", when, got, want)
		}
		p.records = nil
	}
	look("the first are recorded", false, "policy_activated ceilings ")
	look("nothing changed", false, "")
	write(t, file, `{"limits": {"memory_mib": 128}}`)
	p.recorded = errors.New("the disk is full")
	look("not recorded", true, "")
	if layer() != first {
		t.Error("what could not be recorded is in force")
	}
	p.recorded = nil
	look("recorded", false, "policy_activated ceilings ")
	second := layer()
	if second == first {
		t.Error("the first are still in force")
	}
	write(t, file, `{"limit": 1}`)
	look("broken", true, "policy_refused ceilings ")
	look("broken still", true, "")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	look("gone", true, "policy_refused ceilings ")
	if layer() != second {
		t.Error("the last good ones are not in force")
	}
	write(t, file, `{"limits": {"memory_mib": 128}}`)
	look("as it was", false, "")
}
