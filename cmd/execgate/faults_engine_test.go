package main

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// rests is a request for a program of the private engine that does not end by
// itself in a test.
var rests = python("print up\nsleep 55", `"limits":{"timeout_ms":60000}`)

// failed holds what a caller is told whose execution the engine failed, and
// what stands in the log of it.
func (g *gatewayUnderTest) failed(r reply) {
	g.t.Helper()
	p := r.refused(g.t, http.StatusServiceUnavailable)
	if p.Code != execution.CodeEngineUnavailable || p.RetryAfterMS == 0 || r.header.Get("Retry-After") == "" {
		g.t.Errorf("%+v %s", r.header, r.body)
	}
	if !g.accountsFor(p.Execution) {
		g.t.Errorf("no record of %s", r.body)
	}
	for _, record := range g.records() {
		if record.Execution == p.Execution && record.Ended != nil && record.Ended.ExitCode != nil {
			g.t.Errorf("an engine's failure has an exit code: %+v", record.Ended)
		}
	}
}

// lost is failed for an engine that is about to end: of a sandbox that it
// stopped it may still say so, and nothing worse.
func (g *gatewayUnderTest) lost(r reply) {
	g.t.Helper()
	if r.status != http.StatusOK {
		g.failed(r)
	} else if e := r.ok(g.t); e.Outcome != execution.OutcomeKilled || e.ExitCode != nil {
		g.t.Errorf("%+v", e)
	}
}

// An engine that is restarted, or killed, takes what runs on it along. Callers
// learn of it; the gateway goes on when it is back, and nothing is left.
func TestEngineIsRestarted(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"stop", "kill"} {
		t.Run(how, func(t *testing.T) {
			p := newPrivateEngine(t, 512)
			g := p.gateway("EXECGATE_EXECUTOR_WARM_TARGET", "2", "EXECGATE_EXECUTOR_WARM_MAX", "2")
			g.start()
			g.waitReady()
			g.waitParked(2)
			for round := range 2 {
				first := g.post(rests)
				p.waitSandboxes(3) // it runs, and two are parked again, or nearly
				second := g.post(rests)
				eventually(t, "both are decided", func() bool { return g.openOnes() == 2 })
				began := time.Now()
				p.order(how)
				g.lost(<-first)
				g.lost(<-second)
				t.Logf("round %d: the callers knew after %v", round, time.Since(began).Round(time.Millisecond))
				g.failed(g.execute(python("print 1")))

				p.order("start")
				g.waitReady()
				if e := g.execute(python("print 2")).ok(t); e.Stdout != "2\n" {
					t.Errorf("%+v", e)
				}
				eventually(t, "an execution is served by a sandbox that is kept ready", func() bool {
					return g.execute(python("print 3")).ok(t).Usage.Warm
				})
				eventually(t, "what the engine had is gone", func() bool { return len(p.sandboxes()) <= 2 })
			}
			if code := g.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			p.waitNothingLeft()
			g.verify()
		})
	}
}

// talks are the requests that an execution's life has, in its order.
var talks = []struct{ name, request string }{
	{"image", `^GET .*/images/.*/json`},
	{"create", `^POST .*/containers/create\?name=`},
	{"attach", `^POST .*/attach\?`},
	{"start", `^POST .*/start `},
	{"inspect", `^GET .*/containers/[0-9a-f]{64}/json`},
	{"stats", `^GET .*/stats\?`},
	{"kill", `^POST .*/kill\?`},
	{"remove", `^DELETE .*/containers/`},
}

// An engine that stops answering, whatever it is asked, costs a bounded time; it
// is all put right when it goes on.
func TestEngineHangs(t *testing.T) {
	t.Parallel()
	p := newPrivateEngine(t, 512)
	door := newGate(t, p.socket())
	g := p.gateway("EXECGATE_EXECUTOR_ENGINE", door.address(), "EXECGATE_EXECUTOR_START_TIMEOUT_MS", "6000")
	g.start()
	g.waitReady()
	for _, talk := range talks {
		t.Run(talk.name, func(t *testing.T) {
			// A machine that is busy may take as long as an engine that hangs, or not get
			// to what is asked in the time that there is: but not each time.
			most := 13 * time.Second
			for try := 1; ; try++ {
				asked, took := g.hangs(t, p, door, talk.request, talk.name == "kill", try)
				if asked && took <= most {
					return
				}
				if try == 5 {
					t.Fatalf("the engine was asked that: %v; the caller waited %v, and never less than %v", asked, took, most)
				}
			}
		})
	}
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.waitNothingLeft()
	g.verify()
}

// hangs has the engine stop answering at a request, until an execution's caller has its
// answer, and holds that all is put right then. It returns whether the engine was asked
// that, and how long the caller waited. Where deaf, the sandbox does not hear of its end.
// Each further try gives the program a second more.
func (g *gatewayUnderTest) hangs(t *testing.T, p *privateEngine, door *gate, request string, deaf bool, try int) (asked bool, took time.Duration) {
	t.Helper()
	frozen := make(chan struct{})
	var mu sync.Mutex
	over := false // what is asked from then on is of no execution
	door.set(request, false, func() bool {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			p.order("freeze")
			close(frozen)
		}
		return true
	})
	if deaf {
		door.deafen("up\n") // an agent that hears ends its program by itself
	}
	began := time.Now()
	// It outlives its timeout, so that its end is the engine's work too.
	answer := g.post(python("print up\nspin", fmt.Sprintf(`"limits":{"timeout_ms":%d,"cpu_millis":500}`, 1000*try)))
	var r reply
	select {
	case r = <-answer:
	case <-time.After(patience):
		t.Fatal("the caller is left waiting")
	}
	took = time.Since(began) - time.Duration(try-1)*time.Second
	// Its removal may be asked for after the answer, and nothing more once it is gone.
	eventually(t, "the engine is asked that, or all that there was to ask", func() bool {
		select {
		case <-frozen:
			return true
		default:
		}
		var left []container
		err := p.get("/containers/json?all=1", &left)
		return err == nil && len(left) == 0
	})
	if r.status == http.StatusOK {
		if e := r.ok(t); e.Outcome != execution.OutcomeTimedOut || e.ExitCode != nil {
			t.Errorf("%+v", e)
		}
	} else {
		g.failed(r)
	}
	t.Logf("%d after %v", r.status, took.Round(time.Millisecond))
	door.set("", false, nil)
	mu.Lock()
	over = true
	mu.Unlock()
	select {
	case <-frozen:
		asked = true
		p.order("thaw")
	default:
	}
	door.deafen("")
	g.waitReady()
	p.waitNothingLeft()
	eventually(t, "an execution is begun in time", func() bool {
		r := g.execute(python("print 2"))
		return r.status == http.StatusOK && r.ok(t).Stdout == "2\n"
	})
	p.waitNothingLeft() // what is asked next is of the next one
	return asked, took
}

// An engine without space refuses sandboxes; executions work once there is some.
func TestEngineHasNoSpace(t *testing.T) {
	t.Parallel()
	p := newPrivateEngine(t, 256)
	g := p.gateway("EXECGATE_EXECUTOR_WARM_TARGET", "1", "EXECGATE_EXECUTOR_WARM_MAX", "1", "EXECGATE_EXECUTOR_START_TIMEOUT_MS", "30000")
	g.start()
	g.waitReady()
	for round := range 2 {
		g.waitParked(1)
		answer := g.post(rests) // what runs is in the sandbox that was there
		p.waitSandboxes(2)
		// One sandbox is still parked; after it there is none, but where another that was
		// removed has left enough room meanwhile.
		var refused reply
		eventually(t, "an execution is refused", func() bool {
			p.order("fill")
			refused = g.execute(python("print 1"))
			return refused.status != http.StatusOK
		})
		g.failed(refused)
		select {
		case r := <-answer:
			t.Errorf("round %d: a full disk ended what runs: %s", round, r.body)
		default:
		}
		p.order("free")
		eventually(t, "executions work again", func() bool {
			r := g.execute(python("print 2"))
			return r.status == http.StatusOK && r.ok(t).Stdout == "2\n"
		})
		g.cancelAll()
		if e := (<-answer).ok(t); e.Outcome != execution.OutcomeCancelled {
			t.Errorf("%+v", e)
		}
		eventually(t, "nothing is left but what is parked", func() bool { return len(p.sandboxes()) <= 1 })
	}
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.waitNothingLeft()
	g.verify()
}

// openOnes is how many executions the log allows and does not end.
func (g *gatewayUnderTest) openOnes() (n int) {
	g.t.Helper()
	for _, outcomes := range g.endsOf() {
		if len(outcomes) == 0 {
			n++
		}
	}
	return n
}

// cancelAll ends every execution that was begun and has not ended.
func (g *gatewayUnderTest) cancelAll() {
	g.t.Helper()
	for id, outcomes := range g.endsOf() {
		if len(outcomes) == 0 {
			if r := g.request(http.MethodDelete, "/v1/executions/"+id, ""); r.status >= http.StatusBadRequest {
				g.t.Errorf("cancel %s: %s", id, fmt.Sprintf("%d %s", r.status, r.body))
			}
		}
	}
}
