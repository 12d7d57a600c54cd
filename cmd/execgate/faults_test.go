package main

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/execgate/execgate/execution"
)

// sleeps is a request for a program that does not end by itself in a test.
var sleeps = python("import time\nprint('up', flush=True)\ntime.sleep(55)", `"limits":{"timeout_ms":60000}`)

// An engine that goes away is a fault of ours: 503 and a record, never an exit
// code, and all is well again when it is back.
func TestEngineGoesAway(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	engine := newSwitchboard(t)
	engine.connect(t)
	g := startGateway(t, map[string]string{"EXECGATE_EXECUTOR_ENGINE": engine.address()})
	g.execute(python("print(1)")).ok(t)

	// One execution runs when it goes.
	answer := make(chan reply, 1)
	go func() {
		r, _ := g.try(http.MethodPost, "/v1/executions", sleeps)
		answer <- r
	}()
	g.waitContainers(1)
	engine.cut()
	p := (<-answer).refused(t, http.StatusServiceUnavailable)
	if ends := g.recordsOf(execution.RecordEnded); ends[len(ends)-1].Ended.Outcome != execution.OutcomeEngineFailed || ends[len(ends)-1].Execution != p.Execution {
		t.Errorf("end %+v", ends[len(ends)-1])
	}

	eventually(t, "the gateway says that it is not ready, and why", func() bool {
		r := g.request(http.MethodGet, "/readyz", "")
		return r.status == http.StatusServiceUnavailable && r.refused(t, r.status).check("engine") != ""
	})
	for range 2 {
		r := g.execute(python("print(1)"))
		p := r.refused(t, http.StatusServiceUnavailable)
		if r.header.Get("Retry-After") == "" || p.Code != execution.CodeEngineUnavailable || p.RetryAfterMS == 0 {
			t.Errorf("%+v %s", r.header, r.body)
		}
		if !g.accountsFor(p.Execution) {
			t.Errorf("no record of %s", r.body)
		}
	}

	engine.connect(t)
	g.waitReady()
	if e := g.execute(python("print(2)")).ok(t); e.Stdout != "2\n" {
		t.Errorf("%+v", e)
	}
	// What ran when the engine went is found and removed.
	g.waitNothingLeft()
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.verify()
}

// accountsFor reports whether the log says of an execution that it was denied
// for, or ended by, the lack of an engine.
func (g *gatewayUnderTest) accountsFor(id string) bool {
	g.t.Helper()
	for _, r := range g.records() {
		switch {
		case r.Execution != id:
		case r.Decided != nil && !r.Decided.Decision.Allowed():
			return r.Decided.Decision.Reasons[0].Code == execution.CodeEngineUnavailable
		case r.Ended != nil:
			return r.Ended.Outcome == execution.OutcomeEngineFailed
		}
	}
	return false
}

func TestEngineIsAbsentAtStart(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	engine := newSwitchboard(t)
	g := newGateway(t, filepath.Join(t.TempDir(), "state"), map[string]string{"EXECGATE_EXECUTOR_ENGINE": engine.address()})
	g.start()
	eventually(t, "the gateway answers", func() bool {
		r, err := g.try(http.MethodGet, "/readyz", "")
		return err == nil && r.status == http.StatusServiceUnavailable && r.refused(t, r.status).check("engine") != ""
	})
	p := g.execute(python("print(1)")).refused(t, http.StatusServiceUnavailable)
	if !g.accountsFor(p.Execution) {
		t.Errorf("no record of %+v", p)
	}
	engine.connect(t)
	g.waitReady()
	g.execute(python("print(1)")).ok(t)
}

// A full disk under the log stops everything that would need a record, before
// it is done.
func TestDiskIsFull(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	disk := t.TempDir()
	if err := unix.Mount("execgate-test", disk, "tmpfs", 0, "size=12m,mode=0700"); err != nil {
		if os.Getenv("CI") == "true" && !errors.Is(err, unix.EPERM) {
			t.Fatal(err)
		}
		t.Skipf("NOT TESTED: a small file system needs CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
	// A disk that is full is one that hangs, for as long as a record has: longer than a
	// busy machine may take for one.
	g := newGateway(t, filepath.Join(disk, "state"), map[string]string{"EXECGATE_AUDIT_BUDGET_MS": "10000"})
	g.start()
	g.waitReady()
	g.execute(python("print(1)")).ok(t)
	g.waitNothingLeft()

	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	// The log holds space in reserve. What is denied uses it up without a
	// container; metadata stands in the record.
	var metadata strings.Builder
	for i := range 32 {
		if i > 0 {
			metadata.WriteByte(',')
		}
		metadata.WriteString(`"` + strings.Repeat(string(rune('a'+i%26)), 1+i) + `":"` + strings.Repeat("x", 500) + `"`)
	}
	denied := python("1", `"network":["example.com:443"]`, `"metadata":{`+metadata.String()+`}`)
	var r reply
	for range 1000 {
		if r = g.execute(denied); r.status != http.StatusForbidden {
			break
		}
	}
	p := r.refused(t, http.StatusServiceUnavailable)
	if p.Code != "audit_unavailable" || r.header.Get("Retry-After") == "" {
		t.Errorf("%s", r.body)
	}

	began, records := time.Now(), len(g.records())
	p = g.execute(python("print(1)")).refused(t, http.StatusServiceUnavailable)
	if p.Code != "audit_unavailable" {
		t.Errorf("%+v", p)
	}
	if made := madeSince(t, g.id(), began.Add(2*time.Second)); made != 0 || len(g.containers()) > 0 || len(g.records()) != records {
		t.Errorf("%d containers were made, and %d records", made, len(g.records())-records)
	}
	eventually(t, "the gateway says that it is not ready", func() bool {
		r = g.request(http.MethodGet, "/readyz", "") // an answer is kept for a second
		return r.status == http.StatusServiceUnavailable
	})
	if p = r.refused(t, r.status); p.check("audit") == "" {
		t.Errorf("the check of the audit log says that it is ready: %s", r.body)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	// Work is sent again once the gateway says that it takes some, as a load
	// balancer does.
	g.waitReady()
	g.execute(python("print(1)")).ok(t)
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.verify()
}

// fill writes to a file until there is no space.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, block := range [][]byte{make([]byte, 64<<10), make([]byte, 4<<10)} {
		for err = nil; err == nil; {
			_, err = file.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// A caller that hangs up takes its program along.
func TestCallerHangsUp(t *testing.T) {
	t.Parallel()
	g := startGateway(t, nil)
	hangUp := g.begin(sleeps)
	g.waitContainers(1)
	eventually(t, "the decision is recorded", func() bool { return len(g.recordsOf(execution.RecordDecided)) == 1 })
	hangUp()
	since := time.Now()
	g.waitNothingLeft() // a program that is not taken along ends otherwise, as the record would tell
	t.Logf("the container was gone after %v", time.Since(since).Round(time.Millisecond))
	eventually(t, "the end is recorded", func() bool { return len(g.recordsOf(execution.RecordEnded)) == 1 })
	if end := g.recordsOf(execution.RecordEnded)[0].Ended; end.Outcome != execution.OutcomeCancelled || end.ExitCode != nil {
		t.Errorf("%+v", end)
	}
}

// As many as may run, run; one more is told when to come again, and nothing is
// held against it.
func TestSaturation(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_REQUESTS_MAX_RUNNING": "1"})
	hangUp := g.begin(sleeps)
	g.waitContainers(1)
	r := g.execute(python("print(1)"))
	p := r.refused(t, http.StatusTooManyRequests)
	if r.header.Get("Retry-After") != "1" || p.RetryAfterMS != 1000 {
		t.Errorf("%+v %s", r.header, r.body)
	}
	if len(g.recordsOf(execution.RecordDecided)) != 1 || len(g.containers()) != 1 {
		t.Error("something came of it")
	}
	hangUp()
	eventually(t, "there is room again", func() bool {
		return g.execute(python("print(1)")).status == http.StatusOK
	})
}
