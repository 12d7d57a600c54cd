package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/execgate/execgate/execution"
)

// readAll reads until the end, of whatever kind it is.
func readAll(t testing.TB, c net.Conn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		t.Fatalf("the connection does not end; read %.100q", got)
	}
	return string(got)
}

func write(t testing.TB, c net.Conn, what string) {
	t.Helper()
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatal(err)
	}
}

func TestForwardIsCarriedAndRecorded(t *testing.T) {
	l, to := listen(t)
	serve(t, l, func(c *net.TCPConn) {
		got, err := io.ReadAll(c) // until the program says that nothing more comes
		if err != nil {
			t.Error(err)
		}
		write(t, c, "you said "+string(got))
	})
	log := &memory{}
	b := newBroker(t, Config{Recorder: log})
	c := carry(t, t.Context(), b, jobTo(to, plenty), execution.Destination{Host: "DB.test.", Port: to.Port})
	write(t, c, "hello")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c); got != "you said hello" {
		t.Errorf("the program reads %q", got)
	}
	c.wait(t)
	denied := execution.Destination{Host: "Evil\x1bc\n.test", Port: 443}
	carry(t, t.Context(), b, jobTo(to, plenty), denied).wait(t)

	who := asker()
	want := []execution.Record{
		{Seq: 0, Type: execution.RecordEgressDecided, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressDecided: &execution.EgressDecided{
			Host: "db.test", Port: to.Port, Mode: execution.NetworkForward, Effect: execution.EffectAllow, Address: l.Addr().String(),
		}},
		{Seq: 1, Type: execution.RecordEgressEnded, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressEnded: &execution.EgressEnded{
			DecidedSeq: 0, BytesOut: 5, BytesIn: 14,
		}},
		{Seq: 2, Type: execution.RecordEgressDecided, Execution: "exec_1", Principal: who, RequestID: "rq_1", TraceID: traceID, EgressDecided: &execution.EgressDecided{
			Host: denied.Host, Port: 443, Effect: execution.EffectDeny, Code: codeHostInvalid,
		}},
	}
	ignore := []cmp.Option{cmpopts.IgnoreFields(execution.Record{}, "Time"), cmpopts.IgnoreFields(execution.EgressEnded{}, "WallMS")}
	if diff := cmp.Diff(want, log.all(), ignore...); diff != "" {
		t.Error(diff)
	}
	for _, r := range log.all() {
		if age := time.Since(r.Time); age < 0 || age > patience || r.Time.Location() != time.UTC {
			t.Errorf("the time of record %d is %s", r.Seq, r.Time)
		}
	}
	stats := Stats{
		Requests: map[RequestOutcome]uint64{}, RequestSeconds: map[string]Histogram{},
		Executions: 1, BytesOut: 5, BytesIn: 14,
		Connections: map[Outcome]uint64{{execution.EffectAllow, ""}: 1, {execution.EffectDeny, codeHostInvalid}: 1},
	}
	if diff := cmp.Diff(stats, b.Stats()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Usage{Requests: 1, Bytes: 19}, b.End("exec_1")); diff != "" {
		t.Error(diff)
	}
	if b.Stats().Executions != 0 || b.End("exec_1") != (Usage{}) {
		t.Error("the execution is not forgotten")
	}
}

func TestHostInARecordIsBounded(t *testing.T) {
	_, to := listen(t)
	log := &memory{}
	carry(t, t.Context(), newBroker(t, Config{Recorder: log}), jobTo(to, plenty), execution.Destination{Host: strings.Repeat("a\xff", 1<<16), Port: 1}).wait(t)
	if got := log.all()[0].EgressDecided.Host; len(got) > 3*maxRecordHost || !strings.HasPrefix(got, "a\uFFFDa") {
		t.Errorf("%d bytes: %.20q", len(got), got)
	}
}

func TestNothingIsConnectedToBeforeTheRecordIsDurable(t *testing.T) {
	l, to := listen(t)
	log := &memory{gate: make(chan struct{})}
	c := carry(t, t.Context(), newBroker(t, Config{Recorder: log}), jobTo(to, plenty), to)
	write(t, c, "hello")
	noneBefore(t, l)
	close(log.gate)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	write(t, accepted, "it is recorded now")
	accepted.Close()
	if got := readAll(t, c); got != "it is recorded now" {
		t.Errorf("the program reads %q", got)
	}
	c.Close()
	c.wait(t)
}

func TestNothingIsConnectedToWithoutItsRecord(t *testing.T) {
	l, to := listen(t)
	log := &memory{fail: func(execution.Record) error { return errors.New("disk full") }}
	b := newBroker(t, Config{Recorder: log})
	c := carry(t, t.Context(), b, jobTo(to, plenty), to)
	c.wait(t)
	if got := readAll(t, c); got != "" {
		t.Errorf("the program reads %q", got)
	}
	noneBefore(t, l)
	if got := b.Stats(); got.RecordsFailed != 1 || got.Connections[Outcome{execution.EffectDeny, codeUnrecorded}] != 1 {
		t.Errorf("%+v", got)
	}
	if e, ok := errors.AsType[*execution.Error](b.Ready(t.Context())); !ok || e.Kind != execution.KindUnavailable {
		t.Errorf("Ready = %v, want unavailable", b.Ready(t.Context()))
	}
}

func TestEndThatIsNotRecorded(t *testing.T) {
	l, to := listen(t)
	serve(t, l, func(*net.TCPConn) {})
	var broken atomic.Bool
	broken.Store(true)
	log := &memory{fail: func(r execution.Record) error {
		if broken.Load() && r.Type == execution.RecordEgressEnded {
			return errors.New("disk full")
		}
		return nil
	}}
	b := newBroker(t, Config{Recorder: log})
	one := func() {
		c := carry(t, t.Context(), b, jobTo(to, plenty), to)
		_ = c.CloseWrite()
		c.wait(t)
	}
	one()
	if b.Ready(t.Context()) == nil || b.Stats().RecordsFailed != 1 {
		t.Errorf("Ready = nil, %+v", b.Stats())
	}
	broken.Store(false)
	one()
	if err := b.Ready(t.Context()); err != nil {
		t.Errorf("Ready = %v after a record that went well", err)
	}
}

func TestPrivateAddressNeedsRuleAndConfiguration(t *testing.T) {
	for _, tt := range []struct {
		private bool
		allowed string
		want    []string
	}{
		{true, "127.0.0.0/8", []string{"allow", "end "}},
		{false, "127.0.0.0/8", []string{"deny " + codeAddressRefused}},
		{true, "127.0.0.2/32", []string{"deny " + codeAddressRefused}},
		{true, "10.0.0.0/8", []string{"deny " + codeAddressRefused}},
	} {
		l, to := listen(t)
		log := &memory{}
		b, err := New(Config{
			Recorder: log, Resolver: loopback, AllowedNetworks: []netip.Prefix{netip.MustParsePrefix(tt.allowed)},
			ResolveTimeout: patience, DialTimeout: patience,
		})
		if err != nil {
			t.Fatal(err)
		}
		job := jobTo(to, plenty)
		job.Grant.Network.Rules[0].Private = tt.private
		if len(tt.want) == 2 {
			serve(t, l, func(*net.TCPConn) {})
		}
		c := carry(t, t.Context(), b, job, to)
		_ = c.CloseWrite() // where it is refused there is nothing to close any more
		c.wait(t)
		if diff := cmp.Diff(tt.want, log.codes()); diff != "" {
			t.Errorf("private %v, allowed %s: %s", tt.private, tt.allowed, diff)
		}
		if len(tt.want) == 1 {
			noneBefore(t, l)
		}
	}
}

func TestAddressesAreTriedInTurn(t *testing.T) {
	l, to := listen(t)
	serve(t, l, func(c *net.TCPConn) { write(t, c, "hello") })
	closed := netip.MustParseAddr("127.0.0.2") // nobody listens there
	for _, tt := range []struct {
		addresses addresses
		want      []string
	}{
		{addresses{closed, loopback[0]}, []string{"allow", "end dial_failed", "allow", "end "}},
		{addresses{closed}, []string{"allow", "end dial_failed"}},
		{addresses{closed, closed, netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.4"), loopback[0]}, []string{"allow", "end dial_failed", "allow", "end dial_failed", "allow", "end dial_failed"}},
	} {
		log := &memory{}
		c := carry(t, t.Context(), newBroker(t, Config{Recorder: log, Resolver: tt.addresses}), jobTo(to, plenty), to)
		_ = c.CloseWrite()
		readAll(t, c)
		c.wait(t)
		if diff := cmp.Diff(tt.want, log.codes()); diff != "" {
			t.Error(diff)
		}
		for i, r := range log.all() {
			if d := r.EgressDecided; d != nil && i == 0 && d.Address != netip.AddrPortFrom(tt.addresses[0], uint16(to.Port)).String() {
				t.Errorf("the first address is %s", d.Address)
			}
			if e := r.EgressEnded; e != nil && e.DecidedSeq != r.Seq-1 {
				t.Errorf("record %d ends %d", r.Seq, e.DecidedSeq)
			}
		}
	}
}

// asked remembers what was looked up.
type asked struct {
	addresses
	queries *[]string
}

func (a asked) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	*a.queries = append(*a.queries, network+" "+host)
	return a.addresses.LookupNetIP(ctx, network, host)
}

// net.Resolver gives IPv4 addresses of a hosts file as v4-mapped. The dot at the end
// keeps it from trying a search list.
func TestMappedAddressIsTheOneInIt(t *testing.T) {
	l, to := listen(t)
	serve(t, l, func(*net.TCPConn) {})
	for _, tt := range []struct {
		addr string
		want []string
	}{
		{"::ffff:127.0.0.1", []string{"allow", "end "}},
		{"::ffff:10.0.0.5", []string{"deny " + codeAddressRefused}},
		{"::ffff:169.254.169.254", []string{"deny " + codeAddressRefused}},
	} {
		log, queries := &memory{}, []string{}
		b := newBroker(t, Config{Recorder: log, Resolver: asked{addresses{netip.MustParseAddr(tt.addr)}, &queries}})
		c := carry(t, t.Context(), b, jobTo(to, plenty), to)
		_ = c.CloseWrite() // where it is refused there is nothing to close any more
		c.wait(t)
		if diff := cmp.Diff(tt.want, log.codes()); diff != "" {
			t.Errorf("%s: %s", tt.addr, diff)
		}
		if got := log.all()[0].EgressDecided.Address; len(tt.want) == 2 && got != l.Addr().String() {
			t.Errorf("%s: recorded is %s", tt.addr, got)
		}
		if diff := cmp.Diff([]string{"ip db.test."}, queries); diff != "" {
			t.Errorf("%s: looked up: %s", tt.addr, diff)
		}
	}
}

func TestEndOfTheExecutionEndsTheTries(t *testing.T) {
	l, to := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	log := &memory{fail: func(execution.Record) error {
		cancel()
		return nil
	}}
	b := newBroker(t, Config{Recorder: log, Resolver: addresses{loopback[0], netip.MustParseAddr("127.0.0.2")}})
	carry(t, ctx, b, jobTo(to, plenty), to).wait(t)
	if diff := cmp.Diff([]string{"allow", "end " + codeCancelled}, log.codes()); diff != "" {
		t.Error(diff)
	}
	noneBefore(t, l)
}

func TestOnlyTheCheckedAddressIsConnectedTo(t *testing.T) {
	checked := netip.MustParseAddrPort("127.0.0.1:5432")
	for _, tt := range []struct {
		network, text string
		ok            bool
	}{
		{"tcp4", "127.0.0.1:5432", true},
		{"tcp4", "127.0.0.2:5432", false},
		{"tcp4", "127.0.0.1:5433", false},
		{"tcp6", "[::ffff:127.0.0.1]:5432", false},
		{"udp4", "127.0.0.1:5432", false},
		{"tcp4", "localhost:5432", false},
		{"", "", false},
	} {
		if err := verify(tt.network, tt.text, checked); (err == nil) != tt.ok {
			t.Errorf("%s %s: %v", tt.network, tt.text, err)
		}
	}
}

func TestConnectingTakesNoLongerThanItMay(t *testing.T) {
	l, _ := listen(t)
	_, err := dial(t.Context(), netip.MustParseAddrPort(l.Addr().String()), time.Nanosecond)
	if code := dialCode(t.Context(), err); code != codeDialTimeout {
		t.Errorf("%v: %s", err, code)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = dial(ctx, netip.MustParseAddrPort(l.Addr().String()), time.Minute)
	if code := dialCode(ctx, err); code != codeCancelled {
		t.Errorf("%v: %s", err, code)
	}
}
