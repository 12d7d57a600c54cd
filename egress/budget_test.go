package egress

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

func TestBytesEndAtTheBudget(t *testing.T) {
	const budget, connections = 1_000_003, 200
	l, to := listen(t)
	var received atomic.Int64
	var arrived, servers sync.WaitGroup
	arrived.Add(connections)
	servers.Add(connections)
	serve(t, l, func(c *net.TCPConn) {
		arrived.Done()
		defer servers.Done()
		n, _ := io.Copy(io.Discard, c)
		received.Add(n)
	})
	bounded := plenty
	bounded.Bytes = budget
	log := &memory{}
	b := newBroker(t, Config{Recorder: log})
	all := make([]carried, connections)
	for i := range all {
		all[i] = carry(t, t.Context(), b, jobTo(to, bounded), to)
	}
	arrived.Wait() // all are allowed before the first spends anything
	var writers sync.WaitGroup
	for _, c := range all {
		writers.Go(func() {
			_, _ = c.Write(make([]byte, 2*budget/connections)) // until it is cut off
			_ = c.CloseWrite()
		})
	}
	writers.Wait()
	for _, c := range all {
		c.wait(t)
	}
	servers.Wait()
	if received.Load() != budget {
		t.Errorf("the destination received %d bytes, the budget is %d", received.Load(), budget)
	}
	var recorded int64
	for _, r := range log.all() {
		if r.EgressEnded != nil {
			recorded += r.EgressEnded.BytesOut + r.EgressEnded.BytesIn
		}
	}
	if used := b.End("exec_1"); recorded != budget || used.Bytes != budget {
		t.Errorf("recorded are %d bytes, used %d, want %d", recorded, used.Bytes, budget)
	}
}

func TestBytesPastTheBudgetAreCutOff(t *testing.T) {
	l, to := listen(t)
	received := make(chan string, 1)
	serve(t, l, func(c *net.TCPConn) { received <- readAll(t, c) })
	log := &memory{}
	budget := plenty
	budget.Bytes = 3
	c := carry(t, t.Context(), newBroker(t, Config{Recorder: log}), jobTo(to, budget), to)
	write(t, c, "secret")
	c.wait(t)
	if got := <-received; got != "sec" {
		t.Errorf("the destination reads %q", got)
	}
	if diff := cmp.Diff([]string{"allow", "end " + codeBytesSpent}, log.codes()); diff != "" {
		t.Error(diff)
	}
}

func TestConnectionsAtOnceAreExact(t *testing.T) {
	const callers = 200
	for _, tt := range []struct {
		code   string
		budget func(b *execution.NetworkBudget)
		want   int
	}{
		{codeConnectionsExceeded, func(b *execution.NetworkBudget) { b.Connections = 50 }, 50},
		{codeRequestsSpent, func(b *execution.NetworkBudget) { b.Requests = 120 }, 120},
	} {
		l, to := listen(t)
		var accepted atomic.Int64
		serve(t, l, func(c *net.TCPConn) {
			accepted.Add(1)
			write(t, c, "x")
			_, _ = io.Copy(io.Discard, c)
		})
		budget := plenty
		tt.budget(&budget)
		b := newBroker(t, Config{Recorder: &memory{}})
		all := make([]carried, callers)
		for i := range all {
			all[i] = carry(t, t.Context(), b, jobTo(to, budget), to)
		}
		var served atomic.Int64
		var reading sync.WaitGroup
		for _, c := range all {
			reading.Go(func() { // a byte where it is allowed, the end where not
				if n, _ := c.Read(make([]byte, 1)); n == 1 {
					served.Add(1)
				}
			})
		}
		reading.Wait()
		if served.Load() != int64(tt.want) || accepted.Load() != int64(tt.want) {
			t.Errorf("%s: %d served and %d accepted, want %d", tt.code, served.Load(), accepted.Load(), tt.want)
		}
		for _, c := range all {
			c.Close()
			c.wait(t)
		}
		if got := b.Stats(); got.Active != 0 || got.Connections[Outcome{execution.EffectDeny, tt.code}] != uint64(callers-tt.want) {
			t.Errorf("%+v", got)
		}
		// Those that ended have made room at once, and have not given requests back.
		again := carry(t, t.Context(), b, jobTo(to, budget), to)
		_ = again.CloseWrite() // where it is refused there is nothing to close any more
		if got, want := readAll(t, again), map[bool]string{true: "x"}[tt.code == codeConnectionsExceeded]; got != want {
			t.Errorf("%s: a connection after all others reads %q, want %q", tt.code, got, want)
		}
		again.wait(t)
	}
}

func TestFloodOfRefusalsDoesNotFloodTheLog(t *testing.T) {
	_, to := listen(t)
	log := &memory{}
	b := newBroker(t, Config{Recorder: log})
	budget := plenty
	budget.Requests = 20
	job := jobTo(to, budget)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				program, gateway := net.Pipe()
				b.Carry(t.Context(), &job, nil, execution.Destination{Host: "evil.test", Port: 443}, gateway)
				program.Close()
			}
		})
	}
	all.Wait()
	counted := map[string]int{}
	for _, code := range log.codes() {
		counted[code]++
	}
	if diff := cmp.Diff(map[string]int{"deny " + codeNotGranted: 20, "deny " + codeRefusalsSpent: 1}, counted); diff != "" {
		t.Error(diff)
	}
	stats := b.Stats()
	if stats.Unrecorded != 4000-21 || stats.Connections[Outcome{execution.EffectDeny, codeNotGranted}] != 4000 {
		t.Errorf("%+v", stats)
	}
	if used := b.End(job.ID); used != (Usage{Unrecorded: 4000 - 21}) {
		t.Errorf("%+v", used)
	}
}

// What policy denies is not in the budget, and still cannot be asked about without end.
func TestPolicyIsAskedNoMoreOftenThanTheRate(t *testing.T) {
	const rate, tries = 5, 40
	var asked atomic.Int64
	s := newSandbox(t, Config{Decider: policyOf(func(execution.EgressRequest) execution.Decision {
		asked.Add(1)
		return execution.Deny("", execution.Reason{Code: "never"})
	})}, nil)
	s.job.Grant.Network.Decide = execution.DecideRequest
	s.job.Grant.Network.Budget.RequestsPerS = rate
	c := s.client(true)
	began, limited := time.Now(), 0
	for range tries {
		res, body := s.do(c, request(t, "GET", s.url("/"), ""))
		switch p := problemIn(t, res, body); p.Code {
		case "never":
		case codeRateExceeded:
			limited++
		default:
			t.Errorf("%+v", p)
		}
	}
	// The window moves: in each second that has begun there may be as many.
	if most := rate * (1 + int64(time.Since(began)/time.Second)); asked.Load() > most || asked.Load()+int64(limited) != tries {
		t.Errorf("policy was asked %d times, at most %d; %d were refused", asked.Load(), most, limited)
	}
	if used := s.broker.account(t.Context(), &s.job).usage(); used.Requests != 0 {
		t.Errorf("%d requests are counted", used.Requests)
	}
}
