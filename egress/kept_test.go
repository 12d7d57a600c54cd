package egress

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// keeping is a sandbox whose calls are of a tool with a key that is the same for each.
func keeping(t testing.TB, c Config, handle http.HandlerFunc) *sandbox {
	if c.Credentials == nil {
		c.Credentials = &lender{fields: map[string]map[string]string{"api": {"token": secret}}}
	}
	s := calling(t, c, handle)
	s.bind("api", execution.Binding{Mode: "bearer"}).Engine = execution.EngineKV2
	s.broker.kept.idle = patience
	t.Cleanup(s.broker.Close)
	return s
}

// call is one more execution that calls the tool.
func (s *sandbox) call(change func(*execution.Job)) execution.Result {
	s.t.Helper()
	job := s.job
	job.ID = execution.NewID(execution.PrefixExecution, time.Now())
	job.Grant.Credentials = slices.Clone(job.Grant.Credentials)
	for i, c := range job.Grant.Credentials {
		job.Grant.Credentials[i].Bind = slices.Clone(c.Bind)
	}
	if change != nil {
		change(&job)
	}
	defer s.broker.End(job.ID)
	return s.broker.Call(s.t.Context(), job)
}

// Calls of one principal's tool, one after the other, are carried by one connection, each
// looked up, decided and recorded.
func TestCallsOfOneUseShareAConnection(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		tries := map[bool]int{false: 5, true: 1}[http2] // net/http keeps none of HTTP/1 whose writer was held up
		n := 0
		for range tries {
			if n = callsOfOneUse(t, http2); n == 1 {
				break
			}
		}
		if n != 1 {
			t.Errorf("HTTP 2 is %v: %d connections", http2, n)
		}
	}
}

// callsOfOneUse makes some, and returns over how many connections they were carried.
func callsOfOneUse(t *testing.T, http2 bool) int {
	looked := 0
	s := keeping(t, Config{Resolver: answering(func() []netip.Addr { looked++; return loopback })}, nil)
	if !http2 {
		s.upstream.TLS.NextProtos = []string{"http/1.1"}
	}
	for range 5 {
		for method, body := range map[string]string{"GET": "", "POST": `{"a":1}`} {
			if r := s.call(func(j *execution.Job) {
				call := *j.Call
				call.Method, call.Body = method, []byte(body)
				j.Call = &call
			}); r.Status != 200 || !strings.Contains(string(r.Stdout), "[redacted]") {
				t.Errorf("%+v: %s", r, r.Stdout)
			}
		}
	}
	n, stats := s.connections(), s.broker.Stats()
	if looked != 10 || n == 1 && (stats.Reused != 9 || stats.Kept != 1) {
		t.Errorf("HTTP 2 is %v: %d times used again, %d lookups, %d kept", http2, stats.Reused, looked, stats.Kept)
	}
	want := slices.Repeat([]string{"allow", "end "}, 10)
	if diff := cmp.Diff(want, s.log.codes()); diff != "" {
		t.Error(diff)
	}
	if got := s.requests()[9]; got.Proto != map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[http2] {
		t.Errorf("it was %s", got.Proto)
	}
	return n
}

// What differs in whose a call is, or what for, has a connection of its own: nobody is on
// one that somebody else was on.
func TestConnectionIsOfOneUse(t *testing.T) {
	for name, change := range map[string]func(*sandbox, *execution.Job){
		"another tenant":            func(_ *sandbox, j *execution.Job) { j.Owner.Tenant = "other" },
		"another principal":         func(_ *sandbox, j *execution.Job) { j.Owner.Subject = "key_8" },
		"another tool":              func(_ *sandbox, j *execution.Job) { j.Tool = "more" },
		"a program, not its caller": func(_ *sandbox, j *execution.Job) { j.Parent = "exec_parent" },
		"a key that has changed": func(s *sandbox, _ *execution.Job) {
			s.broker.credentials.(*lender).fields["api"]["token"] = secret + "2"
		},
		"a field more": func(s *sandbox, _ *execution.Job) {
			s.broker.credentials.(*lender).fields["api"]["note"] = secret + "2"
		},
		"a key that is set otherwise": func(_ *sandbox, j *execution.Job) {
			j.Grant.Credentials[0].Bind[0].Mode, j.Grant.Credentials[0].Bind[0].Name = "header", "X-Key"
		},
		"no key": func(_ *sandbox, j *execution.Job) { j.Grant.Credentials = nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := keeping(t, Config{}, nil)
			for range 2 {
				s.call(nil)
			}
			if n := s.connections(); n != 1 {
				t.Fatalf("%d connections for calls that are alike", n)
			}
			if r := s.call(func(j *execution.Job) { change(s, j) }); r.Status != 200 || s.connections() != 2 {
				t.Errorf("status %d, %d connections", r.Status, s.connections())
			}
		})
	}
}

// Two programs of one principal do not share a connection, and one's ends with it.
func TestConnectionOfAProgramEndsWithIt(t *testing.T) {
	s := keeping(t, Config{}, nil)
	for _, parent := range []string{"exec_a", "exec_a", "exec_b"} {
		s.call(func(j *execution.Job) { j.Parent = parent })
	}
	if n := s.connections(); n != 2 || s.broker.Stats().Kept != 2 {
		t.Errorf("%d connections, %d kept", n, s.broker.Stats().Kept)
	}
	s.broker.End("exec_a")
	if n := s.broker.Stats().Kept; n != 1 {
		t.Errorf("%d are kept", n)
	}
	s.broker.End("exec_b")
	s.noneOpen()
}

// What the destination may take for authenticated as a connection, and what has carried a
// key that ends with its execution, is not kept.
func TestConnectionsThatAreNotKept(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*sandbox)
		answer func(http.Header)
	}{
		"NTLM":                           {answer: func(h http.Header) { h.Set("WWW-Authenticate", "NTLM TlRMTVNTUAACAAAA") }},
		"Negotiate among others":         {answer: func(h http.Header) { h.Add("WWW-Authenticate", `Basic realm="x", negotiate oYG2`) }},
		"a proxy's":                      {answer: func(h http.Header) { h.Set("Proxy-Authenticate", "Kerberos") }},
		"Persistent-Auth":                {answer: func(h http.Header) { h.Set("Persistent-Auth", "true") }},
		"closed by the destination":      {answer: func(h http.Header) { h.Set("Connection", "close") }},
		"a key of one execution":         {change: func(s *sandbox) { s.job.Grant.Credentials[0].Engine = execution.EngineDatabase }},
		"a key of an engine nobody says": {change: func(s *sandbox) { s.job.Grant.Credentials[0].Engine = "" }},
		"a ticket that is sent": {change: func(s *sandbox) {
			s.broker.credentials.(*lender).fields["api"]["token"] = "Negotiate " + secret
			s.job.Grant.Credentials[0].Bind[0].Mode, s.job.Grant.Credentials[0].Bind[0].Name = "header", "Authorization"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := keeping(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
				if tt.answer != nil {
					tt.answer(w.Header())
				}
			})
			if tt.change != nil {
				tt.change(s)
			}
			for range 3 {
				if r := s.call(nil); r.Status != 200 {
					t.Errorf("%+v: %s", r, r.Stdout)
				}
			}
			if n := s.connections(); n != 3 {
				t.Errorf("%d connections for 3 calls", n)
			}
		})
	}
}

// answering is a resolver whose answers may change.
type answering func() []netip.Addr

func (a answering) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return a(), nil
}

// Each call looks the name up, and checks it: one that has moved takes its callers with
// it, and one that has become refused is, whatever connection there is.
func TestKeptConnectionIsCheckedForEachCall(t *testing.T) {
	var answer []netip.Addr
	s := keeping(t, Config{Resolver: answering(func() []netip.Addr { return answer })}, nil)
	here, nobody := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.9")
	call := func(addrs ...netip.Addr) execution.Result {
		answer = addrs
		return s.call(nil)
	}
	if r := call(here); r.Status != 200 {
		t.Fatalf("%s", r.Stdout)
	}
	if p := refusedIn(t, call(nobody)); p.Code != codeDialFailed {
		t.Errorf("the name has moved, and the call is %+v", p)
	}
	for _, refused := range []string{"169.254.169.254", "10.0.0.1"} {
		if p := refusedIn(t, call(here, netip.MustParseAddr(refused))); p.Code != codeAddressRefused {
			t.Errorf("the name has %s, and the call is %+v", refused, p)
		}
	}
	if n := len(s.requests()); n != 1 {
		t.Fatalf("%d requests have arrived", n)
	}
	before := len(s.log.all())
	if r := call(nobody, here); r.Status != 200 || s.connections() != 1 {
		t.Errorf("status %d over %d connections", r.Status, s.connections())
	}
	records := s.log.all()[before:]
	if len(records) != 2 || records[0].EgressDecided.Address != s.upstream.Listener.Addr().String() {
		t.Errorf("it did not go where there is a connection, of what the name has: %+v", records)
	}
}

// What is kept is bounded in number and time, and closed with the broker.
func TestKeptConnectionsAreBounded(t *testing.T) {
	s := keeping(t, Config{}, nil)
	k := s.broker.kept
	k.most, k.mostOfTenant = 5, 3
	for i := range 10 {
		s.call(func(j *execution.Job) { j.Owner.Subject = fmt.Sprintf("key_%d", i) })
	}
	if n := s.broker.Stats().Kept; n != 3 {
		t.Errorf("%d are kept of one tenant", n)
	}
	if s.call(func(j *execution.Job) { j.Owner.Subject = "key_9" }); s.connections() != 10 {
		t.Error("the last one is not there any more")
	}
	if s.call(func(j *execution.Job) { j.Owner.Subject = "key_0" }); s.connections() != 11 {
		t.Error("the first one is still there")
	}
	for i := range 10 {
		s.call(func(j *execution.Job) { j.Owner.Tenant = fmt.Sprintf("tenant_%d", i) })
	}
	if n := s.broker.Stats().Kept; n != 5 {
		t.Errorf("%d are kept", n)
	}
	s.broker.Close()
	s.noneOpen()
	if s.call(nil); s.broker.Stats().Kept != 0 {
		t.Error("one is kept that was given back later")
	}
	s.noneOpen()

	s = keeping(t, Config{}, nil)
	s.broker.kept.idle = time.Millisecond
	s.call(nil)
	s.noneOpen()
	s.broker.kept.idle, s.broker.kept.age = keptIdle, 0
	if s.call(nil); s.broker.Stats().Kept != 0 {
		t.Error("one is kept that is too old")
	}
	s.noneOpen()
}

// Calls at once do not share a connection.
func TestConnectionIsOfOneCallAtATime(t *testing.T) {
	var both sync.WaitGroup
	both.Add(2)
	s := keeping(t, Config{}, func(http.ResponseWriter, *http.Request) {
		both.Done()
		both.Wait()
	})
	var calls sync.WaitGroup
	for i := range 2 {
		calls.Go(func() {
			job := s.job
			job.ID = fmt.Sprintf("exec_at_once_%d", i)
			if r := s.broker.Call(t.Context(), job); r.Status != 200 {
				t.Errorf("%+v: %s", r, r.Stdout)
			}
		})
	}
	calls.Wait()
	if n := s.connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// nothingKeptIsOpen waits until the broker has seen the end of every connection that it keeps.
func (s *sandbox) nothingKeptIsOpen() {
	s.t.Helper()
	k := s.broker.kept
	open := func() int {
		k.mu.Lock()
		defer k.mu.Unlock()
		return count(k.kept, func(c *kept) bool { return c.up.open.any() })
	}
	for until := time.Now().Add(patience); open() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			s.t.Fatalf("%d connections are kept as open", open())
		}
	}
}

// A connection that the destination has closed is not missed, also for what may not be
// sent twice.
func TestConnectionThatIsClosedMeanwhile(t *testing.T) {
	s := keeping(t, Config{}, nil)
	post := func(j *execution.Job) {
		call := *j.Call
		call.Method, call.Body = "POST", []byte(`{"a":1}`)
		j.Call = &call
	}
	for i := range 5 {
		if r := s.call(post); r.Status != 200 {
			t.Errorf("%+v: %s", r, r.Stdout)
		}
		s.upstream.CloseClientConnections()
		s.noneOpen()
		s.nothingKeptIsOpen()
		if n := len(s.requests()); n != i+1 {
			t.Errorf("%d requests of %d", n, i+1)
		}
		if end := s.log.all()[2*i+1].EgressEnded; end.BytesOut != 7 {
			t.Errorf("%d bytes are recorded", end.BytesOut)
		}
	}
}

// A body that is made anew counts once.
func TestRepeatedBodyCountsOnce(t *testing.T) {
	s := keeping(t, Config{}, nil)
	a := newAccount(execution.NetworkBudget{Bytes: 100})
	x := &exchange{intercepted: &intercepted{broker: s.broker, account: a}, watch: newWatch(time.Minute, func() {})}
	defer x.watch.stop()
	content := []byte(strings.Repeat("x", 60))
	again := (&sent{x: x}).again(content)
	first, _ := again()
	if _, err := io.ReadFull(first, make([]byte, 40)); err != nil {
		t.Fatal(err)
	}
	second, _ := again()
	if got, err := io.ReadAll(second); err != nil || string(got) != string(content) || a.bytes.Load() != 60 {
		t.Errorf("%q, %v, %d bytes are counted", got, err, a.bytes.Load())
	}
	a.take(30)
	more, _ := (&sent{x: x}).again(content)()
	if _, err := io.ReadAll(more); err != errBytesSpent || a.bytes.Load() != 100 {
		t.Errorf("%v, %d bytes are counted", err, a.bytes.Load())
	}
}

// An answer that nobody has asked for is not the next call's.
func TestUnaskedAnswerIsNobodys(t *testing.T) {
	s := keeping(t, Config{}, nil)
	closed := make(chan int64, 2) // connections
	l, to := listen(t)
	s.job.Call.To.Port, s.job.Grant.Credentials[0].Bind[0].Port, s.rule().Ports = to.Port, to.Port, []int{to.Port}
	var n atomic.Int64
	serve(t, l, func(conn *net.TCPConn) {
		mine, c := n.Add(1), tls.Server(conn, &tls.Config{Certificates: s.upstream.TLS.Certificates})
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			t.Error(err)
			return
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ncall%d", mine)
		if mine == 1 {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
		}
		_, _ = io.Copy(io.Discard, c)
		closed <- mine
	})
	for _, want := range []string{"call1", "call2"} {
		if r := s.call(nil); string(r.Stdout) != want {
			t.Errorf("%+v: %s", r, r.Stdout)
		}
		if want == "call1" {
			<-closed
		}
	}
	s.broker.Close()
}
