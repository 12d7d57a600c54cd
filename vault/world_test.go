package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/execution/recordtest"
	"github.com/execgate/execgate/vault"
)

// server is a Vault that the contract is tested with. It has the mounts of mounts,
// with policies named as they are, and of the databases the role reader; a user of
// the one at short lives for two seconds.
type server interface {
	Addr() string
	gateway() string // the token that the gateway logs in with
	Seal(testing.TB)
	Unseal(testing.TB)
	Pause(testing.TB)
	Resume(testing.TB)
	Stop()
	FillAudit(testing.TB)
	FreeAudit(testing.TB)
	limit(testing.TB)
	executionTokens(testing.TB) []string
	users(testing.TB) []string
	revokeByHand(t testing.TB, accessor string)
}

var mounts = vault.Mounts{
	{Path: "kv1", Engine: execution.EngineKV}, {Path: "secret", Engine: execution.EngineKV2},
	{Path: "database", Engine: execution.EngineDatabase}, {Path: "short", Engine: execution.EngineDatabase}, {Path: "aws", Engine: execution.EngineAWS},
	{Path: "pki", Engine: execution.EnginePKI, CommonName: "{execution}.agents.example"}, {Path: "misc", Engine: execution.EngineOther},
}

// world is what a lender has around it.
type world struct {
	server  server
	config  vault.Config
	lender  *vault.Vault
	journal *journal
	log     *bytes.Buffer
	logMu   sync.Mutex

	mu      sync.Mutex
	records []execution.Record
	at      func(step string) // is told of each step, and may not return for long
	refuse  func(execution.Record) error
}

// checked holds every record that a test makes against the schema that ships.
var checked recordtest.Checked

func TestMain(m *testing.M) { os.Exit(checked.Run(m)) }

// journal is one in memory: what it holds is what a crash leaves.
type journal struct {
	mu      sync.Mutex
	entries []vault.Entry
	at      func(step string)
	err     error
}

func (j *journal) step(name string) {
	if j.at != nil {
		j.at(name)
	}
}

func (j *journal) Begin(_ context.Context, e vault.Entry) error {
	j.step("before the intent")
	j.mu.Lock()
	if j.err != nil {
		defer j.mu.Unlock()
		return j.err
	}
	j.entries = append(j.entries, e)
	j.mu.Unlock()
	j.step("after the intent")
	return nil
}

func (j *journal) Hold(_ context.Context, id, accessor string) error {
	j.step("after the token")
	j.mu.Lock()
	for i := range j.entries {
		if j.entries[i].ID == id {
			j.entries[i].Accessor = accessor
		}
	}
	j.mu.Unlock()
	j.step("after the accessor")
	return nil
}

func (j *journal) End(_ context.Context, id string) error {
	j.step("before the end")
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = slices.DeleteFunc(j.entries, func(e vault.Entry) bool { return e.ID == id })
	return nil
}

func (j *journal) Open(context.Context) ([]vault.Entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries), j.err
}

func (j *journal) left() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries)
}

func (w *world) record(_ context.Context, r execution.Record) error {
	checked.Add(r)
	w.mu.Lock()
	at, refuse := w.at, w.refuse
	w.mu.Unlock()
	if at != nil {
		at("before " + string(r.Type))
	}
	if refuse != nil {
		if err := refuse(r); err != nil {
			return err
		}
	}
	w.mu.Lock()
	w.records = append(w.records, r)
	w.mu.Unlock()
	if at != nil {
		at("after " + string(r.Type))
	}
	return nil
}

// told are the records so far, each in short.
func (w *world) told() []string { return w.toldOf("") }

// toldOf are those of one execution; empty: of all.
func (w *world) toldOf(id string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, r := range w.records {
		if id != "" && r.Execution != id {
			continue
		}
		text := fmt.Sprintf("%s %s", r.Type, r.Lease.Tool)
		if r.Type == execution.RecordLeaseRevoked && !r.Lease.Revoked {
			text += " failed: " + r.Lease.Error
		}
		out = append(out, text)
	}
	return out
}

func (w *world) Write(p []byte) (int, error) {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.String()
}

// newWorld makes a lender that is logged in with the gateway's token of s.
func newWorld(t testing.TB, s server, change ...func(*vault.Config)) *world {
	w := &world{server: s, journal: &journal{}, log: &bytes.Buffer{}}
	w.config = vault.Config{
		Address: s.Addr(), Auth: vault.Auth{Method: vault.AuthTokenFile, File: file(t, s.gateway())}, TokenRole: "gate", Mounts: mounts,
		Journal: w.journal, Record: w.record, Logger: slog.New(slog.NewTextHandler(w, nil)),
		Timeout: time.Minute, // a busy machine is no Vault that does not answer
	}
	for _, c := range change {
		c(&w.config)
	}
	w.lender = w.start(t)
	t.Cleanup(func() { w.nothingShown(t) })
	return w
}

// nothingShown wants no token and no value in the log or in a record.
func (w *world) nothingShown(t testing.TB) {
	w.mu.Lock()
	records, err := json.Marshal(w.records)
	w.mu.Unlock()
	if err != nil {
		t.Error(err)
	}
	for what, text := range map[string]string{"log": w.logged(), "records": string(records)} {
		for _, secret := range []string{"hvs.", "ghp_plainvalue", "X-Evil", "the-secret-id", "the.signed.jwt", "pw-"} {
			if strings.Contains(text, secret) {
				t.Errorf("the %s hold %q: %s", what, secret, text)
			}
		}
	}
}

// start makes another lender with all that the first one has.
func (w *world) start(t testing.TB) *vault.Vault {
	lender, err := vault.New(w.config)
	if err != nil {
		t.Fatal(err)
	}
	return lender
}

// run has the lender's own work done until the test ends.
func (w *world) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.lender.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

var discard = slog.New(slog.DiscardHandler)

func file(t testing.TB, text string) string {
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func database(inject execution.Inject) execution.Credential {
	return execution.Credential{Tool: "db", Mount: "database", Role: "reader", VaultPolicies: []string{"database"}, Inject: inject}
}

func kv(tool, path string, inject execution.Inject) execution.Credential {
	return execution.Credential{Tool: tool, Mount: "secret", Path: path, VaultPolicies: []string{"secret"}, Inject: inject}
}

func loanOf(id string, credentials ...execution.Credential) execution.Loan {
	return execution.Loan{
		Execution: id, Principal: execution.Principal{Tenant: "acme", Subject: "ak_1", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey},
		RequestID: "rq_1", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Credentials: credentials, Lasts: time.Minute,
	}
}

func (w *world) lend(t testing.TB, id string, credentials ...execution.Credential) execution.Lent {
	t.Helper()
	lent, err := w.lender.Lend(t.Context(), loanOf(id, credentials...))
	if err != nil {
		t.Fatal(err)
	}
	return lent
}

// nothingLeft wants nothing left at Vault and nothing to do.
func (w *world) nothingLeft(t testing.TB) {
	t.Helper()
	if tokens := w.server.executionTokens(t); len(tokens) != 0 {
		t.Errorf("%d tokens are left", len(tokens))
	}
	if users := w.server.users(t); len(users) != 0 {
		t.Errorf("%d users are left", len(users))
	}
	if left := w.journal.left(); left != 0 {
		t.Errorf("%d entries are left in the journal", left)
	}
}

// patience is how long anything may take on a busy machine.
const patience = 3 * time.Minute

// within waits for what happens in the background. It has not happened where it is looked
// for after the limit.
func within(t testing.TB, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		late := time.Now().After(deadline)
		if is() {
			return
		}
		if late {
			t.Fatalf("within %v: not %s", limit, what)
		}
	}
}

// wantError wants an error of that kind and code, without anything secret.
func wantError(t testing.TB, err error, kind execution.Kind, code string) *execution.Error {
	t.Helper()
	e, ok := errors.AsType[*execution.Error](err)
	if !ok {
		t.Fatalf("got %v, want an error of kind %s", err, kind)
	}
	got := e.Code
	if len(e.Reasons) > 0 {
		got = e.Reasons[0].Code
	}
	if e.Kind != kind || got != code {
		t.Fatalf("got kind %s, code %s (%v), want %s, %s", e.Kind, got, err, kind, code)
	}
	for _, part := range []string{"hvs.", "the-secret-id", "the.signed.jwt", "/v1/", "URL:"} {
		if strings.Contains(err.Error(), part) {
			t.Errorf("the error holds %q: %v", part, err)
		}
	}
	return e
}
