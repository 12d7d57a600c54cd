package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault/vaulttest"
)

// tellsBackwards is shell that shows what the program was given in a form that no
// scrubber knows.
const tellsBackwards = `python3 -c "import os; print(os.environ['DB_USERNAME'][::-1], os.environ['DB_PASSWORD'][::-1])"
`

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// An execution uses a password that was made for it alone, over TLS whose name holds.
// Once it has ended the password opens nothing, the lease is gone, and the log tells
// the story.
func TestPasswordOfOneExecution(t *testing.T) {
	t.Parallel()
	l := startLending(t, "", vaulttest.Options{})
	answer := l.execute(l.psql(t, "SELECT answer, current_user = session_user FROM reports", "echo \"$DB_PASSWORD\" >&2\n"+tellsBackwards))
	e := answer.ok(t)
	lines := strings.Split(strings.TrimSpace(e.Stdout), "\n")
	if e.Outcome != execution.OutcomeExited || len(lines) != 2 || lines[0] != "42|t" || e.Stderr != "[redacted]\n" {
		t.Fatalf("%+v", e)
	}
	user, password, _ := strings.Cut(lines[1], " ")
	user, password = reversed(user), reversed(password)
	if !strings.HasPrefix(user, "v-") || len(password) < 16 {
		t.Fatalf("the user is %q", user)
	}
	if _, err := l.postgres.QueryAs(user, password, "SELECT 1"); err == nil {
		t.Error("the password opens the database after the execution")
	}
	if left := l.users(t); len(left) != 0 {
		t.Errorf("users left: %q", left)
	}
	if n := l.tokens(t); n != 0 {
		t.Errorf("%d tokens left", n)
	}
	var reply struct {
		ID     string
		Leases []execution.Lease
	}
	if err := json.Unmarshal(answer.body, &reply); err != nil || len(reply.Leases) != 1 || !reply.Leases[0].Revoked || !reply.Leases[0].Exposed {
		t.Errorf("leases are %+v, %v", reply.Leases, err)
	}

	l.wantStory(t, reply.ID)
	if strings.Contains(string(answer.body), password) {
		t.Errorf("the answer holds the value: %s", answer.body)
	}
	auditor := keyOf(t, l.request(http.MethodPost, "/v1/keys", `{"tenant":"default","roles":["auditor"]}`))
	if strings.Contains(l.metrics(auditor), password) {
		t.Error("the metrics hold the value")
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", l.process.Process.Pid))
	if err != nil || !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		t.Errorf("the gateway may leave a core with what it lent: %v %s", err, limits)
	}
	if code := l.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	l.verify()
	l.wantNowhere(t, password)
}

// story is what the log tells of an execution.
func (l *lending) story(id string) (story []execution.RecordType) {
	for _, r := range l.records() {
		if r.Execution == id {
			story = append(story, r.Type)
		}
	}
	return story
}

// wantStory wants that of an execution which used the database with a lease.
func (l *lending) wantStory(t *testing.T, id string) {
	t.Helper()
	want := []execution.RecordType{
		execution.RecordDecided, execution.RecordLeaseIssued, execution.RecordStarted, execution.RecordEgressDecided,
		execution.RecordEgressEnded, execution.RecordLeaseRevoked, execution.RecordEnded,
	}
	if story := l.story(id); !slices.Equal(story, want) {
		t.Errorf("the log tells %v, want %v", story, want)
	}
}

// endsWithout stops the gateway, which has lent what it has taken back, recorded it in a
// log that verifies, and written a value nowhere.
func (l *lending) endsWithout(t *testing.T, value string) {
	t.Helper()
	if n := l.tokens(t); n != 0 {
		t.Errorf("%d tokens left", n)
	}
	if code := l.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	l.verify()
	l.wantNowhere(t, value)
}

// wantNowhere looks for a value in everything that the gateway wrote.
func (l *lending) wantNowhere(t *testing.T, value string) {
	t.Helper()
	if strings.Contains(l.log.String(), value) {
		t.Error("the process's log holds the value")
	}
	err := filepath.WalkDir(l.state, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(content), value) {
			t.Errorf("%s holds the value", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A tool that is called has its own lease, from the call to its answer.
func TestToolWithALease(t *testing.T) {
	t.Parallel()
	l := startLending(t, "", vaulttest.Options{})
	r := l.request(http.MethodPost, "/v1/tools/read-reports/calls", `{"arguments": {"table": "reports"}}`)
	var answer struct {
		ID         string
		Structured struct {
			Answer   int
			Password string
		}
	}
	if err := json.Unmarshal(r.body, &answer); err != nil || r.status != http.StatusOK || answer.Structured.Answer != 42 || answer.Structured.Password != "[redacted]" {
		t.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	if left := l.users(t); len(left) != 0 || l.tokens(t) != 0 {
		t.Errorf("users left: %q", left)
	}
	l.wantStory(t, answer.ID)
}

// What is not granted is denied before anything is lent.
func TestLendingOnlyWhatIsGranted(t *testing.T) {
	t.Parallel()
	l := startLending(t, "", vaulttest.Options{})
	body := l.psql(t, "SELECT 1", "")
	for name, test := range map[string]struct{ from, to, code string }{
		"tool":        {`"tools":["reports-db"]`, `"tools":["payments-db"]`, "tool_not_granted"},
		"destination": {`"network":["` + databaseHost, `"network":["payments-db.example`, "network_not_granted"},
	} {
		changed := strings.Replace(body, test.from, test.to, 1)
		if changed == body {
			t.Fatalf("%s: %s is not in the request", name, test.from)
		}
		p := l.execute(changed).refused(t, http.StatusForbidden)
		if !slices.ContainsFunc(p.Reasons, func(r execution.Reason) bool {
			return r.Code == test.code && strings.Contains(r.Message, "payments-db")
		}) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if n := len(l.recordsOf(execution.RecordLeaseIssued)); n != 0 {
		t.Errorf("%d leases were issued", n)
	}
}

// A hundred at once: a hundred users, and none left.
func TestHundredLeasesAtOnce(t *testing.T) {
	t.Parallel()
	l := newLending(t, vaulttest.Options{})
	settings := l.settings(t, "")
	settings["EXECGATE_REQUESTS_MAX_RUNNING"] = "100"
	settings["EXECGATE_EXECUTOR_START_TIMEOUT_MS"] = "120000"
	settings["EXECGATE_AUDIT_SEGMENT_MIB"] = "64" // the end of each that runs has its space
	l.gatewayUnderTest = newGateway(t, filepath.Join(t.TempDir(), "state"), settings)
	l.args = []string{"--config", l.config(t)}
	l.start()
	l.waitReady()

	body := python(`import os; print(os.environ["DB_USERNAME"][::-1])`, `"tools": ["reports-db"]`, `"limits": {"memory_mib": 64, "timeout_ms": 60000}`)
	var mu sync.Mutex
	seen := map[string]bool{}
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() {
			r, err := l.try(http.MethodPost, "/v1/executions", body)
			mu.Lock()
			defer mu.Unlock()
			var e ended
			if err != nil || r.status != http.StatusOK || json.Unmarshal(r.body, &e) != nil {
				t.Errorf("%v: %d %s", err, r.status, r.body)
				return
			}
			seen[strings.TrimSpace(e.Stdout)] = true
		})
	}
	callers.Wait()
	if len(seen) != 100 {
		t.Errorf("%d users in a hundred executions", len(seen))
	}
	if left := l.users(t); len(left) != 0 || l.tokens(t) != 0 {
		t.Errorf("%d users and %d tokens are left", len(left), l.tokens(t))
	}
	if issued, revoked := len(l.recordsOf(execution.RecordLeaseIssued)), len(l.recordsOf(execution.RecordLeaseRevoked)); issued != 100 || revoked != 100 {
		t.Errorf("%d leases issued and %d revoked", issued, revoked)
	}
}

// waitNothingLent waits until neither the database nor Vault has anything of an
// execution.
func (l *lending) waitNothingLent(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is lent", func() bool { return len(l.users(t)) == 0 && l.tokens(t) == 0 })
}

// kill -9 at each step of a loan: after the next start nothing of it is left.
func TestKilledAtEachStepOfALoan(t *testing.T) {
	t.Parallel()
	l := newLending(t, vaulttest.Options{})
	door := newVaultDoor(t, l.vault.Addr())
	l.gatewayUnderTest = newGateway(t, filepath.Join(t.TempDir(), "state"), l.settings(t, door.address))
	l.args = []string{"--config", l.config(t)}
	l.start()
	l.waitReady()
	ends, goesOn := python("print(1)", `"tools": ["reports-db"]`), python("import time; time.sleep(600)", `"tools": ["reports-db"], "limits": {"timeout_ms": 60000}`)
	for _, step := range []struct {
		name, request string
		answer        bool
		crashed       int // executions that end as unknown_crash
	}{
		{"after the journal", "/v1/auth/token/create", false, 1},
		{"after the token", "/v1/auth/token/create", true, 1},
		{"before the read", "/v1/database/creds/reader", false, 1},
		{"after the read", "/v1/database/creds/reader", true, 1},
		{"before the revoke", "/v1/auth/token/revoke-accessor", false, 1},
		{"after the revoke", "/v1/auth/token/revoke-accessor", true, 1},
		{"during the run", "", false, 1},
	} {
		t.Run(step.name, func(t *testing.T) {
			before := l.crashes()
			killed := make(chan struct{})
			if step.request != "" {
				door.set(step.request, step.answer, func() { l.kill(); close(killed) })
			}
			body := ends
			if step.request == "" {
				body = goesOn
			}
			caller := l.post(body)
			if step.request == "" {
				eventually(t, "the lease is issued", func() bool { return len(l.users(t)) == 1 })
				l.waitContainers(1)
				l.kill()
				close(killed)
			}
			select {
			case <-killed:
			case <-time.After(patience):
				t.Fatal("Vault was never asked that")
			}
			<-caller
			l.start()
			l.waitReady()
			l.waitNothingLent(t)
			if n := l.crashes() - before; n != step.crashed {
				t.Errorf("%d executions ended as unknown_crash", n)
			}
			if e := l.execute(python("print(1)", `"tools": ["reports-db"]`)).ok(t); e.Stdout != "1\n" {
				t.Errorf("%+v", e)
			}
			l.waitNothingLent(t)
		})
	}
	if code := l.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	l.verify()
}

// What goes wrong with Vault in the middle of runs ends nothing else: new loans are
// refused, what runs goes on, and what is owed is given back when Vault is there again.
func TestVaultFailsWhileExecutionsRun(t *testing.T) {
	t.Parallel()
	l := newLending(t, vaulttest.Options{Durable: true, Audit: true})
	settings := l.settings(t, "")
	settings["EXECGATE_VAULT_TIMEOUT_MS"] = "1000"
	l.gatewayUnderTest = newGateway(t, filepath.Join(t.TempDir(), "state"), settings)
	l.args = []string{"--config", l.config(t)}
	l.start()
	l.waitReady()
	lends := python("print(1)", `"tools": ["reports-db"]`)
	refusesToLend := func(t *testing.T) time.Duration {
		t.Helper()
		began := time.Now()
		p := l.execute(lends).refused(t, http.StatusServiceUnavailable)
		if !strings.HasPrefix(p.Code, "vault_") || p.RetryAfterMS == 0 {
			t.Errorf("refused with %+v", p)
		}
		return time.Since(began)
	}
	// begins has a program run that uses a credential until it is let go. One that a busy
	// Vault keeps waiting is refused, and asks again.
	begins := func(t *testing.T) (work hold, running <-chan reply, issued execution.Record) {
		t.Helper()
		before := len(l.recordsOf(execution.RecordLeaseIssued))
		eventually(t, "the lease is issued", func() bool {
			if running == nil {
				work = newHold()
				running = l.post(python(work.code(), `"tools": ["reports-db"], "limits": {"timeout_ms": 60000}`))
			}
			if all := l.recordsOf(execution.RecordLeaseIssued); len(all) > before {
				issued = all[len(all)-1]
				return true
			}
			select {
			case r := <-running:
				r.refused(t, http.StatusServiceUnavailable)
				running = nil
			default:
			}
			return false
		})
		return work, running, issued
	}
	t.Run("token revoked by hand", func(t *testing.T) {
		work, running, issued := begins(t)
		l.vault.Do(t, http.MethodPost, "auth/token/revoke-accessor", map[string]string{"accessor": issued.Lease.Accessor})
		if e := work.letGo(t, l.gatewayUnderTest, running).ok(t); e.Stdout != "done\n" {
			t.Errorf("%+v", e)
		}
		l.waitNothingLent(t)
		auditor := keyOf(t, l.request(http.MethodPost, "/v1/keys", `{"tenant":"default","roles":["auditor"]}`))
		eventually(t, "no revocation is pending", func() bool {
			return strings.Contains(l.metrics(auditor), "\nexecgate_vault_pending_revocations 0\n")
		})
	})
	for _, fault := range []struct {
		name       string
		begin, end func(t *testing.T)
	}{
		{"stopped", func(*testing.T) { l.vault.Stop() }, func(t *testing.T) { l.vault.Restart(t); l.vault.Unseal(t) }},
		{"sealed", func(t *testing.T) { l.vault.Seal(t) }, func(t *testing.T) { l.vault.Unseal(t) }},
		{"audit full", func(t *testing.T) { l.vault.FillAudit(t) }, func(t *testing.T) { l.vault.FreeAudit(t) }},
		{"slow", func(t *testing.T) { l.vault.Pause(t) }, func(t *testing.T) { l.vault.Resume(t) }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			const most = 5 * time.Second
			for try := 1; ; try++ {
				// The user is there before Vault has written down that it answered: the record
				// tells that the gateway has it.
				work, running, _ := begins(t)
				fault.begin(t)
				took := refusesToLend(t)
				if e := l.execute(python("print(2)")).ok(t); e.Stdout != "2\n" {
					t.Errorf("an execution without credentials: %+v", e)
				}
				r := work.letGo(t, l.gatewayUnderTest, running)
				if e := r.ok(t); e.Stdout != "done\n" || !strings.Contains(string(r.body), `"revoked":false`) {
					t.Errorf("what ran: %d %s", r.status, r.body)
				}
				fault.end(t)
				l.waitNothingLent(t)
				eventually(t, "it lends again", func() bool { return l.execute(lends).status == http.StatusOK })
				if took <= most {
					return
				}
				if try == 5 { // a busy machine may take as long, but not each time
					t.Fatalf("refused after %v, and never within %v", took, most)
				}
			}
		})
	}
}

// Without a Vault a request for a credential is denied, and told what to configure.
func TestToolWithoutVault(t *testing.T) {
	t.Parallel()
	l := &lending{postgres: &vaulttest.Postgres{Port: 5432}}
	needsEngine(t)
	l.gatewayUnderTest = newGateway(t, filepath.Join(t.TempDir(), "state"), map[string]string{
		"EXECGATE_POLICY_FOLDER": l.policy(t), "EXECGATE_EXECUTOR_IMAGES": psqlImages(t),
	})
	l.args = []string{"--config", l.config(t)}
	l.start()
	l.waitReady()
	r := l.execute(python("print(1)", `"tools": ["reports-db"]`))
	if r.status != http.StatusForbidden || !strings.Contains(string(r.body), "vault_unconfigured") || !strings.Contains(string(r.body), "vault.address") {
		t.Errorf("%d %s", r.status, r.body)
	}
	if e := l.execute(python("print(1)")).ok(t); e.Stdout != "1\n" {
		t.Errorf("%+v", e)
	}
}
