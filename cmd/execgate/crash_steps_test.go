package main

import (
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// deaths are the places in the talk with the engine at which a gateway can die:
// with its request not arrived, or done and not heard of.
var deaths = []struct{ name, request string }{
	{"create", `^POST .*/containers/create\?name=`},
	{"attach", `^POST .*/attach\?`},
	{"start", `^POST .*/start `},
	{"inspect", `^GET .*/containers/[0-9a-f]{64}/json`},
	{"remove", `^DELETE .*/containers/`},
}

// died starts g again after it was killed, and holds what must be true then: no
// container, no process and no volume of the earlier life, one end for every
// execution that was allowed, and work is served.
func (g *gatewayUnderTest) died(p *privateEngine) {
	g.t.Helper()
	g.start()
	g.waitReady()
	// A request that was under way may be carried out after the first look.
	p.waitNothingLeft()
	for id, outcomes := range g.endsOf() {
		if len(outcomes) != 1 {
			g.t.Errorf("%s ended %v", id, outcomes)
		}
	}
	if e := g.execute(python("print 1")).ok(g.t); e.Stdout != "1\n" {
		g.t.Errorf("%+v", e)
	}
	p.waitNothingLeft()
}

// crashes are the executions that the log ends as unknown_crash.
func (g *gatewayUnderTest) crashes() (n int) {
	g.t.Helper()
	for _, outcomes := range g.endsOf() {
		if len(outcomes) == 1 && outcomes[0] == execution.OutcomeUnknownCrash {
			n++
		}
	}
	return n
}

// kill -9 at each step of an execution, before the engine has been asked and
// after it has done what it was asked.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	p := newPrivateEngine(t, 512)
	door := newGate(t, p.socket())
	g := p.gateway("EXECGATE_EXECUTOR_ENGINE", door.address())
	g.start()
	g.waitReady()
	g.execute(python("print 1")).ok(t)
	p.waitNothingLeft()
	for _, death := range deaths {
		for _, answer := range []bool{false, true} {
			when := "before"
			if answer {
				when = "after"
			}
			t.Run(death.name+"/"+when, func(t *testing.T) {
				before := g.crashes()
				killed := make(chan struct{})
				door.set(death.request, answer, func() bool {
					g.kill()
					close(killed)
					return false
				})
				caller := g.post(python("print 1"))
				select {
				case <-killed:
				case <-time.After(patience):
					t.Fatal("the engine was never asked that")
				}
				<-caller
				g.died(p)
				// At its removal the sandbox's execution may have ended already.
				if n := g.crashes() - before; n != 1 && (death.name != "remove" || n != 0) {
					t.Errorf("%d executions ended as unknown_crash", n)
				}
			})
		}
	}
	t.Run("running", func(t *testing.T) {
		before := g.crashes()
		caller := g.post(python("spin", `"limits":{"timeout_ms":60000}`))
		p.waitSandboxes(1)
		eventually(t, "it is decided", func() bool { return g.openOnes() == 1 })
		g.kill()
		<-caller
		g.died(p)
		if n := g.crashes() - before; n != 1 {
			t.Errorf("%d executions ended as unknown_crash", n)
		}
	})
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	p.waitNothingLeft()
	g.verify()
}

// kill -9 while sandboxes are made ready, are ready, and are claimed: they are
// nobody's execution, and go with the others.
func TestKilledWithSandboxesParked(t *testing.T) {
	t.Parallel()
	p := newPrivateEngine(t, 512)
	door := newGate(t, p.socket())
	g := p.gateway("EXECGATE_EXECUTOR_ENGINE", door.address())
	warm := map[string]string{"EXECGATE_EXECUTOR_WARM_TARGET": "2", "EXECGATE_EXECUTOR_WARM_MAX": "2"}
	cold := map[string]string{"EXECGATE_EXECUTOR_WARM_TARGET": "0"}
	set := func(settings map[string]string) {
		for name, value := range settings {
			g.env[name] = value
		}
	}
	for _, test := range []struct {
		name, request string
		answer        bool
		body          string
	}{
		{"while one is created", `^POST .*/containers/create\?name=`, true, ""},
		{"while one is started", `^POST .*/start `, true, ""},
		{"while one is claimed", `^POST .*/update`, false, python("print 1", `"limits":{"memory_mib":300}`)},
		{"once one is claimed", `^POST .*/update`, true, python("print 1", `"limits":{"memory_mib":300}`)},
		{"while one is used", "", false, python("spin", `"limits":{"timeout_ms":60000}`)},
		{"while they are parked", "", false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			set(warm)
			up, killed := make(chan struct{}), make(chan struct{})
			trap := func() bool {
				<-up
				g.kill()
				close(killed)
				return false
			}
			if test.request != "" && test.body == "" {
				door.set(test.request, test.answer, trap)
			}
			g.start()
			close(up)
			var caller <-chan reply
			if test.request == "" || test.body != "" {
				g.waitReady()
				g.waitParked(2)
				if test.request != "" {
					door.set(test.request, test.answer, trap)
				}
				if test.body != "" {
					caller = g.post(test.body)
				}
				if test.request == "" {
					if test.body != "" {
						eventually(t, "it is decided", func() bool { return g.openOnes() == 1 })
					}
					g.kill()
					close(killed)
				}
			}
			select {
			case <-killed:
			case <-time.After(patience):
				t.Fatal("the engine was never asked that")
			}
			if caller != nil {
				<-caller
			}
			set(cold)
			g.died(p)
			if code := g.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
		})
	}
	g.verify()
}

// kill -9 while the engine is prepared, before anything can run.
func TestKilledWhileItPrepares(t *testing.T) {
	t.Parallel()
	p := newPrivateEngine(t, 512)
	door := newGate(t, p.socket())
	g := p.gateway("EXECGATE_EXECUTOR_ENGINE", door.address())
	for _, step := range []struct{ name, request string }{
		{"volume", `^POST .*/volumes/create`},
		{"helper", `^POST .*/containers/create `},
		{"read", `^GET .*/archive\?`},
		{"write", `^PUT .*/archive\?`},
		{"removal", `^DELETE .*/containers/`},
	} {
		t.Run(step.name, func(t *testing.T) {
			up, killed := make(chan struct{}), make(chan struct{})
			door.set(step.request, true, func() bool {
				<-up
				g.kill()
				close(killed)
				return false
			})
			g.start()
			close(up)
			select {
			case <-killed:
			case <-time.After(patience):
				door.set("", false, nil)
				t.Fatal("the engine was never asked that")
			}
			g.died(p)
			if code := g.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if step.name != "write" {
				p.forgetVolumes() // so that the next step is the first again
			}
		})
	}
}
