package vault_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault"
)

// A token that can do more, or lives longer, than was asked for is not used: its role
// is what is wrong.
func TestTokensThatAreOtherThanAsked(t *testing.T) {
	for name, answer := range map[string]map[string]any{
		"more policies":      {"token_policies": []string{"database", "else"}},
		"the default policy": {"token_policies": []string{"database", "default"}},
		"of an identity":     {"identity_policies": []string{"else"}},
		"a child":            {"orphan": false},
		"renewable":          {"renewable": true},
		"longer":             {"lease_duration": 3600},
		"without an end":     {"lease_duration": 0},
		"without accessor":   {"accessor": ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.entry = answer
			w := newWorld(t, f)
			w.run(t)
			_, err := w.lender.Lend(t.Context(), loanOf("ex_1", database(execution.InjectFile)))
			if e := wantError(t, err, execution.KindUnavailable, vault.CodeRefused); !strings.Contains(e.Detail, "role") {
				t.Errorf("the detail is %q", e.Detail)
			}
			if f.called("database/creds/reader") != 0 {
				t.Error("it was used")
			}
			w.nothingLeft(t)
		})
	}
}

// Without a role the gateway makes orphans itself.
func TestTokensWithoutARole(t *testing.T) {
	f := newFake(t)
	w := newWorld(t, f, func(c *vault.Config) { c.TokenRole = "" })
	w.lend(t, "ex_1", database(execution.InjectFile))
	if f.called("auth/token/create-orphan") != 1 || f.called("auth/token/create/gate") != 0 {
		t.Errorf("the calls are %q", f.calls)
	}
	f.mu.Lock()
	for _, token := range f.tokens {
		if token.meta != nil && (token.meta["execution_id"] != "ex_1" || token.meta["tenant"] != "acme" || token.meta["tools"] != "db") {
			t.Errorf("the metadata is %v", token.meta)
		}
	}
	f.mu.Unlock()
	revokeAll(t, w, "ex_1")
}

// However long an execution may last, a token does not outlive what is configured.
func TestTokensAreBounded(t *testing.T) {
	w := newWorld(t, newFake(t), func(c *vault.Config) { c.MaxTTL = time.Minute })
	loan := loanOf("ex_1", kv("api", "plain", execution.InjectFile))
	loan.Lasts = time.Hour
	lent, err := w.lender.Lend(t.Context(), loan)
	if err != nil {
		t.Fatal(err)
	}
	if until := time.Until(lent.Leases[0].Expires); until > time.Minute {
		t.Errorf("it lasts %v", until)
	}
	revokeAll(t, w, "ex_1")
}

// What is read with a token that ended meanwhile is refused because it has expired: no
// policy at Vault is wrong.
func TestTokenThatEndsBeforeItIsReadWith(t *testing.T) {
	f := newFake(t)
	f.answers["database/creds/reader"] = func(w http.ResponseWriter, r *http.Request) {
		if token := f.tokens[r.Header.Get("X-Vault-Token")]; token != nil {
			time.Sleep(time.Until(token.expires))
		}
		refuse(w, 403, "permission denied")
	}
	w := newWorld(t, f)
	loan := loanOf("ex_1", database(execution.InjectFile))
	loan.Lasts = time.Second
	_, err := w.lender.Lend(t.Context(), loan)
	wantError(t, err, execution.KindDenied, vault.CodeExpired)
	w.nothingLeft(t)
}

// A token that was asked for, and made, and never answered is found by its intent.
func TestTokenWhoseAnswerIsLost(t *testing.T) {
	for name, answer := range map[string]func(*fake) http.HandlerFunc{
		"the connection broke": func(f *fake) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { made(f); panic(http.ErrAbortHandler) }
		},
		"the log of the answer failed": func(f *fake) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { made(f); refuse(w, 500, "internal error") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.answers["auth/token/create/gate"] = answer(f)
			w := newWorld(t, f)
			_, err := w.lender.Lend(t.Context(), loanOf("ex_1", database(execution.InjectFile)))
			wantError(t, err, execution.KindUnavailable, vault.CodeUnavailable)
			// The fake does not see what is sent, so the intent is put there by hand.
			f.mu.Lock()
			for _, token := range f.tokens {
				if token.meta["execution_id"] != "" {
					token.meta["intent"] = w.journal.entries[0].ID
				}
			}
			f.mu.Unlock()
			w.run(t)
			within(t, patience, "ended", func() bool {
				return len(f.executionTokens(t)) == 0 && w.journal.left() == 0 && w.lender.Counts().Pending == 0
			})
		})
	}
}

func made(f *fake) {
	token := f.mint([]string{"database"}, 60)
	token.meta = map[string]string{"execution_id": "ex_1"}
}

// Where the gateway may not list tokens, what may be left is said, and stays in the
// journal until it has ended by itself.
func TestTokenThatMayNotBeSought(t *testing.T) {
	f := newFake(t)
	f.forbid["auth/token/accessors"] = true
	w := newWorld(t, f)
	entry := vault.Entry{ID: "lost", Execution: "ex_1", Owner: execution.Owner{Tenant: "acme"}, Credentials: []execution.Credential{database(execution.InjectFile)}, Expires: time.Now().Add(1500 * time.Millisecond)}
	w.journal.entries = []vault.Entry{entry}
	w.run(t)
	if err := w.lender.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.journal.left() != 1 || !strings.Contains(w.logged(), `path \"auth/token/accessors\" { capabilities`) {
		t.Errorf("%d entries; the log says %s", w.journal.left(), w.logged())
	}
	f.mu.Lock()
	f.forbid["auth/token/accessors"] = false
	f.mu.Unlock()
	within(t, patience, "given up when its time is over", func() bool { return w.journal.left() == 0 })
}

// Where the gateway may not end leases, their token ends them, which is said once.
func TestLeasesThatMayNotBeEnded(t *testing.T) {
	f := newFake(t)
	f.forbid["sys/leases/revoke"] = true
	w := newWorld(t, f)
	for _, id := range []string{"ex_1", "ex_2"} {
		w.lend(t, id, database(execution.InjectFile))
		revokeAll(t, w, id)
	}
	if n := strings.Count(w.logged(), "sys/leases/revoke"); n != 1 {
		t.Errorf("said %d times: %s", n, w.logged())
	}
}

// A lease whose engine cannot end it is not revoked, though its token is; it is
// tried again until it is.
func TestLeaseThatItsEngineCannotEnd(t *testing.T) {
	f := newFake(t)
	w := newWorld(t, f)
	w.run(t)
	w.lend(t, "ex_1", database(execution.InjectFile))
	f.mu.Lock()
	f.answers["sys/leases/revoke"] = func(w http.ResponseWriter, _ *http.Request) { refuse(w, 400, "failed to revoke entry") }
	f.mu.Unlock()
	leases, err := w.lender.Revoke(t.Context(), "ex_1")
	if err != nil || len(leases) != 1 || leases[0].Revoked || f.called("auth/token/revoke-accessor") != 1 {
		t.Errorf("%+v, %v", leases, err)
	}
	f.mu.Lock()
	delete(f.answers, "sys/leases/revoke")
	f.mu.Unlock()
	within(t, patience, "ended", func() bool { return w.journal.left() == 0 })
	revokeAll(t, w, "ex_1")
}

// The end of a lease is recorded even if the log could not be written at the time,
// and Vault is not asked again for that.
func TestEndThatCouldNotBeRecorded(t *testing.T) {
	f := newFake(t)
	w := newWorld(t, f)
	w.run(t)
	w.lend(t, "ex_1", database(execution.InjectFile))
	w.mu.Lock()
	w.refuse = func(execution.Record) error { return &execution.Error{Kind: execution.KindUnavailable} }
	w.mu.Unlock()
	if leases, _ := w.lender.Revoke(t.Context(), "ex_1"); len(leases) != 1 || !leases[0].Revoked || w.journal.left() != 1 {
		t.Errorf("%+v", leases)
	}
	w.mu.Lock()
	w.refuse = nil
	w.mu.Unlock()
	within(t, patience, "recorded", func() bool { return slices.Contains(w.told(), "lease_revoked db") })
	within(t, patience, "forgotten", func() bool { return w.journal.left() == 0 })
	if n := f.called("auth/token/revoke-accessor"); n != 1 {
		t.Errorf("revoked %d times", n)
	}
}

// Without the journal nothing is asked of Vault.
func TestJournalThatCannotBeWritten(t *testing.T) {
	f := newFake(t)
	w := newWorld(t, f)
	w.journal.err = http.ErrServerClosed
	_, err := w.lender.Lend(t.Context(), loanOf("ex_1", database(execution.InjectFile)))
	wantError(t, err, execution.KindUnavailable, "lease_journal_unavailable")
	if len(f.calls) != 0 {
		t.Errorf("the calls are %q", f.calls)
	}
}

// Of a database that cannot be reached for one moment a lazy credential is not lost:
// the next use reads it.
func TestUseThatFailsIsNoUse(t *testing.T) {
	f := newFake(t)
	w := newWorld(t, f)
	c := database(execution.InjectEgress)
	c.MaxUses = 1
	w.lend(t, "ex_1", c)
	for _, path := range []string{"auth/token/create/gate", "database/creds/reader"} {
		f.mu.Lock()
		f.answers[path] = func(w http.ResponseWriter, _ *http.Request) { refuse(w, 503, "standby") }
		f.mu.Unlock()
		_, _, err := w.lender.Value(t.Context(), "ex_1", "db")
		wantError(t, err, execution.KindUnavailable, vault.CodeUnavailable)
		f.mu.Lock()
		delete(f.answers, path)
		f.mu.Unlock()
	}
	if _, _, err := w.lender.Value(t.Context(), "ex_1", "db"); err != nil {
		t.Error(err)
	}
	_, _, err := w.lender.Value(t.Context(), "ex_1", "db")
	wantError(t, err, execution.KindDenied, vault.CodeUsedUp)
	if leases, _ := w.lender.Revoke(t.Context(), "ex_1"); len(leases) != 1 || !leases[0].Revoked {
		t.Errorf("%+v", leases)
	}
}

// However many are sought at once, Vault is not asked for all of its tokens for each.
func TestManyAreSoughtTogether(t *testing.T) {
	f := newFake(t)
	w := newWorld(t, f)
	const many = 50
	for i := range many {
		id := fmt.Sprint("lost-", i)
		w.journal.entries = append(w.journal.entries, vault.Entry{ID: id, Execution: fmt.Sprint("ex_", i), Expires: time.Now().Add(time.Hour)})
	}
	if err := w.lender.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.lender.Counts().Pending != many {
		t.Errorf("%+v", w.lender.Counts())
	}
	// One for all, and then no more than one for each eight that are retried at once.
	if n := f.called("auth/token/accessors"); n > 1+many/2 {
		t.Errorf("listed %d times", n)
	}
	f.mu.Lock()
	for i := range many {
		f.mint(nil, 60).meta = map[string]string{"execution_id": "ex", "intent": fmt.Sprint("lost-", i)}
	}
	f.mu.Unlock()
	w.run(t)
	within(t, patience, "ended", func() bool { return w.journal.left() == 0 && len(f.executionTokens(t)) == 0 })
}

// A gateway starts without Vault, and ends what was left once it is back.
func TestStartWithoutVault(t *testing.T) {
	f := newFake(t)
	w := newWorld(t, f, func(c *vault.Config) { c.BreakerOpen = 100 * time.Millisecond })
	w.lend(t, "ex_1", database(execution.InjectFile))
	w.lender = w.start(t)
	f.Stop()
	if err := w.lender.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if leases, err := w.lender.Revoke(t.Context(), "ex_1"); err != nil || len(leases) != 1 || leases[0].Revoked || w.journal.left() != 1 {
		t.Errorf("%+v, %v", leases, err)
	}
	w.run(t)
	f.Restart(t)
	within(t, patience, "ended", func() bool { return w.journal.left() == 0 })
	w.nothingLeft(t)
	if told := w.told(); told[len(told)-1] != "lease_revoked db" {
		t.Errorf("recorded %q", told)
	}
}

// Who has no time to take back what was lent leaves that to Run.
func TestRevokeWithoutTime(t *testing.T) {
	f := newFake(t)
	w := newWorld(t, f)
	w.lend(t, "ex_1", database(execution.InjectFile))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if leases, err := w.lender.Revoke(ctx, "ex_1"); err != nil || len(leases) != 1 || leases[0].Revoked {
		t.Errorf("%+v, %v", leases, err)
	}
	w.run(t)
	within(t, patience, "ended", func() bool { return w.journal.left() == 0 })
	revokeAll(t, w, "ex_1")
}

// A journal that cannot be read keeps the gateway from lending more.
func TestJournalThatCannotBeRead(t *testing.T) {
	w := newWorld(t, newFake(t))
	w.journal.err = http.ErrServerClosed
	if err := w.lender.Reconcile(t.Context()); err == nil {
		t.Error("it is no error")
	}
}
