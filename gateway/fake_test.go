package gateway_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/execution/recordtest"
	"github.com/execgate/execgate/gateway"
)

const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// checked holds every record that a test makes against the schema that ships.
var checked recordtest.Checked

func TestMain(m *testing.M) { os.Exit(checked.Run(m)) }

func limits() execution.Limits {
	return execution.Limits{
		TimeoutMS: 1000, MemoryMiB: 64, CPUMillis: 100, CPUShares: 256, PIDs: 8, NoFile: 64,
		TmpMiB: 1, WorkspaceMiB: 1, ShmMiB: 1, OutputKiB: 1, ResultKiB: 1, FilesMiB: 1, FilesCount: 1,
	}
}

func allow(credentials ...string) execution.Decision {
	g := execution.Grant{Image: digest, Runtime: "runc", Limits: limits(), Env: []string{"MODE"}}
	for _, tool := range credentials {
		g.Credentials = append(g.Credentials, execution.Credential{Tool: tool})
	}
	return execution.Decision{Effect: execution.EffectAllow, Grant: g, Revision: "sha256:rev"}
}

func exited(code int) execution.Result {
	return execution.Result{Outcome: execution.OutcomeExited, ExitCode: &code, Stdout: []byte("out")}
}

// world is every part that the gateway needs, each as its field says, and the
// order in which they were called.
type world struct {
	mu      sync.Mutex
	events  []string
	records []execution.Record

	image      func(language, image string) (execution.Image, error)
	decide     func(execution.Question) execution.Decision
	unlendable error               // of every credential
	exposed    []execution.Exposed // by every loan
	loan       execution.Loan      // the last
	lend       func() ([]execution.Lease, error)
	revoke     func(context.Context) ([]execution.Lease, error)
	execute    func(context.Context, execution.Job) (execution.Result, error)
	append     func(context.Context, execution.Record) error
	memory     *memory
	tools      *gateway.Tools
	// What sandboxes do.
	openSession func(context.Context, execution.Session) error
	putFile     func(context.Context, string, []byte) error
	getFile     func(context.Context, string, int64) ([]byte, error)
	sessions    *sessionMemory
}

func newWorld() *world {
	return &world{
		openSession: func(context.Context, execution.Session) error { return nil },
		putFile:     func(context.Context, string, []byte) error { return nil },
		getFile:     func(context.Context, string, int64) ([]byte, error) { return []byte("content"), nil },
		sessions:    &sessionMemory{},
		image: func(string, string) (execution.Image, error) {
			return execution.Image{Name: "python", Digest: digest}, nil
		},
		decide: func(execution.Question) execution.Decision { return allow() },
		lend:   func() ([]execution.Lease, error) { return []execution.Lease{{Tool: "github", ID: "l1"}}, nil },
		revoke: func(context.Context) ([]execution.Lease, error) {
			return []execution.Lease{{Tool: "github", ID: "l1", Revoked: true}}, nil
		},
		execute: func(context.Context, execution.Job) (execution.Result, error) { return exited(0), nil },
		append:  func(context.Context, execution.Record) error { return nil },
		memory:  &memory{},
	}
}

func (w *world) saw(event string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, event)
}

func (w *world) history() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.events, " ")
}

func (w *world) recorded() []execution.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.records)
}

// Resolve, Decide, Explain, Lend, Revoke, Execute and Append are the interfaces of gateway.
func (w *world) Resolve(_ context.Context, language, image string) (execution.Image, error) {
	w.saw("resolve")
	return w.image(language, image)
}

func (w *world) Decide(_ context.Context, q execution.Question) execution.Decision {
	w.saw("decide")
	return w.decide(q)
}

func (w *world) Explain(_ context.Context, q execution.Question, full bool) execution.Explanation {
	w.saw("explain")
	e := execution.Explanation{Decision: w.decide(q), Input: []byte(`{"v":1}`)}
	if full {
		e.Trace = "Enter data.execgate.decision"
	}
	return e
}

func (w *world) Check([]execution.Credential) error { return w.unlendable }

func (w *world) Lend(_ context.Context, loan execution.Loan) (execution.Lent, error) {
	w.saw("lend")
	w.mu.Lock()
	w.loan = loan
	w.mu.Unlock()
	leases, err := w.lend()
	return execution.Lent{Leases: leases, Exposed: w.exposed}, err
}

func (w *world) Revoke(ctx context.Context, _ string) ([]execution.Lease, error) {
	w.saw("revoke")
	return w.revoke(ctx)
}

func (w *world) Execute(ctx context.Context, job execution.Job) (execution.Result, error) {
	w.saw("execute")
	return w.execute(ctx, job)
}

// OpenSession, CloseSession, PutFile and GetFile are gateway.Sandboxes.
func (w *world) OpenSession(ctx context.Context, s execution.Session) error {
	w.saw("open_session")
	return w.openSession(ctx, s)
}

func (w *world) CloseSession(context.Context, string) error {
	w.saw("close_session")
	return nil
}

func (w *world) PutFile(ctx context.Context, _, path string, content []byte) error {
	w.saw("put_file")
	return w.putFile(ctx, path, content)
}

func (w *world) GetFile(ctx context.Context, _, path string, most int64) ([]byte, error) {
	w.saw("get_file")
	return w.getFile(ctx, path, most)
}

func (w *world) Append(ctx context.Context, r execution.Record) (uint64, error) {
	w.saw(string(r.Type))
	checked.Add(r)
	if err := w.append(ctx, r); err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Seq = uint64(len(w.records))
	w.records = append(w.records, r)
	return r.Seq, nil
}

// AppendLater is as good as Append, but that nobody learns the number.
func (w *world) AppendLater(r execution.Record, lost func(error)) {
	if _, err := w.Append(context.Background(), r); err != nil {
		lost(err)
	}
}

func (w *world) service(t testing.TB) *gateway.Service {
	t.Helper()
	s, err := gateway.NewService(w.config())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) config() gateway.ServiceConfig {
	return gateway.ServiceConfig{
		Images: w, Decider: w, Lender: w, Executor: w, Recorder: w, Executions: w.memory, Sandboxes: w, Sessions: w.sessions,
		Tools:  w.tools,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func caller() execution.Principal {
	return execution.Principal{
		Subject: "ak_caller", Tenant: "acme", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey,
	}
}

func call() gateway.Call {
	return gateway.Call{
		Principal: caller(), Request: execution.Request{Language: "python", Code: "print(1)"},
		RequestID: "rq_1", TraceID: strings.Repeat("a", 32),
	}
}

// doorman knows one token for each role, "role/tenant", and fails with the code
// of a token "fail/code".
type doorman struct{}

func (doorman) Authenticate(_ context.Context, credential execution.Secret) (execution.Principal, error) {
	first, second, ok := strings.Cut(credential.Reveal(), "/")
	switch {
	case ok && first == "fail" && second == "unavailable":
		return execution.Principal{}, &execution.Error{Kind: execution.KindUnavailable, Err: fmt.Errorf("disk of /var/lib gone")}
	case ok && first == "fail":
		return execution.Principal{}, &execution.Error{Kind: execution.KindUnauthenticated, Code: second, Err: named("ak_known")}
	case ok && slices.Contains(execution.Roles(), execution.Role(first)):
		return execution.Principal{Subject: "ak_" + first, Tenant: second, Roles: []execution.Role{execution.Role(first)}, Method: execution.MethodAPIKey}, nil
	default:
		return execution.Principal{}, &execution.Error{Kind: execution.KindUnauthenticated, Code: "unknown"}
	}
}

type named string

func (n named) Error() string { return "key " + string(n) }
func (n named) KeyID() string { return string(n) }

// ring keeps keys in memory.
type ring struct {
	w    *world
	mu   sync.Mutex
	keys []execution.Key
}

func (r *ring) CreateKey(ctx context.Context, ask execution.Key, before func(execution.Key) error) (execution.Key, execution.Secret, error) {
	if len(ask.Roles) == 0 {
		return execution.Key{}, execution.Secret{}, &execution.Error{
			Kind: execution.KindInvalid, Fields: []execution.FieldError{{Pointer: "/roles", Detail: "must name at least one role"}},
		}
	}
	ask.ID, ask.Created = execution.NewID(execution.PrefixKey, time.Now()), time.UnixMilli(1_700_000_000_000).UTC()
	if err := before(ask); err != nil {
		return execution.Key{}, execution.Secret{}, err
	}
	if err := ctx.Err(); err != nil {
		return execution.Key{}, execution.Secret{}, err
	}
	r.w.saw("insert")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys = append(r.keys, ask)
	return ask, execution.NewSecret(ask.ID + ".topsecret"), nil
}

func (r *ring) RevokeKey(ctx context.Context, id string, before func(execution.Key) error) (execution.Key, error) {
	key, err := r.Key(ctx, id)
	if err != nil {
		return key, err
	}
	if err := before(key); err != nil {
		return key, err
	}
	if err := ctx.Err(); err != nil {
		return key, err
	}
	r.w.saw("revoke_key")
	return key, nil
}

func (r *ring) Key(_ context.Context, id string) (execution.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range r.keys {
		if key.ID == id {
			return key, nil
		}
	}
	return execution.Key{}, &execution.Error{Kind: execution.KindNotFound, Code: "key_not_found"}
}

func (r *ring) Keys(context.Context) ([]execution.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.keys), nil
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
