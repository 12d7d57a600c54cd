package export

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

const (
	killedCount = 20_000
	// The variables by which the tests' program is told to be the exporter that is killed.
	killedDir = "EXPORT_TEST_KILLED_DIR"
	killedURL = "EXPORT_TEST_KILLED_URL"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killedDir); dir != "" {
		exportUntilKilled(dir, os.Getenv(killedURL))
	}
	os.Exit(m.Run())
}

func exportUntilKilled(dir, url string) {
	e, err := New(Config{
		Log: newLog(killedCount), LogID: logID, Dir: dir, pace: quick, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Sinks: []Sink{{Name: "siem", Type: TypeHTTP, URL: url}, {Name: "file", Type: TypeJSONL, Path: filepath.Join(dir, "audit.jsonl")}},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = e.Run(context.Background())
	os.Exit(0)
}

// Killed at any moment, also between an acknowledgement and its cursor: some records come
// again, and none is missing.
func TestKilledAtAnyMoment(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var most atomic.Int64 // nothing is answered past it: the one to be killed does not run away
	var c *collector
	c = newCollector(t, func(_ http.ResponseWriter, r *http.Request, _ []byte) int {
		time.Sleep(rand.N(3 * time.Millisecond)) // a network
		if bound := most.Load(); bound > 0 && int64(c.len()) >= bound {
			<-r.Context().Done() // it is killed
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "audit.jsonl")
	sinks := []Sink{c.sink(), {Name: "file", Type: TypeJSONL, Path: file}}
	kills := 0
	for done := false; !done; {
		goal := c.len() + 1 + rand.IntN(killedCount/6)
		most.Store(int64(goal + killedCount/6))
		process := exec.Command(self)
		process.Env = append(os.Environ(), killedDir+"="+dir, killedURL+"="+c.URL)
		process.Stderr = os.Stderr
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it delivers", func() bool { return c.len() >= goal || finished(t, dir) })
		process.Process.Kill()
		process.Wait()
		kills++
		done = finished(t, dir)
	}
	most.Store(0)
	// The receiver may still have a request of the last one.
	r := start(t, newLog(killedCount), dir, sinks)
	r.waitAcknowledged(killedCount)
	again := c.check(t, 0, killedCount)
	var a arrivals
	for _, line := range linesOf(t, file) {
		// A line that a kill tore is no record, wherever in it that was.
		if json.Valid(line) {
			a.add(t, line)
		}
	}
	a.check(t, 0, killedCount)
	t.Logf("%d kills, and %d records came again", kills, again)
	if kills < 3 {
		t.Errorf("it was killed %d times only", kills)
	}
}

func finished(t *testing.T, dir string) bool {
	cursors, err := Cursors(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(cursors) < 2 {
		return false
	}
	return cursors[0].Next == killedCount && cursors[1].Next == killedCount
}
