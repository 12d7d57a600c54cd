package egress

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/execgate/execgate/execution"
)

// liar is a DNS server that answers as its tests want.
type liar struct {
	answer func(query int, q dns.Question) []dns.RR // query counts those of the type, from 0

	mu    sync.Mutex
	asked map[string]int // by type and name
}

// startLiar returns a resolver that asks the liar.
func startLiar(t *testing.T, l *liar) *net.Resolver {
	t.Helper()
	l.asked = map[string]int{}
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: l}, {Listener: tcp, Handler: l, ReadTimeout: patience}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		serving.Go(func() {
			if err := s.ActivateAndServe(); err != nil {
				t.Errorf("serve DNS: %v", err)
			}
		})
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		address := udp.LocalAddr()
		if strings.HasPrefix(network, "tcp") {
			address = tcp.Addr()
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, address.String())
		switch c := c.(type) {
		case *net.UDPConn:
			return patientUDP{c}, err
		case *net.TCPConn:
			return patientTCP{c}, err
		}
		return c, err
	}}
}

// patientUDP and patientTCP are connections on which an answer is waited for until its
// resolver has no time left. A resolver of Go's asks again after five seconds
// (resolv.conf(5)), and on a busy machine that is one question more than a test counts.
type (
	patientUDP struct{ *net.UDPConn }
	patientTCP struct{ *net.TCPConn }
)

// SetDeadline implements net.Conn: closing ends the wait, too.
func (p patientUDP) SetDeadline(time.Time) error {
	return p.UDPConn.SetDeadline(time.Now().Add(patience))
}

// SetDeadline implements net.Conn.
func (p patientTCP) SetDeadline(time.Time) error {
	return p.TCPConn.SetDeadline(time.Now().Add(patience))
}

func (l *liar) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	q := m.Question[0]
	key := dns.TypeToString[q.Qtype] + " " + q.Name
	l.mu.Lock()
	query := l.asked[key]
	// Over TCP is asked again what was cut off over UDP.
	overTCP := w.LocalAddr().Network() == "tcp"
	if !overTCP {
		l.asked[key]++
	}
	l.mu.Unlock()
	reply := new(dns.Msg).SetReply(m)
	reply.Compress, reply.RecursionAvailable = true, true // without the latter an empty answer counts as that of a broken server
	if reply.Answer = l.answer(query, q); reply.Answer == nil {
		return // nor does it say that it has none
	}
	if !overTCP {
		reply.Truncate(dns.MinMsgSize)
	}
	_ = w.WriteMsg(reply) // who does not wait for it has what the test looks at
}

func (l *liar) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]int{}
	for k, n := range l.asked {
		all[k] = n
	}
	return all
}

// zone are answers as in a zone file: name, TTL where it matters, type, value.
func zone(q dns.Question, lines ...string) []dns.RR {
	all := []dns.RR{}
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			panic(fmt.Sprintf("%q: %v", line, err))
		}
		if rr.Header().Rrtype == q.Qtype || rr.Header().Rrtype == dns.TypeCNAME {
			all = append(all, rr)
		}
	}
	return all
}

func TestNameThatLies(t *testing.T) {
	thousands := make([]string, 3000)
	for i := range thousands {
		thousands[i] = fmt.Sprintf("db.test. A 127.0.%d.%d", i/250, i%250+1)
	}
	for _, tt := range []struct {
		name    string
		answers []string
		want    string
	}{
		{"a granted address", []string{"db.test. A 127.0.0.1"}, ""},
		{"the same many times", []string{"db.test. A 127.0.0.1", "db.test. A 127.0.0.1"}, ""},
		{"a CNAME to a granted address", []string{"db.test. CNAME other.test.", "other.test. A 127.0.0.1"}, ""},
		{"private, not granted", []string{"db.test. A 10.0.0.5"}, codeAddressRefused},
		{"good and private", []string{"db.test. A 127.0.0.1", "db.test. A 10.0.0.5"}, codeAddressRefused},
		{"public and private", []string{"db.test. A 10.0.0.5", "db.test. A 8.8.8.8"}, codeAddressRefused},
		{"good, and private by IPv6", []string{"db.test. A 127.0.0.1", "db.test. AAAA fd00::1"}, codeAddressRefused},
		{"metadata", []string{"db.test. A 169.254.169.254"}, codeAddressRefused},
		{"metadata by NAT64", []string{"db.test. AAAA 64:ff9b::a9fe:a9fe"}, codeAddressRefused},
		{"metadata, mapped", []string{"db.test. AAAA ::ffff:169.254.169.254"}, codeAddressRefused},
		{"private, mapped", []string{"db.test. A 127.0.0.1", "db.test. AAAA ::ffff:10.0.0.5"}, codeAddressRefused},
		{"unspecified", []string{"db.test. A 0.0.0.0"}, codeAddressRefused},
		{"unspecified by IPv6", []string{"db.test. AAAA ::"}, codeAddressRefused},
		{"loopback by IPv6, not granted", []string{"db.test. AAAA ::1"}, codeAddressRefused},
		{"a CNAME to inside", []string{"db.test. CNAME inside.test.", "inside.test. A 10.0.0.5"}, codeAddressRefused},
		{"a CNAME to nothing", []string{"db.test. CNAME inside.test."}, codeNameUnresolved},
		{"a CNAME to itself", []string{"db.test. CNAME db.test."}, codeNameUnresolved},
		{"nothing", []string{}, codeNameUnresolved},
		{"thousands", thousands, codeTooManyAddresses},
		{"no answer at all", nil, codeResolveTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dnsServer := &liar{answer: func(_ int, q dns.Question) []dns.RR {
				if tt.answers == nil {
					return nil
				}
				return zone(q, tt.answers...)
			}}
			l, to := listen(t)
			serve(t, l, func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")) })
			log := &memory{}
			config := Config{Recorder: log, Resolver: startLiar(t, dnsServer)}
			if tt.answers == nil {
				config.ResolveTimeout = 100 * time.Millisecond
			}
			c := carry(t, t.Context(), newBroker(t, config), jobTo(to, plenty), to)
			_ = c.CloseWrite() // where it is refused there is nothing to close any more
			got := readAll(t, c)
			c.wait(t)
			if want := map[bool]string{true: "hello"}[tt.want == ""]; got != want {
				t.Errorf("the program reads %q, want %q", got, want)
			}
			want := []string{"deny " + tt.want}
			if tt.want == "" {
				want = []string{"allow", "end "}
			}
			if diff := cmp.Diff(want, log.codes()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What a name answered before counts for nothing, whatever its TTL, and what was
// checked is what is connected to: there is no second lookup in between.
func TestNameThatChangesItsAnswer(t *testing.T) {
	dnsServer := &liar{answer: func(query int, q dns.Question) []dns.RR {
		if query%2 == 0 {
			return zone(q, "db.test. 2147483647 A 127.0.0.1")
		}
		return zone(q, "db.test. 2147483647 A 169.254.169.254")
	}}
	l, to := listen(t)
	serve(t, l, func(*net.TCPConn) {})
	log := &memory{}
	b := newBroker(t, Config{Recorder: log, Resolver: startLiar(t, dnsServer)})
	for range 4 {
		c := carry(t, t.Context(), b, jobTo(to, plenty), to)
		_ = c.CloseWrite()
		c.wait(t)
	}
	want := []string{"allow", "end ", "deny " + codeAddressRefused, "allow", "end ", "deny " + codeAddressRefused}
	if diff := cmp.Diff(want, log.codes()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"A db.test.": 4, "AAAA db.test.": 4}, dnsServer.counts()); diff != "" {
		t.Errorf("lookups: %s", diff)
	}
}

func TestDeniedNameIsNeverLookedUp(t *testing.T) {
	dnsServer := &liar{answer: func(_ int, q dns.Question) []dns.RR { return zone(q, q.Name+" A 127.0.0.1") }}
	_, to := listen(t)
	log := &memory{}
	b := newBroker(t, Config{Recorder: log, Resolver: startLiar(t, dnsServer)})
	job := jobTo(to, plenty)
	job.Grant.Network.Rules = append(job.Grant.Network.Rules, execution.NetworkRule{Host: "*.tls.test", Ports: []int{443}, Mode: "quic"})
	spent := jobTo(to, execution.NetworkBudget{})
	spent.ID = "exec_2"
	for _, tt := range []struct {
		job execution.Job
		to  execution.Destination
	}{
		{job, execution.Destination{Host: "secret-data.evil.test", Port: 443}},
		{job, execution.Destination{Host: "db.test", Port: to.Port ^ 1}},
		{job, execution.Destination{Host: "x.tls.test", Port: 443}},
		{job, execution.Destination{Host: strings.Repeat("a", 300) + ".test", Port: 443}},
		{job, execution.Destination{Host: "127.0.0.1", Port: to.Port}},
		{spent, to},
	} {
		carry(t, t.Context(), b, tt.job, tt.to).wait(t)
	}
	if asked := dnsServer.counts(); len(asked) > 0 {
		t.Errorf("looked up: %v", asked)
	}
	want := []string{
		"deny " + codeNotGranted, "deny " + codeNotGranted, "deny " + codeUnsupported,
		"deny " + codeHostInvalid, "deny " + codeHostIsAddress, "deny " + codeBudgetInvalid,
	}
	if diff := cmp.Diff(want, log.codes()); diff != "" {
		t.Error(diff)
	}
}
