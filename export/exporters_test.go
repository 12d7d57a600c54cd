package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// Whatever a receiver does, every record arrives, in the order of the log.
func TestEveryRecordArrivesAtAReceiverThatFails(t *testing.T) {
	const count = 20_000
	var mu sync.Mutex // a request that was given up may be under way still
	random := rand.New(rand.NewPCG(1, 2))
	var c *collector
	c = newCollector(t, func(w http.ResponseWriter, r *http.Request, body []byte) int {
		mu.Lock()
		what := random.IntN(12)
		mu.Unlock()
		switch what {
		case 0:
			return http.StatusInternalServerError
		case 1:
			w.Header().Set("Retry-After", "0")
			return http.StatusTooManyRequests
		case 2: // it has taken them, and the sender does not know
			c.take(body)
			panic(http.ErrAbortHandler)
		case 3:
			if len(body) > 60_000 {
				return http.StatusRequestEntityTooLarge
			}
		case 4:
			panic(http.ErrAbortHandler)
		}
		return http.StatusOK
	})
	log, dir := newLog(count/2), t.TempDir()
	r := start(t, log, dir, []Sink{c.sink()})
	r.waitAcknowledged(count / 4)
	r.stop()
	r = start(t, log, dir, []Sink{c.sink()}) // by the cursor of the one before
	log.grow(count / 2)
	r.waitAcknowledged(count)
	again := c.check(t, 0, count)
	if again == 0 {
		t.Error("nothing arrived again: the receiver did not take what the sender cannot know of")
	}
	if s := r.Stats()[0]; s.Failures == 0 || s.LagRecords != 0 || s.Lag != 0 || s.Next != count {
		t.Errorf("figures at the end: %+v", s)
	}
}

// A receiver that does not answer costs two batches of memory, and an entry in the figures.
func TestDeadReceiverCostsNothing(t *testing.T) {
	silent := make(chan struct{})
	c := newCollector(t, func(w http.ResponseWriter, r *http.Request, _ []byte) int {
		select {
		case <-silent:
		case <-r.Context().Done():
		}
		return http.StatusServiceUnavailable
	})
	defer close(silent)
	out := &lines{}
	log := newLog(0)
	r := start(t, log, t.TempDir(), []Sink{c.sink(), {Name: "out", Type: TypeJSONL, Path: Stdout}}, withStdout(out),
		withPace(pace{first: quick.first, most: quick.most, save: quick.save, attempt: patience, drain: 50 * time.Millisecond}))
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools kept goes with the second
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	const count = 40_000 // some 20 MB
	log.grow(count)
	eventually(t, "the other exporter has everything", func() bool { return r.workers[1].durable.Load() == count })
	written := uint64(len(out.String()))
	eventually(t, "the heap has grown by 12 MiB at most, beside what the test keeps", func() bool {
		return int64(heap())-int64(before)-3*int64(written) <= 12<<20
	})
	eventually(t, "the age of what waits for the dead one", func() bool { return r.Stats()[0].Lag >= time.Hour })
	if s := r.Stats()[0]; s.Next != 0 || s.LagRecords != count {
		t.Errorf("figures of the one that is dead: %+v", s)
	}
	if r.Acknowledged() != 0 {
		t.Error("what a dead receiver has not got counts as acknowledged")
	}
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > patience/2 {
		t.Errorf("a stop waited %v for a receiver that is dead", took)
	}
}

func TestWhereAnExporterBegins(t *testing.T) {
	out := func(r *running) string { return r.log.String() }
	sink := Sink{Name: "out", Type: TypeJSONL, Path: Stdout}
	now := sink
	now.From = FromNow
	ocsf := sink
	ocsf.Format = FormatOCSF
	for _, test := range []struct {
		name     string
		prepare  func(t *testing.T, dir string)
		sink     Sink
		oldest   uint64
		first    uint64
		says     string
		settings []setting
	}{
		{name: "new", sink: sink},
		{name: "new, from now on", sink: now, first: 100},
		{name: "the oldest that is kept", sink: sink, oldest: 40, first: 40, says: "no longer has"},
		{name: "where it was", sink: now, prepare: cursorAt(sink.cursor(logID, 70)), first: 70},
		{name: "another log", sink: now, prepare: cursorAt(sink.cursor("execgate/audit/ff", 70)), says: "of another log"},
		{name: "beyond the end", sink: now, prepare: cursorAt(sink.cursor(logID, 101)), says: "beyond the end"},
		{name: "another format", sink: ocsf, prepare: cursorAt(sink.cursor(logID, 70)), first: 70, says: "was changed"},
		{name: "another name", sink: sink, prepare: cursorAt(Sink{Name: "before", Type: TypeJSONL, Path: Stdout}.cursor(logID, 70)), says: "not configured"},
		{name: "a cursor that is none", sink: now, prepare: func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "out.cursor"), "{")
		}, says: "cannot be read"},
		{name: "a cursor of a later version", sink: now, prepare: func(t *testing.T, dir string) {
			c := sink.cursor(logID, 70)
			c.Version++
			cursorAt(c)(t, dir)
		}, says: "cannot be read"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if test.prepare != nil {
				test.prepare(t, dir)
			}
			log := newLog(100)
			log.oldest = test.oldest
			written := &lines{}
			r := start(t, log, dir, []Sink{test.sink}, withStdout(written))
			log.grow(20)
			r.waitAcknowledged(120)
			r.stop()
			lines := strings.Split(strings.TrimSpace(written.String()), "\n")
			key := `"seq":`
			if test.sink.Format == FormatOCSF {
				key = `"sequence":`
			}
			if !strings.Contains(lines[0], fmt.Sprint(key, test.first, ",")) || len(lines) != int(120-test.first) {
				t.Errorf("it began with %.300s, and %d lines came", lines[0], len(lines))
			}
			if !strings.Contains(out(r), test.says) || test.says == "" && out(r) != "" {
				t.Errorf("it said %q", out(r))
			}
			cursors, err := Cursors(dir)
			if err != nil {
				t.Fatal(err)
			}
			if i := len(cursors) - 1; cursors[i].Name != "out" || cursors[i].Next != 120 || cursors[i].Log != logID {
				t.Errorf("the cursors are %+v", cursors)
			}
		})
	}
}

func cursorAt(c Cursor) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		if err := c.save(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// An exporter that is new and begins now leaves nothing out where the gateway is started
// again before anything was delivered.
func TestFromNowIsOfTheFirstStart(t *testing.T) {
	dir, log := t.TempDir(), newLog(100)
	sink := Sink{Name: "out", Type: TypeJSONL, Path: Stdout, From: FromNow}
	start(t, log, dir, []Sink{sink}, withStdout(&lines{})).stop()
	log.grow(10)
	out := &lines{}
	r := start(t, log, dir, []Sink{sink}, withStdout(out))
	r.waitAcknowledged(110)
	r.stop()
	if n := strings.Count(out.String(), "\n"); n != 10 {
		t.Errorf("%d records came, and not the 10 of the time between", n)
	}
}

// What is not wanted moves the cursor all the same.
func TestFilters(t *testing.T) {
	log := newLog(0)
	log.make = func(seq uint64) execution.Record {
		r := decidedRecord(seq)
		switch seq % 5 {
		case 2:
			r.Type, r.Decided, r.Principal, r.Gap = execution.RecordGap, nil, nil, &execution.Gap{}
		case 3:
			r.Type, r.Decided, r.Key = execution.RecordKeyCreated, nil, &execution.KeyChange{ID: "k", Tenant: "other"}
		}
		return r
	}
	out := &lines{}
	r := start(t, log, t.TempDir(), []Sink{{
		Name: "out", Type: TypeJSONL, Path: Stdout, Tenants: []string{"ci"}, Types: []execution.RecordType{execution.RecordDecided, execution.RecordGap},
	}}, withStdout(out))
	log.grow(100)
	r.waitAcknowledged(100)
	r.stop()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 30 {
		t.Errorf("%d records came, and not the 30 of the tenant", len(lines))
	}
	for _, line := range lines {
		if !strings.Contains(line, `"type":"decided"`) || !strings.Contains(line, `"tenant":"ci"`) {
			t.Errorf("not wanted: %s", line)
		}
	}
}

func TestReadingThatFailsGoesOn(t *testing.T) {
	log, out := newLog(10), &lines{}
	log.fail = errors.New("the disk is away")
	r := start(t, log, t.TempDir(), []Sink{{Name: "out", Type: TypeJSONL, Path: Stdout}}, withStdout(out))
	r.waitAcknowledged(10)
	if !strings.Contains(r.log.String(), "the disk is away") {
		t.Errorf("it was not logged: %s", r.log)
	}
}

// A cursor that cannot be written holds nothing up, and does not move.
func TestCursorThatCannotBeWritten(t *testing.T) {
	dir, log, out := t.TempDir(), newLog(0), &lines{}
	r := start(t, log, dir, []Sink{{Name: "out", Type: TypeJSONL, Path: Stdout}}, withStdout(out))
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir + ".away") })
	log.grow(10)
	eventually(t, "the records come", func() bool { return strings.Count(out.String(), "\n") == 10 })
	eventually(t, "the failures are counted", func() bool { return r.Stats()[0].Failures >= 20 })
	// The first, the second, the fourth, and so on.
	if n, failures := strings.Count(r.log.String(), "\n"), r.Stats()[0].Failures; n > bits.Len64(failures) {
		t.Errorf("%d failures are %d lines of the log", failures, n)
	}
	eventually(t, "that it fails is told", func() bool { return r.Stats()[0].Failing != "" })
	if r.Acknowledged() != 0 {
		t.Error("what is not known durably counts as acknowledged")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	r.waitAcknowledged(10)
	if s := r.Stats()[0]; s.Failing != "" {
		t.Errorf("it is still told that it fails: %+v", s)
	}
}

func TestNoExporters(t *testing.T) {
	var none *Exporters
	if none.Acknowledged() != math.MaxUint64 || none.Stats() != nil || none.Run(t.Context()) != nil {
		t.Error("a nil *Exporters is not none")
	}
	r := start(t, newLog(3), filepath.Join(t.TempDir(), "no"), nil)
	if r.Acknowledged() != math.MaxUint64 {
		t.Error("no exporter holds records back")
	}
}

func TestBackoff(t *testing.T) {
	p := pace{}.withDefaults()
	for attempt, most := range map[int]time.Duration{0: p.first, 1: p.first, 2: 2 * p.first, 3: 4 * p.first, 8: p.most, 1_000_000: p.most} {
		for range 100 {
			if d := p.between(attempt); d < most/2 || d > most {
				t.Fatalf("after %d attempts it waits %v, where %v to %v are right", attempt, d, most/2, most)
			}
		}
	}
}

func TestWhatIsWrongWithASink(t *testing.T) {
	for _, test := range []struct {
		sink Sink
		want string
	}{
		{Sink{Name: "a", Type: TypeJSONL, Path: "/x"}, ""},
		{Sink{Name: "a", Type: TypeHTTP, URL: "https://x/y?z=1", Format: FormatNDJSON}, ""},
		{Sink{Name: "a", Type: TypeHTTP, URL: "http://127.0.0.1:1/"}, ""},
		{Sink{Name: "a", Type: TypeHTTP, URL: "http://[::1]:1/"}, ""},
		{Sink{Name: "a", Type: TypeSyslog, Address: "[::1]:6514"}, ""},
		{Sink{Name: "../a", Type: TypeJSONL, Path: "/x"}, "name"},
		{Sink{Name: "a"}, "type"},
		{Sink{Name: "a", Type: TypeJSONL, Path: "x"}, "path"},
		{Sink{Name: "a", Type: TypeJSONL, Path: "/x", URL: "https://x"}, "url"},
		{Sink{Name: "a", Type: TypeJSONL, Path: "/x", Format: FormatNDJSON}, "format"},
		{Sink{Name: "a", Type: TypeJSONL, Path: "/x", Gzip: true}, "gzip"},
		{Sink{Name: "a", Type: TypeHTTP, URL: "http://siem.example.com/"}, "url"},
		{Sink{Name: "a", Type: TypeHTTP, URL: "http://127.0.0.1.example.com/"}, "url"},
		{Sink{Name: "a", Type: TypeHTTP, URL: "https://u:p@x/"}, "url"},
		{Sink{Name: "a", Type: TypeHTTP, URL: "ftp://x/"}, "url"},
		{Sink{Name: "a", Type: TypeHTTP, URL: "https://x/", ClientKey: "/k"}, "client_cert"},
		{Sink{Name: "a", Type: TypeHTTP, URL: "https://x/", From: "end"}, "from"},
		{Sink{Name: "a", Type: TypeHTTP, URL: "https://x/", Types: []execution.RecordType{"decidde"}}, "types"},
		{Sink{Name: "a", Type: TypeHTTP, URL: "https://x/", Tenants: []string{""}}, "tenants"},
		{Sink{Name: "a", Type: TypeSyslog, Address: "logs"}, "address"},
		{Sink{Name: "a", Type: TypeSyslog, Address: "logs:0"}, "address"},
		{Sink{Name: "a", Type: TypeSyslog, Address: "logs:6514", Format: FormatOCSF}, "format"},
		{Sink{Name: "a", Type: TypeSyslog, Address: "logs:6514", TokenFile: "/t"}, "token_file"},
	} {
		got := ""
		if faults := test.sink.Check(); len(faults) > 0 {
			got = faults[0].Key
		}
		if got != test.want {
			t.Errorf("%+v: the fault is %q, not %q", test.sink, got, test.want)
		}
	}
	for name, sinks := range map[string][]Sink{
		"a name twice": {{Name: "a", Type: TypeJSONL, Path: "/x"}, {Name: "a", Type: TypeJSONL, Path: "/y"}},
		"a path twice": {{Name: "a", Type: TypeJSONL, Path: "/x"}, {Name: "b", Type: TypeJSONL, Path: "/./x"}},
	} {
		if _, err := New(Config{Log: newLog(0), LogID: logID, Dir: t.TempDir(), Sinks: sinks}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// At a stop what is left is delivered, if that can be done soon.
func TestStopDelivers(t *testing.T) {
	var c *collector
	slow := make(chan struct{})
	c = newCollector(t, func(w http.ResponseWriter, r *http.Request, body []byte) int {
		<-slow
		return http.StatusOK
	})
	log := newLog(3000)
	p := quick
	p.drain = patience
	cfg := Config{Log: log, LogID: logID, Dir: t.TempDir(), Sinks: []Sink{c.sink()}, pace: p}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	close(slow)
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
	c.check(t, 0, 3000)
	if e.Acknowledged() != 3000 {
		t.Errorf("%d records are acknowledged, durably", e.Acknowledged())
	}
	if !bytes.Contains(mustRead(t, filepath.Join(cfg.Dir, "siem.cursor")), []byte(`"next":3000`)) {
		t.Error("the cursor was not saved")
	}
}
