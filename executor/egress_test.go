package executor_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// echo is an Egress that answers each connection with where it was to go, and
// then with what comes, until the program writes no more.
type echo struct {
	mu      sync.Mutex
	carried []string       // execution, name and port of each
	now     map[string]int // connections of each execution
	most    int            // at once
	// refuse says which names are closed at once.
	refuse func(name string) bool
	// serve is instead of the echo, where it is not nil.
	serve func(ctx context.Context, name string, conn net.Conn)
}

func (e *echo) Authority() (*tls.Certificate, error) { return executor.NewTestAuthority() }

func (e *echo) Carry(ctx context.Context, job *execution.Job, _ *tls.Certificate, to execution.Destination, conn net.Conn) {
	e.mu.Lock()
	e.carried = append(e.carried, fmt.Sprintf("%s %s:%d", job.ID, to.Host, to.Port))
	if e.now == nil {
		e.now = map[string]int{}
	}
	e.now[job.ID]++
	e.most = max(e.most, e.now[job.ID])
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.now[job.ID]--
	}()
	switch {
	case e.refuse != nil && e.refuse(to.Host):
	case e.serve != nil:
		e.serve(ctx, to.Host, conn)
	default:
		fmt.Fprintf(conn, "%s:%d\n", to.Host, to.Port)
		io.Copy(conn, conn)
		io.WriteString(conn, "end\n")
	}
}

// Find finds what is of these tests' network.
func (e *echo) Find(_ context.Context, job *execution.Job, name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.carried = append(e.carried, fmt.Sprintf("%s finds %s", job.ID, name))
	return slices.ContainsFunc(job.Grant.Network.Rules, func(r execution.NetworkRule) bool { return r.Names(name) })
}

// seen are the connections that were carried, and none of them any more.
func (e *echo) seen(t testing.TB) []string {
	t.Helper()
	return e.seenOf(t, "")
}

// seenOf are those of the executions whose ids begin so.
func (e *echo) seenOf(t testing.TB, id string) (list []string) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for job, n := range e.now {
		if n != 0 && strings.HasPrefix(job, id) {
			t.Errorf("%d connections of %s are carried though it has ended", n, job)
		}
	}
	e.carried = slices.DeleteFunc(e.carried, func(to string) bool {
		its := strings.HasPrefix(to, id)
		if its {
			list = append(list, to)
		}
		return its
	})
	return list
}

// atOnce is how many an execution had at once, at most, since it was last asked.
func (e *echo) atOnce() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	most := e.most
	e.most = 0
	return most
}

func carriedBy(egress executor.Egress) func(*executor.Config) {
	return func(c *executor.Config) { c.Egress = egress }
}

// reaching is a network of two names at some ports.
func reaching(ports ...int) execution.Network {
	return execution.Network{
		Rules: []execution.NetworkRule{
			{Host: "db.example", Ports: ports, Mode: execution.NetworkForward},
			{Host: "*.api.example", Ports: ports, Mode: execution.NetworkTunnel},
		},
		Budget: execution.NetworkBudget{Requests: 1000, Bytes: 1 << 30, RequestsPerS: 1000, Connections: 60},
	}
}

// networked is the job with a network.
func networked(job execution.Job, network execution.Network) execution.Job {
	job.Grant.Network = network
	return job
}

// dial is what programs of these tests begin with: talk connects to a name, says
// something, ends its way, and returns all that comes.
const dial = `
import errno, os, socket, struct, sys, time
def talk(host, port, text=b'hello\n'):
    with socket.create_connection((host, port), 60) as s:
        s.sendall(text)
        s.shutdown(socket.SHUT_WR)
        got = b''
        while True:
            piece = s.recv(65536)
            if not piece: return got
            got += piece
def failure(f, *args):
    try: return f(*args)
    except OSError as e:
        reset = e.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN) # by when it was noticed
        return 'reset' if reset else type(e).__name__
`

func TestProgramReachesAName(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, networked(under(runtime, python(dial+`
assert open('/etc/resolv.conf').read().split() == ['nameserver', '127.0.0.1']
print(talk('db.example', 5432))
print(talk('DB.Example.', 5432))
print(talk('x.api.example', 443))
first, again, other = (socket.gethostbyname(n) for n in ('db.example', 'DB.EXAMPLE', 'x.api.example'))
print(first == again, first == other, first.startswith('127.'))
print(socket.getaddrinfo('localhost', 443, socket.AF_INET)[0][4], failure(socket.gethostbyname, 'a b.example'))
`)), reaching(443, 5432)))
		want := strings.TrimSpace(`
b'db.example:5432\nhello\nend\n'
b'db.example:5432\nhello\nend\n'
b'x.api.example:443\nhello\nend\n'
True False True
('127.0.0.1', 443) gaierror
`)
		if out := exitedWell(t, r); out != want {
			t.Errorf("%s", describe(r))
		}
		if seen := strings.Join(egress.seen(t), "\n"); strings.Count(seen, "db.example:5432") != 2 || strings.Count(seen, "x.api.example:443") != 1 {
			t.Errorf("carried:\n%s", seen)
		}
		r = run(t, e, networked(under(runtime, command("/bin/bash", "-c", `exec 3<>/dev/tcp/db.example/5432; head -n 1 <&3`)), reaching(5432)))
		if out := exitedWell(t, r); out != "db.example:5432" {
			t.Errorf("bash: %s", describe(r))
		}
		egress.seen(t)
	})
}

// Where names are hidden, one that is not granted does not exist, of any type, and the
// egress is asked for each once.
func TestHiddenNames(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress), func(c *executor.Config) { c.HideNames = true })
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, networked(under(runtime, python(dial+`
def why(name, family):
    try: return socket.getaddrinfo(name, 443, family)[0][4][0][:4]
    except socket.gaierror as e: return {socket.EAI_NONAME: 'none', socket.EAI_NODATA: 'no data'}.get(e.errno, e)
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC):
    print(*(why(n, family) for n in ('db.example', 'DB.Example.', 'x.api.example', 'api.example', 'evil.example', 'x.evil.example')))
print(talk('db.example', 443))
`)), reaching(443)))
		want := strings.TrimSpace(`
127. 127. 127. none none none
no data no data no data none none none
127. 127. 127. none none none
b'db.example:443\nhello\nend\n'
`)
		if out := exitedWell(t, r); out != want {
			t.Errorf("%s", describe(r))
		}
		seen := egress.seen(t)
		for i := range seen {
			_, seen[i], _ = strings.Cut(seen[i], " ")
		}
		asked := []string{"finds db.example", "finds x.api.example", "finds api.example", "finds evil.example", "finds x.evil.example", "db.example:443"}
		if !slices.Equal(seen, asked) {
			t.Errorf("asked %q, want %q", seen, asked)
		}
	})
}

// A program that was granted no network has neither a resolver nor a listener, and
// a gateway that carries nothing refuses one.
func TestNoNetworkUnlessGranted(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, under(runtime, python(dial+`
print(failure(talk, 'db.example', 443), failure(talk, '127.0.0.1', 53), failure(talk, '127.64.0.1', 443), open('/proc/net/tcp').read().count('\n'))
`)))
		if out := exitedWell(t, r); out != "gaierror ConnectionRefusedError ConnectionRefusedError 1" {
			t.Errorf("%s", describe(r))
		}
	})
	if seen := egress.seen(t); len(seen) > 0 {
		t.Errorf("carried: %v", seen)
	}
	none := newExecutor(t)
	image := resolve(t, none, "python")
	grant := execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted(), Network: reaching(443)}
	if _, err := none.Execute(t.Context(), execution.Job{ID: "ex_1", Language: "python", Grant: grant}); err == nil {
		t.Error("a gateway that carries nothing runs it")
	}
	grant.Session = execution.SessionGrant{IdleS: 60, AbsoluteS: 600, Max: 4}
	if err := none.OpenSession(t.Context(), execution.Session{ID: "se_1", Grant: grant, Language: "python"}); err == nil {
		t.Error("a gateway that carries nothing opens a session for it")
	}
}

// Either side may end its way and go on with the other, and neither is given more
// than it takes.
func TestConnectionsEndEachWayAlone(t *testing.T) {
	t.Parallel()
	const size = 3 << 20 // more than all that is held on the way
	over := make(chan string, 1)
	egress := &echo{serve: func(_ context.Context, name string, conn net.Conn) {
		if name == "after.api.example" {
			io.WriteString(conn, <-over)
			return
		}
		conn.Write(make([]byte, size))
		conn.(interface{ CloseWrite() error }).CloseWrite()
		n, err := io.Copy(io.Discard, conn)
		over <- fmt.Sprint(n, " ", err)
	}}
	e := newExecutor(t, carriedBy(egress))
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, networked(under(runtime, python(dial+`
s = socket.create_connection(('db.example', 443), 60)
time.sleep(0.3) # nothing is read meanwhile, and nothing lost
got = 0
while piece := s.recv(65536): got += len(piece)
s.sendall(bytes(2 * got))
s.shutdown(socket.SHUT_WR)
print(got, talk('after.api.example', 443))
`)), reaching(443)))
		if out := exitedWell(t, r); out != "3145728 b'6291456 <nil>'" {
			t.Errorf("%s", describe(r))
		}
		egress.seen(t)
	})
}

// What the egress resets, the program sees reset; what it closes, closed.
func TestConnectionsThatAreCutShort(t *testing.T) {
	t.Parallel()
	egress := &echo{refuse: func(name string) bool { return name == "no.example" }, serve: func(_ context.Context, _ string, conn net.Conn) {
		io.WriteString(conn, "a part")
		conn.Read(make([]byte, 1))
		conn.(interface{ Abort() error }).Abort()
	}}
	e := newExecutor(t, carriedBy(egress))
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, networked(under(runtime, python(dial+`
print(failure(talk, 'no.example', 443) in (b'', 'reset'))
def cut(write):
    s = socket.create_connection(('db.example', 443), 60)
    print(s.recv(10))
    s.sendall(b'x')
    while True:
        if write: s.sendall(b'x' * 65536)
        elif not s.recv(10): return 'the end'
print(failure(cut, False), failure(cut, True) == 'reset')
`)), reaching(443)))
		if out := exitedWell(t, r); out != "True\nb'a part'\nb'a part'\nreset True" {
			t.Errorf("%s", describe(r))
		}
		egress.seen(t)
	})
}

func TestManyConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, networked(under(runtime, python(dial+`
open = [(i, socket.create_connection((f'n{i}.api.example', 443), 60)) for i in range(50)]
for i, s in open: assert s.recv(1) == b'n'
for i, s in open:
    s.sendall(bytes([i]) * 100_000)
    s.shutdown(socket.SHUT_WR)
for i, s in reversed(open):
    got = b''.join(iter(lambda: s.recv(65536), b''))
    assert b'n' + got == f'n{i}.api.example:443\n'.encode() + bytes([i]) * 100_000 + b'end\n', (i, len(got), got[:40])
    s.close()
for i in range(100): assert talk('db.example', 443).endswith(b'hello\nend\n')
`)), reaching(443)))
		exitedWell(t, r)
		if seen, most := egress.seen(t), egress.atOnce(); len(seen) != 150 || most < 50 {
			t.Errorf("%d carried, %d at once", len(seen), most)
		}
	})
}

// A connection past the budget is reset, and those that there are go on.
func TestBudgetOfConnections(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	network := reaching(443)
	network.Budget.Connections = 3
	underEach(t, func(t *testing.T, runtime string) {
		r := run(t, e, networked(under(runtime, python(dial+`
first = [socket.create_connection(('db.example', 443), 60) for i in range(3)]
print([s.recv(100) for s in first] == [b'db.example:443\n'] * 3, failure(talk, 'db.example', 443))
for s in first: s.sendall(b'x'); assert s.recv(1) == b'x'
first.pop().close()
while failure(talk, 'db.example', 443) != b'db.example:443\nhello\nend\n': time.sleep(0.01)
for s in first: s.sendall(b'x'); assert s.recv(1) == b'x'
`)), network))
		if out := exitedWell(t, r); out != "True reset" {
			t.Errorf("%s", describe(r))
		}
		egress.seen(t)
		if most := egress.atOnce(); most != 3 {
			t.Errorf("%d were carried at once", most)
		}
	})
}

// What a program left open ends with it: the egress is told, and has returned
// before Execute does, however the program ends.
func TestConnectionsEndWithTheirProgram(t *testing.T) {
	t.Parallel()
	const open = dial + `
held = [socket.create_connection(('db.example', 443), 60) for _ in range(3)]
for s in held: assert s.recv(5) == b'ready'
print('held', flush=True)
`
	underEach(t, func(t *testing.T, runtime string) {
		for name, h := range map[string]hostile{
			"by itself":              {job: python(open), want: execution.OutcomeExited},
			"at once":                {job: python(open + "os._exit(3)"), want: execution.OutcomeExited, exit: 3},
			"by its timeout":         {job: python(open + "while True: pass"), limits: brief, want: execution.OutcomeTimedOut},
			"by ignoring the signal": {job: python(open + "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1)"), limits: brief, want: execution.OutcomeTimedOut},
			"by its output":          {job: python(open + "while True: print('x' * 4096)"), want: execution.OutcomeOutputLimit},
			"by a flood":             {job: python(open + "while True:\n    for s in held: s.send(b'x' * 65536)"), limits: brief, want: execution.OutcomeTimedOut},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var ends atomic.Int32
				egress := &echo{serve: func(ctx context.Context, _ string, conn net.Conn) {
					io.WriteString(conn, "ready")
					io.Copy(io.Discard, conn)
					<-ctx.Done()
					ends.Add(1)
				}}
				h.stdout = "held"
				h.before = func() {
					egress.seen(t)
					ends.Store(0)
				}
				h.job = networked(h.job, reaching(443))
				h.under(runtime).attack(t, newExecutor(t, carriedBy(egress)))
				if seen := egress.seen(t); len(seen) != 3 {
					t.Errorf("carried: %v", seen)
				}
				if n := ends.Load(); n != 3 {
					t.Errorf("%d connections have ended", n)
				}
			})
		}
	})
}

// A sandbox that was started ahead serves a program with a network.
func TestWarmSandboxHasTheNetworkOfItsProgram(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, warm(1), carriedBy(egress))
	untilParked(t, e, 1)
	r := run(t, e, networked(python(dial+`print(talk('db.example', 443))`), reaching(443)))
	if out := exitedWell(t, r); out != `b'db.example:443\nhello\nend\n'` || !r.Usage.Warm {
		t.Errorf("%s", describe(r))
	}
	egress.seen(t)
	untilParked(t, e, 1)
	r = run(t, e, python(dial+`print(failure(talk, 'db.example', 443))`))
	if out := exitedWell(t, r); out != "gaierror" || !r.Usage.Warm {
		t.Errorf("without a network: %s", describe(r))
	}
}

// A sandbox is reused by its owner under an equal network and no other, with
// nothing left of the connections, listeners and names of the program before.
func TestReuseWithANetwork(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	image := resolve(t, e, "python")
	n := 0
	execute := func(code string, network execution.Network) execution.Result {
		t.Helper()
		n++
		job := python(dial + code)
		job.ID, job.Owner = fmt.Sprintf("ex_%s_%d", t.Name(), n), somebody
		job.Grant = execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted(), Reuse: execution.ReusePrincipal, Network: network}
		r, err := e.Execute(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const left = `
print(talk('db.example', 443), socket.gethostbyname('db.example'))
held = [socket.create_connection(('db.example', 443), 60) for _ in range(20)]
for s in held[:5]: s.sendall(b'x' * 300000)
for s in held[5:10]: s.shutdown(socket.SHUT_WR)
for s in held[10:15]: s.close()
asked = socket.create_connection(('127.0.0.1', 53), 60)
`
	for i := range 4 {
		r := execute(left, reaching(443, 5432))
		want := fmt.Sprintf(`b'db.example:443\nhello\nend\n' 127.64.0.%d`, i+1)
		if out := exitedWell(t, r); out != want || r.Usage.Warm != (i > 0) {
			t.Errorf("want %s: %s", want, describe(r))
		}
		for _, to := range egress.seen(t) {
			if want := fmt.Sprintf("ex_%s_%d db.example:443", t.Name(), n); to != want {
				t.Errorf("carried for %s, want %s", to, want)
			}
		}
	}
	r := execute(`print(failure(talk, 'db.example', 443), failure(talk, '127.0.0.1', 53))`, execution.Network{})
	if out := exitedWell(t, r); out != "gaierror ConnectionRefusedError" || r.Usage.Warm {
		t.Errorf("without a network: %s", describe(r))
	}
	if r := execute(`print(1)`, reaching(443)); r.Usage.Warm {
		t.Errorf("another network: %s", describe(r))
	}
}

// In a session a connection belongs to the execution that made it. Those of one
// that has ended are reset, and its addresses lead nowhere.
func TestSessionWithANetwork(t *testing.T) {
	t.Parallel()
	egress := &echo{}
	e := newExecutor(t, carriedBy(egress))
	s, execute := inSession(t, e, "python")
	with := func(job execution.Job, network execution.Network) execution.Result {
		t.Helper()
		job.Session, job.Owner, job.Grant = s.ID, s.Owner, s.Grant
		job.ID, job.Grant.Network = execution.NewID("ex_", time.Now()), network
		r, err := e.Execute(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range egress.seen(t) {
			if !strings.HasPrefix(to, job.ID+" ") {
				t.Errorf("carried for %s, want %s", to, job.ID)
			}
		}
		return r
	}
	wantRun(t, with(python(dial+`
kept, old = socket.create_connection(('db.example', 443), 60), socket.gethostbyname('db.example')
print(kept.recv(100), old)`), reaching(443)), "b'db.example:443\\n' 127.64.0.1\n")
	wantRun(t, execute(python(`print(failure(kept.recv, 1), failure(talk, 'db.example', 443), failure(talk, old, 443))`)),
		"reset gaierror ConnectionRefusedError\n")
	wantRun(t, with(python(`
print(failure(talk, old, 443) == 'reset', talk('x.api.example', 443), socket.gethostbyname('x.api.example'))`), reaching(443)),
		"True b'x.api.example:443\\nhello\\nend\\n' 127.64.0.2\n")

	// A port that the interpreter has taken is not given to a name, and it is said.
	for _, c := range []struct{ listen, port string }{
		{"taken = socket.create_server(('0.0.0.0', 5432))", "5432"},
		{"taken.close(); taken = socket.create_server(('127.64.0.3', 5432))", "5432"},
		{"taken.close(); taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); taken.bind(('0.0.0.0', 53))", "53"},
	} {
		wantRun(t, execute(python(c.listen)), "")
		r := with(python("print(talk('db.example', 5432))"), reaching(443, 5432))
		if *r.ExitCode != 126 || r.Session != execution.SessionKept || !strings.Contains(string(r.Stderr), "port "+c.port+", ") {
			t.Errorf("%s: session %s, %s", c.listen, r.Session, describe(r))
		}
	}
	wantRun(t, execute(python("taken.close()")), "")
	wantRun(t, with(python("print(talk('db.example', 5432))"), reaching(443, 5432)), "b'db.example:5432\\nhello\\nend\\n'\n")
}
