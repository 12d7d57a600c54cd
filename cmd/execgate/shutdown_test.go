package main

import (
	"net/http"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/execgate/execgate/execution"
)

// post sends a request for an execution in the background.
func (g *gatewayUnderTest) post(body string) <-chan reply {
	answer := make(chan reply, 1)
	go func() {
		r, err := g.try(http.MethodPost, "/v1/executions", body)
		if err != nil {
			r.body = []byte(err.Error())
		}
		answer <- r
	}()
	return answer
}

// waitDraining waits until the gateway says that it takes no more work.
func (g *gatewayUnderTest) waitDraining() {
	g.t.Helper()
	eventually(g.t, "the gateway is draining", func() bool {
		r, err := g.try(http.MethodGet, "/readyz", "")
		return err == nil && r.status == http.StatusServiceUnavailable
	})
}

// checkStopped holds what an orderly stop leaves: nothing on the engine, and a
// log that is whole and signed to its end.
func (g *gatewayUnderTest) checkStopped() {
	g.t.Helper()
	if left := g.containers(); len(left) > 0 {
		g.t.Errorf("containers are left: %v", left)
	}
	for id, outcomes := range g.endsOf() {
		if len(outcomes) != 1 || outcomes[0] == execution.OutcomeUnknownCrash {
			g.t.Errorf("%s ended %v", id, outcomes)
		}
	}
	g.verify() // the final checkpoint covers every record, else it is not complete
}

func TestSIGTERMLetsWorkEnd(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_REQUESTS_DRAIN_MS": "120000"})
	work := newHold()
	answer := g.post(python(work.code(), `"limits":{"timeout_ms":60000}`))
	g.waitContainers(1)
	g.signal(syscall.SIGTERM)
	g.waitDraining()
	r := g.execute(python("print(1)"))
	if p := r.refused(t, http.StatusServiceUnavailable); p.Code != "draining" || r.header.Get("Retry-After") == "" {
		t.Errorf("%s", r.body)
	}
	if e := work.letGo(t, g, answer).ok(t); e.Stdout != "done\n" || e.Outcome != execution.OutcomeExited {
		t.Errorf("%+v", e)
	}
	if code := g.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.checkStopped()
}

func TestSIGTERMCancelsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_REQUESTS_DRAIN_MS": "500"})
	answer := g.post(sleeps)
	g.waitContainers(1)
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if e := (<-answer).ok(t); e.Outcome != execution.OutcomeCancelled {
		t.Errorf("%+v", e)
	}
	g.checkStopped()
}

// A second signal does not wait; the next start puts things right.
func TestSecondSignalKills(t *testing.T) {
	t.Parallel()
	for _, second := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		g := startGateway(t, map[string]string{"EXECGATE_REQUESTS_DRAIN_MS": "60000"})
		answer := g.post(sleeps)
		g.waitContainers(1)
		g.signal(syscall.SIGINT)
		g.waitDraining()
		g.signal(second)
		if code := g.wait(); code != -1 {
			t.Errorf("exit code %d, want the end by a signal", code)
		}
		<-answer
		g.startAgain()
		if code := g.stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		g.verify()
	}
}

// A stop before the gateway is ready is an orderly one too.
func TestSIGTERMAtStart(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	g := newGateway(t, filepath.Join(t.TempDir(), "state"), nil)
	g.start()
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.start()
	g.waitReady()
	g.execute(python("print(1)")).ok(t)
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.checkStopped()
}
