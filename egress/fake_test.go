package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/execution/recordtest"
)

// checked holds every record that a test makes against the schema that ships.
var checked recordtest.Checked

func TestMain(m *testing.M) { os.Exit(checked.Run(m)) }

// memory is an audit log in memory.
type memory struct {
	fail func(execution.Record) error // nil: nothing fails
	gate chan struct{}                // where not nil, a record waits for it

	mu      sync.Mutex
	records []execution.Record
}

func (m *memory) Append(ctx context.Context, r execution.Record) (uint64, error) {
	checked.Add(r)
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if m.fail != nil {
		if err := m.fail(r); err != nil {
			return 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r.Seq = uint64(len(m.records))
	m.records = append(m.records, r)
	return r.Seq, nil
}

func (m *memory) all() []execution.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.records)
}

// codes are what the records say, in their order.
func (m *memory) codes() (codes []string) {
	for _, r := range m.all() {
		switch {
		case r.EgressDecided != nil && r.EgressDecided.Effect == execution.EffectAllow:
			codes = append(codes, "allow")
		case r.EgressDecided != nil:
			codes = append(codes, "deny "+r.EgressDecided.Code)
		default:
			codes = append(codes, "end "+r.EgressEnded.Error)
		}
	}
	return codes
}

// addresses answers every name with the same.
type addresses []netip.Addr

func (a addresses) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) { return a, nil }

var loopback = addresses{netip.MustParseAddr("127.0.0.1")}

// patience is how long anything may take on a busy machine.
const patience = 3 * time.Minute

// newBroker returns one that may connect to this machine, and that is as patient as the
// test where c does not say otherwise.
func newBroker(t testing.TB, c Config) *Broker {
	t.Helper()
	if c.ResolveTimeout == 0 {
		c.ResolveTimeout = patience
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = patience
	}
	if c.RecordBudget == 0 {
		c.RecordBudget = patience
	}
	c.AllowedNetworks = append(c.AllowedNetworks, netip.MustParsePrefix("127.0.0.0/8"))
	if c.Resolver == nil {
		c.Resolver = loopback
	}
	b, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	b.explainWait = patience
	return b
}

// lengthening tries with a wait after which something is given up, and with longer and
// longer ones where it fails: a machine that is busy may hold up what should be quicker.
// The last wait is longer than what any machine takes.
func lengthening(t *testing.T, wait time.Duration, try func(t testing.TB, wait time.Duration)) {
	t.Helper()
	for ; wait < time.Minute; wait *= 4 {
		a := &attempt{TB: t}
		done := make(chan struct{})
		go func() { // which an attempt may end
			defer close(done)
			try(a, wait)
		}()
		<-done
		if a.said() == nil {
			return
		}
		t.Logf("with a wait of %v: %q", wait, a.said())
	}
	try(t, wait)
}

// attempt keeps its failures to itself.
type attempt struct {
	testing.TB
	mu       sync.Mutex
	failures []string
}

func (a *attempt) said() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failures
}

func (a *attempt) Errorf(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failures = append(a.failures, fmt.Sprintf(format, args...))
}

func (a *attempt) Error(args ...any) { a.Errorf("%s", fmt.Sprintln(args...)) }

func (a *attempt) Fatalf(format string, args ...any) {
	a.Errorf(format, args...)
	runtime.Goexit()
}

func (a *attempt) Fatal(args ...any) { a.Fatalf("%s", fmt.Sprintln(args...)) }

// listen returns a listener on this machine, and the destination by which the job
// of jobTo reaches it.
func listen(t testing.TB) (*net.TCPListener, execution.Destination) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, execution.Destination{Host: "db.test", Port: l.Addr().(*net.TCPAddr).Port}
}

// serve gives each connection that l accepts to handle, until the test ends.
func serve(t testing.TB, l net.Listener, handle func(c *net.TCPConn)) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
}

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// asker is who asked for the job of jobTo.
func asker() *execution.Principal {
	return &execution.Principal{Tenant: "acme", Subject: "key_7", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey}
}

func jobTo(to execution.Destination, budget execution.NetworkBudget) execution.Job {
	return execution.Job{
		ID: "exec_1", Owner: execution.Owner{Tenant: "acme", Subject: "key_7"},
		Roles: asker().Roles, Method: asker().Method, RequestID: "rq_1", TraceID: traceID,
		Grant: execution.Grant{Network: execution.Network{
			Rules:  []execution.NetworkRule{{Host: to.Host, Ports: []int{to.Port}, Private: true, Mode: execution.NetworkForward}},
			Budget: budget,
		}},
	}
}

// pair returns the two ends of a connection: the program's and the gateway's.
func pair(t testing.TB) (program, gateway *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c, s
}

// carried is a connection under way.
type carried struct {
	*net.TCPConn // the program's end
	done         chan struct{}
}

func carry(t testing.TB, ctx context.Context, b *Broker, job execution.Job, to execution.Destination) carried {
	t.Helper()
	program, gateway := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Carry(ctx, &job, nil, to, gateway)
	}()
	return carried{program, done}
}

// wait waits for the end of Carry.
func (c carried) wait(t testing.TB) {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatal("Carry does not return")
	}
}

// noneBefore fails where somebody has connected to l before now.
func noneBefore(t testing.TB, l *net.TCPListener) {
	t.Helper()
	mark, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer mark.Close()
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if first.RemoteAddr().String() != mark.LocalAddr().String() {
		t.Errorf("%s has connected", first.RemoteAddr())
	}
}
