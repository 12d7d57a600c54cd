package vault_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault"
)

// contract is what holds with any Vault.
var contract = []struct {
	name string
	test func(*testing.T, server)
}{
	{"a password is made for one execution and ends with it", passwordForOne},
	{"what the program is not given is read at its first use", readAtFirstUse},
	{"the engines", engines},
	{"values keep every byte", everyByte},
	{"policies are not mixed", policiesAreNotMixed},
	{"a hundred at once", aHundredAtOnce},
	{"uses are counted under concurrency", usesAreCounted},
	{"a lease that is shorter than its token", shorterLease},
	{"a lease that is longer than its token", longerLease},
	{"a token that was revoked by hand", revokedByHand},
	{"a crash between each two steps", crashes},
	{"the log cannot be written", logCannotBeWritten},
	{"what is not there, and what may not be read", notThere},
	{"sealed", sealed},
	{"audit device full", auditFull},
	{"rate limited", rateLimited},
	{"slow", slow},
	{"a revocation that fails is made again", revocationAgain},
	{"down", down}, // the last one: a server in memory does not come back as it was
}

func TestContractWithFake(t *testing.T) {
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, newFake(t))
		})
	}
}

func passwordForOne(t *testing.T, s server) {
	w := newWorld(t, s)
	lent := w.lend(t, "ex_one", database(execution.InjectFile))
	if len(lent.Leases) != 1 || len(lent.Exposed) != 1 || lent.Exposed[0].Fields["username"].Reveal() == "" || lent.Exposed[0].Fields["password"].Reveal() == "" {
		t.Fatalf("lent %v", lent)
	}
	lease := lent.Leases[0]
	if lease.Tool != "db" || !strings.HasPrefix(lease.ID, "database/creds/reader/") || lease.Revoked || !lease.Exposed || lease.Unleased {
		t.Errorf("the lease is %+v", lease)
	}
	if users := s.users(t); !slices.Contains(users, lent.Exposed[0].Fields["username"].Reveal()) {
		t.Errorf("users are %v", users)
	}
	for range 2 {
		leases, err := w.lender.Revoke(t.Context(), "ex_one")
		if err != nil || len(leases) != 1 || !leases[0].Revoked {
			t.Errorf("revoked: %+v, %v", leases, err)
		}
	}
	w.nothingLeft(t)
	if diff := cmp.Diff([]string{"lease_issued db", "lease_revoked db"}, w.told()); diff != "" {
		t.Errorf("the records (-want +got):\n%s", diff)
	}
	issued := w.records[0]
	want := execution.LeaseChange{Lease: lease, Engine: "database", Mount: "database", Path: "creds/reader", Inject: "file", Accessor: issued.Lease.Accessor}
	if diff := cmp.Diff(want, *issued.Lease); diff != "" || issued.Lease.Accessor == "" || issued.Execution != "ex_one" {
		t.Errorf("issued (-want +got):\n%s", diff)
	}
	asked := loanOf("ex_one")
	for _, r := range w.records[:2] {
		if diff := cmp.Diff(&asked.Principal, r.Principal); diff != "" || r.RequestID != asked.RequestID || r.TraceID != asked.TraceID {
			t.Errorf("%s of the request %q, trace %q, for (-want +got):\n%s", r.Type, r.RequestID, r.TraceID, diff)
		}
	}
	if c := w.lender.Counts(); c.Issued != 1 || c.Revoked != 1 || c.Pending != 0 || c.RevokeFailures != 0 {
		t.Errorf("counts: %+v", c)
	}
}

func readAtFirstUse(t *testing.T, s server) {
	w := newWorld(t, s)
	if lent := w.lend(t, "ex_lazy", database(execution.InjectEgress)); len(lent.Leases)+len(lent.Exposed) != 0 {
		t.Errorf("lent before any use: %+v", lent)
	}
	if w.journal.left() != 0 || len(s.executionTokens(t)) != 0 {
		t.Error("there is a token before any use")
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[string]bool)
	for range 20 {
		group.Go(func() {
			fields, lease, err := w.lender.Value(t.Context(), "ex_lazy", "db")
			if err != nil || lease.Exposed {
				t.Errorf("%+v, %v", lease, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[fields["password"].Reveal()] = true
		})
	}
	group.Wait()
	if len(seen) != 1 || len(s.users(t)) != 1 {
		t.Errorf("%d passwords and %d users for 20 uses", len(seen), len(s.users(t)))
	}
	leases, err := w.lender.Revoke(t.Context(), "ex_lazy")
	if err != nil || len(leases) != 1 || !leases[0].Revoked {
		t.Errorf("revoked: %+v, %v", leases, err)
	}
	_, _, err = w.lender.Value(t.Context(), "ex_lazy", "db")
	wantError(t, err, execution.KindDenied, vault.CodeEnded)
	_, _, err = w.lender.Value(t.Context(), "ex_lazy", "other")
	wantError(t, err, execution.KindDenied, vault.CodeNotLent)
	w.nothingLeft(t)
}

func engines(t *testing.T, s server) {
	_, isFake := s.(*fake)
	for name, c := range map[string]struct {
		credential execution.Credential
		fields     string
		id         string // the beginning of the lease's
		fakeOnly   bool
	}{
		"kv":            {execution.Credential{Mount: "kv1", Path: "plain"}, "deep number token", "token/", false},
		"kv2":           {execution.Credential{Mount: "secret", Engine: "kv2", Path: "plain"}, "deep number token", "token/", false},
		"database":      {execution.Credential{Mount: "database", Path: "creds", Role: "reader"}, "password username", "database/creds/reader/", false},
		"database, all": {execution.Credential{Mount: "database", Path: "creds/reader"}, "password username", "database/creds/reader/", false},
		"pki":           {execution.Credential{Mount: "pki", Role: "client"}, "ca_chain certificate expiration private_key", "token/", false},
		"aws":           {execution.Credential{Mount: "aws", Role: "deploy"}, "access_key secret_key", "aws/creds/deploy/", true},
		"aws, sts":      {execution.Credential{Mount: "aws", Path: "sts", Role: "deploy"}, "access_key secret_key", "aws/sts/deploy/", true},
		"other":         {execution.Credential{Mount: "misc", Path: "leased"}, "key", "misc/leased/", true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.fakeOnly && !isFake {
				return // there is no AWS here, and the shape is the fake's
			}
			w := newWorld(t, s)
			c.credential.Tool, c.credential.Inject = "tool", execution.InjectFile
			c.credential.VaultPolicies = []string{c.credential.Mount}
			begun := time.Now()
			lent := w.lend(t, "ex_Engine", c.credential)
			lasts := lent.Leases[0].Expires
			for _, field := range strings.Fields(c.fields) {
				if lent.Exposed[0].Fields[field].Reveal() == "" {
					t.Errorf("there is no field %s", field)
				}
			}
			if !strings.HasPrefix(lent.Leases[0].ID, c.id) {
				t.Errorf("the lease is %s", lent.Leases[0].ID)
			}
			if lasts.Before(begun.Add(50*time.Second)) || lasts.After(time.Now().Add(time.Minute)) {
				t.Errorf("begun at %v, it lasts until %v", begun, lasts)
			}
			if _, err := w.lender.Revoke(t.Context(), "ex_Engine"); err != nil {
				t.Error(err)
			}
			w.nothingLeft(t)
		})
	}
}

func everyByte(t *testing.T, s server) {
	w := newWorld(t, s)
	lent := w.lend(t, "ex_bytes", kv("wild", "wild", execution.InjectFile), kv("plain", "plain", execution.InjectEnv))
	for i, want := range []map[string]string{
		{"token": "a\r\nX-Evil: 1\x00end", "unicode": "pässwörd"},
		{"token": "ghp_plainvalue", "number": "1234567890", "deep": `{"a":"<b>"}`},
	} {
		got := make(map[string]string)
		for name, value := range lent.Exposed[i].Fields {
			got[name] = value.Reveal()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	// No variable holds a NUL.
	_, err := w.lender.Lend(t.Context(), loanOf("ex_nul", kv("wild", "wild", execution.InjectEnv)))
	if e := wantError(t, err, execution.KindUnavailable, vault.CodeRefused); strings.Contains(e.Error(), "X-Evil") {
		t.Errorf("the error holds the value: %v", e)
	}
	revokeAll(t, w, "ex_bytes")
}

func revokeAll(t *testing.T, w *world, ids ...string) {
	t.Helper()
	for _, id := range ids {
		leases, err := w.lender.Revoke(t.Context(), id)
		if err != nil {
			t.Error(err)
		}
		for _, l := range leases {
			if !l.Revoked {
				t.Errorf("not revoked: %+v", l)
			}
		}
	}
	w.nothingLeft(t)
}

func policiesAreNotMixed(t *testing.T, s server) {
	w := newWorld(t, s)
	short := kv("again", "wild", execution.InjectFile)
	short.TTLS = 60
	loan := loanOf("ex_mixed", kv("one", "plain", execution.InjectFile), kv("two", "wild", execution.InjectFile), database(execution.InjectFile), short)
	loan.Lasts = 5 * time.Minute
	lent, err := w.lender.Lend(t.Context(), loan)
	if err != nil {
		t.Fatal(err)
	}
	if tokens := s.executionTokens(t); len(tokens) != 3 {
		t.Errorf("%d tokens, want one for each set of policies and time", len(tokens))
	}
	if until := time.Until(lent.Leases[3].Expires); until > time.Minute {
		t.Errorf("the one of ttl_s 60 lasts %v", until)
	}
	revokeAll(t, w, "ex_mixed")
}

func aHundredAtOnce(t *testing.T, s server) {
	w := newWorld(t, s)
	var group sync.WaitGroup
	slots := make(chan struct{}, 32) // as a gateway does
	for i := range 100 {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			loan := loanOf(fmt.Sprint("ex_", i), database(execution.InjectEnv))
			loan.Lasts = 5 * time.Minute // the first one is there still when the last one is lent
			if _, err := w.lender.Lend(t.Context(), loan); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if users := s.users(t); len(users) != 100 {
		t.Errorf("%d users", len(users))
	}
	for i := range 100 {
		group.Go(func() {
			leases, err := w.lender.Revoke(t.Context(), fmt.Sprint("ex_", i))
			if err != nil || len(leases) != 1 || !leases[0].Revoked {
				t.Errorf("%+v, %v", leases, err)
			}
		})
	}
	group.Wait()
	w.nothingLeft(t)
}

func usesAreCounted(t *testing.T, s server) {
	w := newWorld(t, s)
	c := kv("api", "plain", execution.InjectEgress)
	c.MaxUses = 7
	w.lend(t, "ex_uses", c)
	var group sync.WaitGroup
	var used atomic.Int64
	for range 50 {
		group.Go(func() {
			_, _, err := w.lender.Value(t.Context(), "ex_uses", "api")
			if err == nil {
				used.Add(1)
				return
			}
			wantError(t, err, execution.KindDenied, vault.CodeUsedUp)
		})
	}
	group.Wait()
	if used.Load() != 7 {
		t.Errorf("used %d times, want 7", used.Load())
	}
	revokeAll(t, w, "ex_uses")
}

func shorterLease(t *testing.T, s server) {
	w := newWorld(t, s)
	w.run(t)
	c := database(execution.InjectEgress)
	c.Mount, c.VaultPolicies = "short", []string{"short"}
	id, others := w.valueInTime(t, "ex_short", loanOf("", c))
	var err error
	within(t, patience, "refused", func() bool {
		_, _, err = w.lender.Value(t.Context(), id, "db")
		return err != nil
	})
	wantError(t, err, execution.KindDenied, vault.CodeExpired)
	revokeAll(t, w, append(others, id)...)
}

func longerLease(t *testing.T, s server) {
	w := newWorld(t, s)
	w.run(t)
	loan := loanOf("", database(execution.InjectEgress))
	loan.Lasts = 2 * time.Second
	id, others := w.valueInTime(t, "ex_long", loan)
	// Nobody takes it back: it ends by itself, at Vault too, and that is recorded.
	within(t, patience, "ended by itself", func() bool { return slices.Contains(w.toldOf(id), "lease_revoked db") })
	if told := w.toldOf(id); told[0] != "lease_issued db" || told[len(told)-1] != "lease_revoked db" {
		t.Errorf("recorded %q", told)
	}
	if _, _, err := w.lender.Value(t.Context(), id, "db"); err == nil {
		t.Error("it is there after its end")
	}
	revokeAll(t, w, append(others, id)...)
}

// valueInTime lends and uses a credential that is good for two seconds, anew where a busy
// machine took longer. It returns the execution, and those before it.
func (w *world) valueInTime(t *testing.T, name string, loan execution.Loan) (id string, others []string) {
	t.Helper()
	within(t, patience, "used in time", func() bool {
		if id != "" {
			others = append(others, id)
		}
		id = fmt.Sprint(name, len(others))
		loan.Execution = id
		var lease execution.Lease
		_, err := w.lender.Lend(t.Context(), loan)
		if err == nil {
			_, lease, err = w.lender.Value(t.Context(), id, "db")
		}
		if err != nil {
			wantError(t, err, execution.KindDenied, vault.CodeExpired)
		} else if time.Until(lease.Expires) > 2*time.Second {
			t.Fatalf("%+v", lease)
		}
		return err == nil
	})
	return id, others
}

func revokedByHand(t *testing.T, s server) {
	w := newWorld(t, s)
	w.lend(t, "ex_hand", database(execution.InjectFile))
	s.revokeByHand(t, s.executionTokens(t)[0])
	revokeAll(t, w, "ex_hand")
	if c := w.lender.Counts(); c.RevokeFailures != 0 {
		t.Errorf("%+v", c)
	}
}

func crashes(t *testing.T, s server) {
	for _, step := range []string{
		"before the intent", "after the intent", "after the token", "after the accessor", "before lease_issued", "after lease_issued",
		"running", "before lease_revoked", "after lease_revoked", "before the end",
	} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t, s)
			died, buried := make(chan struct{}), make(chan struct{})
			var once sync.Once
			die := func() {
				once.Do(func() { close(died) })
				<-buried
			}
			at := func(now string) {
				if now == step {
					die()
				}
			}
			w.at, w.journal.at = at, at
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				_, _ = w.lender.Lend(t.Context(), loanOf("ex_crash", database(execution.InjectFile)))
				at("running")
				_, _ = w.lender.Revoke(t.Context(), "ex_crash")
			}()
			<-died
			// The dead one does nothing more until the next one is done.
			next := newWorld(t, s)
			next.journal.entries, _ = w.journal.Open(t.Context())
			crashed := slices.Clone(next.journal.entries)
			if err := next.lender.Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			if step == "after the intent" {
				// Nobody can know that Vault was not asked: it stays until it would be over.
				if next.journal.left() != 1 || len(next.told()) != 0 {
					t.Errorf("%d entries are left, records %v", next.journal.left(), next.told())
				}
				next.journal.entries = nil
			}
			within(t, patience, "ended", func() bool { return len(s.users(t)) == 0 })
			next.nothingLeft(t)
			for _, told := range next.told() {
				if told != "lease_revoked db" {
					t.Errorf("recorded %q", told)
				}
			}
			if known := len(crashed) > 0 && crashed[0].Accessor != ""; known != (len(next.told()) == 1) {
				t.Errorf("the token was known: %v, the records are %v", known, next.told())
			}
			close(buried)
			<-gone
			w.lender.Revoke(t.Context(), "ex_crash")
		})
	}
}

func logCannotBeWritten(t *testing.T, s server) {
	for name, why := range map[string]error{
		"typed": &execution.Error{Kind: execution.KindUnavailable, Code: "audit_unavailable"},
		"plain": errors.New("no room"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s)
			w.refuse = func(execution.Record) error { return why }
			_, err := w.lender.Lend(t.Context(), loanOf("ex_log", database(execution.InjectFile)))
			wantError(t, err, execution.KindUnavailable, "audit_unavailable")
			w.nothingLeft(t)
			w.lend(t, "ex_log2", database(execution.InjectEgress))
			_, _, err = w.lender.Value(t.Context(), "ex_log2", "db")
			wantError(t, err, execution.KindUnavailable, "audit_unavailable")
			w.nothingLeft(t)
		})
	}
}

func notThere(t *testing.T, s server) {
	forbidden := kv("api", "plain", execution.InjectFile)
	forbidden.VaultPolicies = []string{"database"}
	unknown := database(execution.InjectFile)
	unknown.Role = "nobody"
	for name, c := range map[string]execution.Credential{
		"no such key": kv("api", "nothing", execution.InjectFile), "no such role": unknown, "its policies do not allow it": forbidden,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, s)
			_, err := w.lender.Lend(t.Context(), loanOf("ex_none", c))
			if e := wantError(t, err, execution.KindUnavailable, vault.CodeRefused); !strings.Contains(e.Detail, "the operator has to") {
				t.Errorf("the detail is %q", e.Detail)
			}
			w.nothingLeft(t)
		})
	}
}

// unavailable wants nothing lent in any way, with that code, and nothing left.
func unavailable(t *testing.T, w *world, code string, least time.Duration) {
	t.Helper()
	for _, inject := range []execution.Inject{execution.InjectFile, execution.InjectEgress} {
		// What is read later is promised for a moment after Vault was there.
		var err error
		within(t, 2*vault.Trusted, "refused", func() bool {
			_, err = w.lender.Lend(t.Context(), loanOf(execution.NewID("ex_", time.Now()), database(inject)))
			return err != nil
		})
		if e := wantError(t, err, execution.KindUnavailable, code); e.RetryAfter < least || e.Detail == "" {
			t.Errorf("again after %v; %s", e.RetryAfter, e.Detail)
		}
	}
}

func sealed(t *testing.T, s server) {
	w := newWorld(t, s)
	w.run(t)
	w.lend(t, "ex_sealed", database(execution.InjectFile))
	s.Seal(t)
	unavailable(t, w, vault.CodeSealed, time.Second)
	if err := w.lender.Ready(t.Context()); err == nil {
		t.Error("it is ready")
	}
	leases, err := w.lender.Revoke(t.Context(), "ex_sealed")
	if err != nil || len(leases) != 1 || leases[0].Revoked || w.lender.Counts().Pending == 0 {
		t.Errorf("%+v, %v, %+v", leases, err, w.lender.Counts())
	}
	s.Unseal(t)
	within(t, patience, "ended", func() bool { return w.lender.Counts().Pending == 0 })
	revokeAll(t, w, "ex_sealed")
	if told := w.told(); !slices.Contains(told, "lease_revoked db failed: vault_sealed") || told[len(told)-1] != "lease_revoked db" {
		t.Errorf("recorded %q", told)
	}
}

func auditFull(t *testing.T, s server) {
	w := newWorld(t, s)
	s.FillAudit(t)
	if err := w.lender.Ready(t.Context()); err == nil {
		t.Error("it is ready, and Vault answers nothing")
	}
	unavailable(t, w, vault.CodeUnavailable, time.Second)
	s.FreeAudit(t)
	within(t, patience, "ready", func() bool { return w.lender.Ready(t.Context()) == nil })
}

func rateLimited(t *testing.T, s server) {
	w := newWorld(t, s)
	s.limit(t)
	var err error
	for i := range 5 {
		if _, err = w.lender.Lend(t.Context(), loanOf(fmt.Sprint("ex_limit", i), database(execution.InjectFile))); err != nil {
			break
		}
		w.lender.Revoke(t.Context(), fmt.Sprint("ex_limit", i))
	}
	if e := wantError(t, err, execution.KindUnavailable, vault.CodeRateLimited); e.RetryAfter < time.Second || e.RetryAfter > time.Minute {
		t.Errorf("again after %v", e.RetryAfter)
	}
	w.nothingLeft(t)
}

func slow(t *testing.T, s server) {
	w := newWorld(t, s, func(c *vault.Config) { c.Timeout = time.Second; c.BreakerOpen = 300 * time.Millisecond })
	w.run(t)
	within(t, patience, "ready", func() bool { return w.lender.Ready(t.Context()) == nil })
	s.Pause(t)
	defer s.Resume(t)
	for i := range 3 {
		_, err := w.lender.Lend(t.Context(), loanOf(fmt.Sprint("ex_slow", i), database(execution.InjectFile)))
		wantError(t, err, execution.KindUnavailable, vault.CodeUnavailable)
	}
	within(t, patience, "open", func() bool { return w.lender.Counts().BreakerOpen })
	// What was asked for and not answered may be there, and is sought and ended.
	s.Resume(t)
	within(t, patience, "without tokens", func() bool { return len(s.executionTokens(t)) == 0 })
	within(t, patience, "closed", func() bool { return w.lender.Ready(t.Context()) == nil })
	// A machine that is busy still may take longer than a call may.
	lent := 0
	within(t, patience, "lent and taken back", func() bool {
		lent++
		id := fmt.Sprint("ex_after", lent)
		if _, err := w.lender.Lend(t.Context(), loanOf(id, database(execution.InjectFile))); err != nil {
			wantError(t, err, execution.KindUnavailable, vault.CodeUnavailable)
			return false
		}
		leases, _ := w.lender.Revoke(t.Context(), id)
		return len(leases) == 1 && leases[0].Revoked
	})
	within(t, patience, "without tokens", func() bool { return len(s.executionTokens(t)) == 0 })
}

func revocationAgain(t *testing.T, s server) {
	w := newWorld(t, s)
	w.run(t)
	w.lend(t, "ex_again", database(execution.InjectFile))
	s.FillAudit(t)
	leases, err := w.lender.Revoke(t.Context(), "ex_again")
	if err != nil || len(leases) != 1 || leases[0].Revoked {
		t.Errorf("%+v, %v", leases, err)
	}
	if c := w.lender.Counts(); c.Pending != 1 || c.RevokeFailures == 0 || c.Revoked != 0 {
		t.Errorf("%+v", c)
	}
	s.FreeAudit(t)
	within(t, patience, "ended", func() bool { return w.lender.Counts().Pending == 0 })
	if diff := cmp.Diff([]string{"lease_issued db", "lease_revoked db failed: vault_unavailable", "lease_revoked db"}, w.told()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// A Vault that could not write down that it ended a token may end it once more on
	// its own time, and lists it until then.
	within(t, patience, "gone from Vault", func() bool { return len(w.server.executionTokens(t)) == 0 })
	revokeAll(t, w, "ex_again")
}

func down(t *testing.T, s server) {
	w := newWorld(t, s, func(c *vault.Config) { c.BreakerOpen = time.Hour })
	w.lend(t, "ex_down", database(execution.InjectFile))
	s.Stop()
	unavailable(t, w, vault.CodeUnavailable, time.Second)
	leases, err := w.lender.Revoke(t.Context(), "ex_down")
	if err != nil || len(leases) != 1 || leases[0].Revoked || w.journal.left() == 0 {
		t.Errorf("%+v, %v", leases, err)
	}
	if !w.lender.Counts().BreakerOpen {
		t.Fatal("the breaker is not open")
	}
	// With the breaker open Vault is not asked: who is refused is told when it will be.
	for range 10 {
		unavailable(t, w, vault.CodeUnavailable, 30*time.Minute)
	}
}
