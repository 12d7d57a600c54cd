package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"golang.org/x/sys/unix"
)

const logID = "execgate/audit/0123456789abcdef"

// patience is how long anything may take on a busy machine.
const patience = 3 * time.Minute

// memoryLog is a Log whose records are made when they are read.
type memoryLog struct {
	mu     sync.Mutex
	count  uint64
	oldest uint64
	grown  chan struct{}
	make   func(seq uint64) execution.Record
	fail   error // of the next Follow
}

func newLog(count uint64) *memoryLog {
	return &memoryLog{count: count, grown: make(chan struct{}), make: decidedRecord}
}

func (l *memoryLog) grow(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count += n
	close(l.grown)
	l.grown = make(chan struct{})
}

func (l *memoryLog) Progress() (durable, signed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count, l.count
}

func (l *memoryLog) Follow(ctx context.Context, from uint64) iter.Seq2[[]execution.Record, error] {
	return func(yield func([]execution.Record, error) bool) {
		l.mu.Lock()
		next, err := max(from, l.oldest), l.fail
		l.fail = nil
		l.mu.Unlock()
		if err != nil {
			yield(nil, err)
			return
		}
		for ctx.Err() == nil {
			l.mu.Lock()
			count, grown := l.count, l.grown
			l.mu.Unlock()
			if next >= count {
				select {
				case <-grown:
				case <-ctx.Done():
				}
				continue
			}
			var records []execution.Record
			for ; next < count && len(records) < 300; next++ {
				records = append(records, l.make(next))
			}
			if !yield(records, nil) {
				return
			}
		}
	}
}

func decidedRecord(seq uint64) execution.Record {
	return execution.Record{
		Seq: seq, Type: execution.RecordDecided, Time: time.Date(2026, 1, 2, 3, 4, 5, int(seq%1e9), time.UTC), Execution: fmt.Sprint("ex-", seq),
		Principal: &execution.Principal{Subject: "key-1", Tenant: []string{"default", "ci"}[seq%2], Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey},
		RequestID: "r-1", Decided: &execution.Decided{
			Action: execution.ActionExecute, RequestSHA256: strings.Repeat("ab", 32), Image: "python", Language: "python",
			Decision: execution.Decision{Effect: execution.EffectAllow, Revision: "sha256:" + strings.Repeat("cd", 32)},
		},
	}
}

// quick is a pace for tests.
var quick = pace{
	first: 2 * time.Millisecond, most: 20 * time.Millisecond, slow: 30 * time.Millisecond, attempt: patience,
	save: 5 * time.Millisecond, drain: 100 * time.Millisecond, settle: 50 * time.Millisecond,
}

// running are exporters under test.
type running struct {
	*Exporters
	t    testing.TB
	log  *lines
	stop func()
}

type setting func(*Config)

func withPace(p pace) setting        { return func(c *Config) { c.pace = p } }
func withStdout(w io.Writer) setting { return func(c *Config) { c.Stdout = w } }

// start runs exporters until the test ends, or stop is called.
func start(t testing.TB, log Log, dir string, sinks []Sink, settings ...setting) *running {
	t.Helper()
	r := &running{t: t, log: &lines{}}
	cfg := Config{Log: log, LogID: logID, Dir: dir, Sinks: sinks, Version: "1.0.0", Logger: slog.New(slog.NewJSONHandler(r.log, nil)), pace: quick}
	for _, s := range settings {
		s(&cfg)
	}
	var err error
	if r.Exporters, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the exporters do not stop")
		}
	})
	t.Cleanup(r.stop)
	return r
}

// waitAcknowledged waits until everything before seq is acknowledged, durably, by all.
func (r *running) waitAcknowledged(seq uint64) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%d records are acknowledged", seq), func() bool { return r.Acknowledged() >= seq })
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		late := time.Now().After(deadline)
		if condition() {
			return
		}
		if late {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// lines is what was written, safe for concurrent use.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// identity is what every exported record carries.
type identity struct {
	Log string `json:"log"`
	Seq uint64 `json:"seq"`
}

// arrivals are the records that a receiver has had, in their order.
type arrivals struct {
	mu  sync.Mutex
	all []identity
}

func (a *arrivals) add(t testing.TB, texts ...[]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, text := range texts {
		var id identity
		if err := json.Unmarshal(text, &id); err != nil {
			t.Errorf("a record is no JSON: %v: %q", err, text)
		}
		a.all = append(a.all, id)
	}
}

func (a *arrivals) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.all)
}

// check holds that every record from first up to next arrived, in order of first
// arrival, and returns how many arrived again.
func (a *arrivals) check(t testing.TB, first, next uint64) (again int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	want := first
	for _, id := range a.all {
		switch {
		case id.Log != logID:
			t.Fatalf("a record is of the log %q", id.Log)
		case id.Seq == want:
			want++
		case id.Seq < want:
			again++
		default:
			t.Fatalf("record %d arrived before record %d", id.Seq, want)
		}
	}
	if want != next {
		t.Fatalf("records up to %d arrived, not up to %d", want, next)
	}
	return again
}

// collector is an HTTP receiver: answer says what becomes of a request, whose records are
// taken where it is 200.
type collector struct {
	*httptest.Server
	arrivals
	t      testing.TB
	answer func(w http.ResponseWriter, r *http.Request, body []byte) int
}

func newCollector(t testing.TB, answer func(w http.ResponseWriter, r *http.Request, body []byte) int) *collector {
	c := &collector{t: t, answer: answer}
	c.Server = httptest.NewServer(http.HandlerFunc(c.receive))
	t.Cleanup(c.Close)
	return c
}

func (c *collector) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut off by the sender
	}
	status := http.StatusOK
	if c.answer != nil {
		status = c.answer(w, r, body)
	}
	if status == http.StatusOK {
		c.take(body)
	}
	w.WriteHeader(status)
}

func (c *collector) take(body []byte) {
	var records []json.RawMessage
	if err := json.Unmarshal(body, &records); err != nil {
		c.t.Errorf("a body is no array: %v", err)
	}
	for _, r := range records {
		c.add(c.t, r)
	}
}

func (c *collector) sink() Sink { return Sink{Name: "siem", Type: TypeHTTP, URL: c.URL} }

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// reserved is an address of this machine that nobody else is given, also while nobody
// listens at it.
type reserved struct {
	t       testing.TB
	address *net.TCPAddr
}

// reserve binds a socket that never listens, until the test ends. With SO_REUSEADDR,
// which net sets, a listener may have the port all the same: socket(7).
func reserve(t testing.TB) *reserved {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return &reserved{t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}}
}

func (r *reserved) Addr() *net.TCPAddr { return r.address }

// open listens at the address.
func (r *reserved) open() net.Listener {
	listener, err := net.Listen("tcp", r.address.String())
	if err != nil {
		r.t.Fatal(err)
	}
	return listener
}
