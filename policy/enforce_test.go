package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// The shipped policy: what the bootstrap admin's tenant may do.
func TestShippedPolicyAllowsTheSeedPrograms(t *testing.T) {
	for name, limits := range map[string]execution.Limits{
		"basic":   {TimeoutMS: 30_000, MemoryMiB: 256},
		"image":   {},
		"secure":  {MemoryMiB: 512, CPUMillis: 500},
		"limited": {MemoryMiB: 128, CPUMillis: 250, CPUShares: 256, PIDs: 50, TmpMiB: 10},
		"data":    {MemoryMiB: 128},
	} {
		t.Run(name, func(t *testing.T) {
			q := question()
			q.Principal.Roles = []execution.Role{execution.RoleAdmin}
			q.Request.Limits = limits
			d := decide(t, shipped(), q)
			if !d.Allowed() || len(d.Clamped) != 0 {
				t.Fatalf("effect %s, clamped %v: %+v", d.Effect, d.Clamped, d.Reasons)
			}
			for _, limit := range execution.AllLimits() {
				asked, granted := *limit.Of(&limits), *limit.Of(&d.Grant.Limits)
				if asked != 0 && asked != granted {
					t.Errorf("%s: asked %d, granted %d", limit.Name, asked, granted)
				}
			}
		})
	}
}

func TestQuantitiesAreClampedAndTold(t *testing.T) {
	q := question()
	q.Request.Limits = execution.Limits{MemoryMiB: 4096, PIDs: 10, TmpMiB: 1024}
	d := decide(t, shipped(), q)
	want := []execution.Clamp{
		{Limit: "memory_mib", Requested: 4096, Granted: 1024},
		{Limit: "tmp_mib", Requested: 1024, Granted: 64},
	}
	if !d.Allowed() || !slices.Equal(d.Clamped, want) {
		t.Fatalf("clamped is %v of %s, want %v", d.Clamped, d.Effect, want)
	}
	got := d.Grant.Limits
	if got.MemoryMiB != 1024 || got.PIDs != 10 || got.TmpMiB != 64 || got.TimeoutMS != 30_000 {
		t.Errorf("granted %+v", got)
	}
}

// A tmpfs is held to a quarter of the memory that is granted, and this is told
// only where the caller asked for more.
func TestFileSystemsFollowMemory(t *testing.T) {
	q := question()
	q.Request.Limits = execution.Limits{MemoryMiB: 64, TmpMiB: 32}
	d := decide(t, shipped(), q)
	if got := d.Grant.Limits; got.TmpMiB != 16 || got.WorkspaceMiB != 16 || got.ShmMiB != 8 {
		t.Errorf("granted %+v", got)
	}
	if want := []execution.Clamp{{Limit: "tmp_mib", Requested: 32, Granted: 16}}; !slices.Equal(d.Clamped, want) {
		t.Errorf("clamped is %v, want %v", d.Clamped, want)
	}
}

func TestQuantitiesThatDeny(t *testing.T) {
	q := question()
	q.Principal.Tenant = "ci"
	q.Request.Limits = execution.Limits{TimeoutMS: 10_001, MemoryMiB: 512, PIDs: 1000}
	d := decide(t, shipped(), q)
	wantDenied(t, d, "limit_exceeded", "limit_exceeded")
	if !strings.Contains(d.Reasons[0].Remediation, "at most 10000") {
		t.Errorf("remediation is %q", d.Reasons[0].Remediation)
	}
	for _, asked := range []int64{-1, 1} {
		q := question()
		q.Request.Limits.MemoryMiB = asked
		wantDenied(t, decide(t, shipped(), q), "limit_invalid")
	}
}

// The reasons of the policy itself reach the caller, all of them at once, each
// with the id of its rule.
func TestShippedPolicyDenies(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*execution.Question)
		codes  []string
		rule   string
	}{
		"image":    {func(q *execution.Question) { q.Image.Name = "ubuntu" }, []string{"image_not_granted"}, "images.granted"},
		"language": {func(q *execution.Question) { q.Request.Language = "ruby" }, []string{"language_not_granted"}, "images.language"},
		"runtime":  {func(q *execution.Question) { q.Request.Runtime = "kata" }, []string{"runtime_not_granted"}, "runtime.granted"},
		"env":      {func(q *execution.Question) { q.Request.Env = map[string]string{"LD_PRELOAD": "x"} }, []string{"env_not_granted"}, "env.granted"},
		"network": {func(q *execution.Question) {
			q.Request.Network = []execution.Destination{{Host: "PyPI.org", Port: 443}}
		}, []string{"network_not_granted"}, "network.granted"},
		"tool": {func(q *execution.Question) { q.Request.Tools = []string{"github"} }, []string{"tool_not_granted"}, "credentials.granted"},
		"session": {func(q *execution.Question) {
			q.Principal.Tenant, q.Request.Session = "ci", "se_01"
		}, []string{"session_not_granted"}, "sessions.granted"},
		"opening": {func(q *execution.Question) {
			q.Principal.Tenant, q.Action = "ci", execution.ActionSession
		}, []string{"session_not_granted"}, "sessions.granted"},
		"tenant": {func(q *execution.Question) { q.Principal.Tenant = "nobody" }, []string{"tenant_unknown"}, "principal.tenant"},
		"role":   {func(q *execution.Question) { q.Principal.Roles = nil }, []string{"role_missing"}, "principal.role"},
		"action": {func(q *execution.Question) { q.Action = "frobnicate" }, []string{"action_not_granted"}, "principal.kind"},
		"much": {func(q *execution.Question) {
			q.Request.Tools, q.Request.Runtime = []string{"github"}, "kata"
		}, []string{"runtime_not_granted", "tool_not_granted"}, "runtime.granted"},
		"moved image": {func(q *execution.Question) { q.Image.Digest = "sha256:ff" }, []string{"image_not_granted"}, "gateway.image"},
		"no digest":   {func(q *execution.Question) { q.Image.Digest = "" }, []string{"image_not_granted"}, "gateway.image"},
	} {
		t.Run(name, func(t *testing.T) {
			q := question()
			test.change(&q)
			d := decide(t, shipped(), q)
			got := make([]string, len(d.Reasons))
			for i, r := range d.Reasons {
				got[i] = r.Code
			}
			slices.Sort(got) // the order of a set is that of its whole elements
			slices.SortFunc(d.Reasons, func(a, b execution.Reason) int { return strings.Compare(a.Code, b.Code) })
			if !slices.Equal(got, test.codes) {
				t.Fatalf("codes are %q, want %q", got, test.codes)
			}
			wantDenied(t, d, test.codes...)
			if d.Reasons[0].Rule != test.rule {
				t.Errorf("rule is %q, want %q", d.Reasons[0].Rule, test.rule)
			}
		})
	}
}

func TestImageThatIsNotResolved(t *testing.T) {
	bundle := shipped()
	bundle.Images = nil
	q := question()
	q.Image.Digest = ""
	wantDenied(t, decide(t, bundle, q), "image_not_resolved")
}

// What Rego forgets to hold against the request is held against it here: an
// allow of a policy that looks at nothing grants nothing that it does not name.
func TestQualitiesAreEnforced(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*execution.Question)
		codes  []string
	}{
		"image":   {func(q *execution.Question) { q.Image.Digest = "sha256:02" }, []string{"image_not_granted"}},
		"runtime": {func(q *execution.Question) { q.Request.Runtime = "runsc" }, []string{"runtime_not_granted"}},
		"env":     {func(q *execution.Question) { q.Request.Env = map[string]string{"A": "1", "B": "2"} }, []string{"env_not_granted", "env_not_granted"}},
		"network": {func(q *execution.Question) {
			q.Request.Network = []execution.Destination{{Host: "a.example", Port: 1}}
		}, []string{"network_not_granted"}},
		"tools":   {func(q *execution.Question) { q.Request.Tools = []string{"github"} }, []string{"tool_not_granted"}},
		"session": {func(q *execution.Question) { q.Request.Session = "se_01" }, []string{"session_not_granted"}},
		"opening": {func(q *execution.Question) { q.Action = execution.ActionSession }, []string{"session_not_granted"}},
		"all": {func(q *execution.Question) {
			q.Image.Digest, q.Request.Session, q.Request.Runtime = "", "se_01", "runsc"
		}, []string{"image_not_granted", "runtime_not_granted", "session_not_granted"}},
	} {
		t.Run(name, func(t *testing.T) {
			q := question()
			test.change(&q)
			wantDenied(t, decide(t, allowing(nil), q), test.codes...)
		})
	}
}

func TestGrantNamesWhatWasAskedFor(t *testing.T) {
	q := question()
	q.Request.Env = map[string]string{"B": "2", "A": "1"}
	q.Request.Runtime = "runc"
	d := decide(t, allowing(map[string]string{
		"env":               `{"allow": {"A", "B", "C"}}`,
		"optional_controls": `["seccomp"]`,
		"reasons":           `[{"code": "ok", "message": "fine"}]`,
	}), q)
	if !d.Allowed() || !slices.Equal(d.Grant.Env, []string{"A", "B"}) ||
		!slices.Equal(d.Grant.OptionalControls, []string{"seccomp"}) || len(d.Reasons) != 1 {
		t.Fatalf("decision is %+v", d)
	}
}

// What is granted of sessions reaches those that are about one, and no other.
func TestSessionIsGrantedToWhoAsks(t *testing.T) {
	want := execution.SessionGrant{IdleS: 60, AbsoluteS: 600, Max: 2}
	bundle := allowing(map[string]string{"session": `{"idle_s": 60, "absolute_s": 600, "max": 2}`})
	for name, test := range map[string]struct {
		change func(*execution.Question)
		want   execution.SessionGrant
	}{
		"outside": {func(*execution.Question) {}, execution.SessionGrant{}},
		"inside":  {func(q *execution.Question) { q.Request.Session = "se_01" }, want},
		"opening": {func(q *execution.Question) { q.Action, q.Request.Code = execution.ActionSession, "" }, want},
	} {
		t.Run(name, func(t *testing.T) {
			q := question()
			test.change(&q)
			if d := decide(t, bundle, q); !d.Allowed() || d.Grant.Session != test.want {
				t.Errorf("granted %+v of %s, want %+v: %+v", d.Grant.Session, d.Effect, test.want, d.Reasons)
			}
		})
	}
}

// A session without a bound, or with an absurd one, makes the answer invalid,
// also for those that ask for none.
func TestSessionsThatAreNone(t *testing.T) {
	for name, document := range map[string]string{
		"empty":          `{}`,
		"no idle":        `{"absolute_s": 60, "max": 1}`,
		"no absolute":    `{"idle_s": 60, "max": 1}`,
		"no max":         `{"idle_s": 60, "absolute_s": 60}`,
		"zero":           `{"idle_s": 0, "absolute_s": 60, "max": 1}`,
		"idle too long":  `{"idle_s": 61, "absolute_s": 60, "max": 1}`,
		"eight days":     `{"idle_s": 1, "absolute_s": 691200, "max": 1}`,
		"too many":       `{"idle_s": 1, "absolute_s": 1, "max": 10001}`,
		"negative":       `{"idle_s": -1, "absolute_s": 60, "max": 1}`,
		"part of second": `{"idle_s": 0.5, "absolute_s": 60, "max": 1}`,
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(t, allowing(map[string]string{"session": document}), question())
			wantDenied(t, d, execution.CodePolicyInvalid)
		})
	}
	week := allowing(map[string]string{"session": `{"idle_s": 604800, "absolute_s": 604800, "max": 10000}`})
	if d := decide(t, week, question()); !d.Allowed() {
		t.Errorf("seven days are denied: %+v", d.Reasons)
	}
}

func TestReuseIsGrantedWhereItIsSaid(t *testing.T) {
	for document, want := range map[string]execution.Reuse{`"principal"`: execution.ReusePrincipal, `"never"`: "", "": ""} {
		d := decide(t, allowing(map[string]string{"reuse": document}), question())
		if !d.Allowed() || d.Grant.Reuse != want {
			t.Errorf("reuse %s: granted %q of %s, want %q", document, d.Grant.Reuse, d.Effect, want)
		}
	}
}

func TestDestinationsThatAreNone(t *testing.T) {
	for _, to := range []execution.Destination{
		{Host: "", Port: 443},
		{Host: ".", Port: 443},
		{Host: "a b", Port: 443},
		{Host: "a\x00b", Port: 443},
		{Host: "-a.example", Port: 443},
		{Host: "a..example", Port: 443},
		{Host: "xn--a", Port: 443},
		{Host: "user@a.example", Port: 443},
		{Host: "fe80::1%eth0", Port: 443},
		{Host: strings.Repeat("a.", 200), Port: 443},
		{Host: "a.example", Port: 0},
		{Host: "a.example", Port: -1},
		{Host: "a.example", Port: 65536},
	} {
		q := question()
		q.Request.Network = []execution.Destination{to}
		d := decide(t, allowing(nil), q)
		wantDenied(t, d, "network_not_granted")
		if !strings.Contains(d.Reasons[0].Message, "is not a destination") {
			t.Errorf("%+v: message is %q", to, d.Reasons[0].Message)
		}
	}
}
