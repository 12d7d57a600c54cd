package main

import (
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/execution/recordtest"
)

// patience is how long a test waits for what has to come. It only ends tests that fail:
// a machine that is busy may hold a process up for many seconds, at any point.
const patience = 2 * time.Minute

// unhurried are the settings with which nothing is refused because the machine is busy
// for a while. Whatever the tests start has them.
var unhurried = map[string]string{
	"EXECGATE_POLICY_DEADLINE_MS": "10000", "EXECGATE_AUDIT_BUDGET_MS": "60000", "EXECGATE_EXECUTOR_START_TIMEOUT_MS": "120000",
	"EXECGATE_VAULT_TIMEOUT_MS": "60000",
}

// gatewayUnderTest is `execgate serve` as a process of its own.
type gatewayUnderTest struct {
	t     testing.TB
	state string
	env   map[string]string
	args  []string // further ones of serve

	process *exec.Cmd
	exited  chan struct{} // closed when the process is gone
	log     *logLines
	url     string
}

// startGateway starts a gateway with a new state folder, the settings in env and
// otherwise none, and waits until it is ready.
func startGateway(t *testing.T, env map[string]string) *gatewayUnderTest {
	t.Helper()
	needsEngine(t)
	g := newGateway(t, filepath.Join(t.TempDir(), "state"), env)
	g.start()
	g.waitReady()
	return g
}

// newGateway returns a gateway that is not started yet.
func newGateway(t testing.TB, state string, env map[string]string) *gatewayUnderTest {
	g := &gatewayUnderTest{t: t, state: state, env: env}
	t.Cleanup(func() {
		g.remove()
		g.checkRecords()
		if t.Failed() {
			t.Logf("log of the gateway:\n%s", g.log.tail(40))
		}
	})
	return g
}

// remove leaves nothing of the gateway but its folder. It may be called again.
func (g *gatewayUnderTest) remove() {
	if g.process != nil {
		g.kill()
	}
	if id := g.id(); id != "" {
		removeContainers(g.t, id)
	}
}

// start starts the process and waits until it has an address.
func (g *gatewayUnderTest) start() {
	g.t.Helper()
	g.log = &logLines{}
	g.process = exec.Command("execgate", append([]string{"serve", "--listen", "127.0.0.1:0", "--state", g.state}, g.args...)...)
	env := map[string]string{"EXECGATE_LOG_FORMAT": "json", "EXECGATE_AUDIT_SEGMENT_MIB": "1"}
	maps.Copy(env, g.env)
	g.process.Env = os.Environ()
	for name, value := range env {
		g.process.Env = append(g.process.Env, name+"="+value)
	}
	g.process.Stderr = g.log
	// It must not outlive the tests, also where they are killed.
	g.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := g.process.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.exited = make(chan struct{})
	go func(p *exec.Cmd, exited chan struct{}) {
		p.Wait()
		close(exited)
	}(g.process, g.exited)
	eventually(g.t, "the gateway has an address", func() bool {
		if !g.running() {
			g.t.Fatalf("the gateway ended at its start: %s", g.log)
		}
		line := g.log.find("gateway is starting")
		g.url = "http://" + line["listen"]
		return line != nil
	})
}

func (g *gatewayUnderTest) waitReady() {
	g.t.Helper()
	eventually(g.t, "the gateway is ready", func() bool {
		resp, err := http.Get(g.url + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// startAgain starts a gateway that ended with sandboxes: ready means that they are gone,
// but for an engine that did not answer in time, which it warns of.
func (g *gatewayUnderTest) startAgain() {
	g.t.Helper()
	g.start()
	g.waitReady()
	if g.log.find("the engine does not answer yet; abandoned sandboxes are removed when it does") != nil {
		g.waitNothingLeft()
	}
	if left := g.containers(); len(left) > 0 {
		g.t.Errorf("ready, with containers of its earlier life: %v", left)
	}
}

func (g *gatewayUnderTest) running() bool {
	select {
	case <-g.exited:
		return false
	default:
		return true
	}
}

// kill ends the process as kill -9 does.
func (g *gatewayUnderTest) kill() {
	g.process.Process.Kill()
	<-g.exited
}

// signal sends a signal to the process.
func (g *gatewayUnderTest) signal(s syscall.Signal) {
	g.t.Helper()
	if err := g.process.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// stop ends the process as an operator does, and returns its exit code.
func (g *gatewayUnderTest) stop() int {
	g.t.Helper()
	g.signal(syscall.SIGTERM)
	return g.wait()
}

// wait waits for the process to end and returns its exit code, -1 where a signal
// ended it.
func (g *gatewayUnderTest) wait() int {
	g.t.Helper()
	select {
	case <-g.exited:
		return g.process.ProcessState.ExitCode()
	case <-time.After(patience):
		g.t.Fatalf("the gateway has not ended after %v", patience)
		return 0
	}
}

// id is this gateway's own, which its containers carry.
func (g *gatewayUnderTest) id() string {
	text, _ := os.ReadFile(filepath.Join(g.state, "gateway-id"))
	return strings.TrimSpace(string(text))
}

// key is the text of the admin key.
func (g *gatewayUnderTest) key() string {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.state, "admin.key"))
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (g *gatewayUnderTest) containers() []container {
	g.t.Helper()
	return containersOf(g.t, g.id())
}

// waitContainers waits until n containers of this gateway run.
func (g *gatewayUnderTest) waitContainers(n int) []container {
	g.t.Helper()
	var running []container
	eventually(g.t, "the containers run", func() bool {
		running = slices.DeleteFunc(g.containers(), func(c container) bool { return c.State != "running" })
		return len(running) >= n
	})
	return running
}

// waitNothingLeft waits until the gateway has no container.
func (g *gatewayUnderTest) waitNothingLeft() {
	g.t.Helper()
	eventually(g.t, "no container is left", func() bool { return len(g.containers()) == 0 })
}

// records returns the audit log as it is on the disk.
func (g *gatewayUnderTest) records() []execution.Record {
	g.t.Helper()
	var all []execution.Record
	for rec, err := range audit.Read(filepath.Join(g.state, "audit")) {
		if err != nil {
			g.t.Fatal(err)
		}
		all = append(all, rec)
	}
	return all
}

// checkRecords holds every record against the schema that ships. What comes after
// damage that a test has done cannot be read, and is not.
func (g *gatewayUnderTest) checkRecords() {
	for rec, err := range audit.Read(filepath.Join(g.state, "audit")) {
		if err != nil {
			return
		}
		recordtest.Check(g.t, rec)
	}
}

// recordsOf returns the records of one type.
func (g *gatewayUnderTest) recordsOf(kind execution.RecordType) []execution.Record {
	g.t.Helper()
	return slices.DeleteFunc(g.records(), func(r execution.Record) bool { return r.Type != kind })
}

// verify holds the log of a gateway that was stopped against its public key.
func (g *gatewayUnderTest) verify() {
	g.t.Helper()
	public, err := os.ReadFile(filepath.Join(g.state, "keys", "audit.pub"))
	if err != nil {
		g.t.Fatal(err)
	}
	report, err := audit.Verify(filepath.Join(g.state, "audit"), string(public))
	if err != nil {
		g.t.Fatal(err)
	}
	if !report.Integrity.OK || !report.Completeness.OK {
		g.t.Errorf("the audit log is broken: %+v", report)
	}
}

// eventually polls until condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
