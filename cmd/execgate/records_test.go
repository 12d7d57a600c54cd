package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
)

// indexed is a log with its index, in one folder, while both run.
type indexed struct {
	*records
	log     *audit.Log
	dir     string // of the log
	stopLog func() // leaves the index
	stop    func() // both
}

func startIndexed(t *testing.T, dir string) *indexed {
	t.Helper()
	return startIndexedLog(t, dir, audit.Config{SegmentBytes: 64 << 10, Budget: time.Minute})
}

// startIndexedLog is startIndexed with a log that is configured so, but for its folders.
func startIndexedLog(t *testing.T, dir string, cfg audit.Config) *indexed {
	t.Helper()
	s := &state{dir: dir}
	cfg.Dir, cfg.KeyDir = s.path("audit"), s.path("keys")
	var r *records
	cfg.Indexed = func() uint64 { return r.synced() }
	log, err := audit.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err = openRecords(t.Context(), s, log, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	logging, stopLogging := context.WithCancel(context.Background())
	indexing, stopIndexing := context.WithCancel(context.Background())
	logEnded, indexEnded := make(chan error, 1), make(chan error, 1)
	go func() { logEnded <- log.Run(logging) }()
	go func() { indexEnded <- r.run(indexing) }()
	i := &indexed{records: r, log: log, dir: cfg.Dir}
	i.stopLog = sync.OnceFunc(func() {
		stopLogging()
		must(t, <-logEnded)
	})
	i.stop = sync.OnceFunc(func() {
		stopIndexing()
		must(t, <-indexEnded)
		i.stopLog()
		must(t, r.index.Close())
	})
	t.Cleanup(i.stop)
	return i
}

func (i *indexed) append(t *testing.T, tenant, id string) uint64 {
	t.Helper()
	seq, err := i.log.Append(t.Context(), execution.Record{
		Type: execution.RecordDecided, Execution: id, Principal: &execution.Principal{Tenant: tenant, Subject: "ak_1"},
		Decided: &execution.Decided{Decision: execution.Decision{Effect: execution.EffectDeny}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// current waits until everything is indexed.
func (i *indexed) current(t *testing.T) {
	t.Helper()
	eventually(t, "everything is indexed", func() bool { return i.lag() == 0 && !i.index.Damaged() })
}

func (i *indexed) of(t *testing.T, tenant string) (ids []string) {
	t.Helper()
	q := execution.RecordQuery{Filter: execution.RecordFilter{Values: map[execution.TermKind]string{execution.TermTenant: tenant}}, Oldest: true, Most: 5000}
	page, err := i.Find(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range page.Records {
		ids = append(ids, r.Execution)
	}
	return ids
}

// The index is where the log is, whatever becomes of it: stopped anywhere, deleted,
// overwritten, or of a log that is not this one.
func TestIndexFollowsTheLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	index := filepath.Join(dir, "index.db")
	var want []string
	for life, between := range []func(){
		func() {}, func() {},
		func() { must(t, os.Remove(index)) },
		func() { must(t, os.WriteFile(index, []byte("not a database at all"), 0o600)) },
		func() { must(t, os.Truncate(index, 5000)) },
		func() {
			// An index that is ahead: its log was put back to what it was before.
			other := filepath.Join(t.TempDir(), "state")
			must(t, os.CopyFS(other, os.DirFS(dir)))
			must(t, os.Chmod(filepath.Join(other, "keys", "audit.key"), 0o600))
			i := startIndexed(t, other)
			i.append(t, "acme", "ex_lost")
			i.current(t)
			i.stop()
			text, err := os.ReadFile(filepath.Join(other, "index.db"))
			must(t, err)
			must(t, os.WriteFile(index, text, 0o600))
		},
		func() {},
	} {
		between()
		i := startIndexed(t, dir)
		for n := range 150 {
			id := fmt.Sprintf("ex_%d_%d", life, n)
			i.append(t, "acme", id)
			want = append(want, id)
			i.append(t, "umbrella", id)
		}
		if life%2 == 0 { // else it stops somewhere
			i.current(t)
			if got := i.of(t, "acme"); !slices.Equal(got, want) {
				t.Fatalf("life %d: %d records are found, of %d", life, len(got), len(want))
			}
		}
		i.stop()
	}
	if segments, _ := filepath.Glob(filepath.Join(dir, "audit", "*.segment")); len(segments) < 3 {
		t.Errorf("%d segments are too few for this test", len(segments))
	}
	i := startIndexed(t, dir)
	i.current(t)
	if got := i.of(t, "acme"); !slices.Equal(got, want) {
		t.Fatalf("%d records are found, of %d", len(got), len(want))
	}
	rows, more, err := i.Usage(t.Context(), execution.MeterQuery{}, 100)
	if err != nil || more {
		t.Fatal(more, err)
	}
	denied := map[string]int64{}
	for _, row := range rows {
		denied[row.Tenant] += row.Denied
	}
	if n := int64(len(want)); !maps.Equal(denied, map[string]int64{"acme": n, "umbrella": n}) {
		t.Errorf("%v were denied, of %d", denied, n)
	}
}

// A wrong index shows nobody what is not theirs, and is made anew.
func TestWrongIndexShowsNothing(t *testing.T) {
	t.Parallel()
	i := startIndexed(t, t.TempDir())
	for n := range 40 {
		i.append(t, []string{"acme", "umbrella"}[n%2], fmt.Sprintf("ex_%d", n))
	}
	i.current(t)
	want := i.of(t, "acme")
	db, err := sql.Open("sqlite", "file:"+filepath.Join(i.dir, "..", "index.db")+busy)
	must(t, err)
	defer db.Close()
	_, err = db.Exec("UPDATE postings SET offsets = (SELECT offsets FROM postings WHERE kind = 'tenant' AND value = 'umbrella') WHERE kind = 'tenant' AND value = 'acme'")
	must(t, err)
	if got := i.of(t, "acme"); len(got) != 0 {
		t.Errorf("of another tenant: %v", got)
	}
	i.append(t, "none", "ex_last")
	eventually(t, "the index is made anew", func() bool { return i.rebuilt() == 2 })
	i.current(t)
	if got := i.of(t, "acme"); !slices.Equal(got, want) {
		t.Errorf("found %v, and there are %v", got, want)
	}
}

// However large records are, a page of them is not; and none is left out.
func TestPagesAreBounded(t *testing.T) {
	t.Parallel()
	i := startIndexedLog(t, t.TempDir(), audit.Config{SegmentBytes: 16 << 20, Budget: time.Minute})
	const all = 100
	for n := range all {
		_, err := i.log.Append(t.Context(), execution.Record{
			Type: execution.RecordDecided, Principal: &execution.Principal{Tenant: "acme"},
			Decided: &execution.Decided{Metadata: map[string]string{"purpose": strings.Repeat("x", 300<<10)}, Language: fmt.Sprint(n)},
		})
		must(t, err)
	}
	i.current(t)
	for _, oldest := range []bool{false, true} {
		q := execution.RecordQuery{Oldest: oldest, Most: 200}
		var seqs []uint64
		for more := true; more; {
			page, err := i.Find(t.Context(), q)
			must(t, err)
			if n := len(page.Records); n == 0 || n > 64 {
				t.Fatalf("a page of %d", n)
			}
			for _, r := range page.Records {
				seqs = append(seqs, r.Seq)
			}
			if more = page.More; oldest {
				q.Filter.From = page.Next
			} else {
				q.Filter.Before = page.Next
			}
		}
		if !oldest {
			slices.Reverse(seqs)
		}
		if len(seqs) != all || !slices.IsSorted(seqs) || len(slices.Compact(seqs)) != all {
			t.Errorf("oldest first %v: %v", oldest, seqs)
		}
	}
}

// A segment that retention removes is not found any more; what it metered stays, also
// where the index is slower than what is written: retention waits for it.
func TestWhatIsGivenUpIsForgotten(t *testing.T) {
	t.Parallel()
	i := startIndexedLog(t, t.TempDir(), audit.Config{SegmentBytes: 64 << 10, MaxBytes: 256 << 10, DropExported: true})
	n := 0
	for i.log.Held().Removed == 0 {
		n++
		i.appendSoon(t, n)
	}
	last, _ := i.log.Progress()
	i.current(t)
	oldest := i.log.Held().Oldest // retention may go on
	if found := i.seqs(t, "acme", true); len(found) == 0 || found[0] < oldest {
		t.Errorf("found %v, also before it is forgotten", found)
	}
	var got []execution.Record
	eventually(t, "what was removed is not found", func() bool {
		var err error
		got, _, err = i.fetcher.Fetch(t.Context(), []uint64{i.log.Held().Oldest}, 1)
		return err == nil && len(got) == 1 && i.of(t, "acme")[0] == got[0].Execution
	})
	if got[0].Seq == 0 || len(i.of(t, "acme")) > int(last-got[0].Seq) {
		t.Errorf("the oldest is record %d, of %d %d are found", got[0].Seq, last, len(i.of(t, "acme")))
	}
	if _, err := i.Record(t.Context(), 0); execution.KindOf(err) != execution.KindNotFound {
		t.Errorf("record 0: %v", err)
	}
	rows, _, err := i.Usage(t.Context(), execution.MeterQuery{}, 100)
	denied := int64(0)
	for _, row := range rows {
		denied += row.Denied
	}
	if err != nil || denied != int64(n) {
		t.Errorf("%+v (%v), want %d denied", rows, err, n)
	}
}

// busy has a database that another process or another connection is writing to waited for.
const busy = "?_pragma=busy_timeout(120000)"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// execgate runs the program as a user of the gateway, with a key of its own.
func (g *gatewayUnderTest) execgate(key string, args ...string) (stdout string, code int) {
	g.t.Helper()
	cmd := exec.Command("execgate", args...)
	cmd.Env = append(os.Environ(), envURL+"="+g.url, envKey+"="+key)
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		g.t.Fatal(err)
	}
	if code = cmd.ProcessState.ExitCode(); code != 0 {
		return errors.String(), code
	}
	return string(out), code
}

// From the outside: what ran is found, by its own tenant's auditor and no other, its
// story is told, who reads is recorded, and what was used is metered. A gateway that
// is killed in the middle, or loses its index, says the same when it is back.
func TestRecordsFromEndToEnd(t *testing.T) {
	t.Parallel()
	g := startGateway(t, nil)
	admin := g.key()
	key := func(tenant, role string) string {
		out, code := g.execgate(admin, "keys", "create", "--tenant", tenant, "--role", role)
		if code != 0 {
			t.Fatal(out)
		}
		return strings.TrimSpace(out)
	}
	auditor, theirs := key("default", "auditor"), key("research", "auditor")
	r := g.request("POST", "/v1/executions", `{"language": "python", "code": "print(1)", "metadata": {"agent": "a\u001b[31mb\u009bc"}}`)
	var ran struct {
		ID      string   `json:"id"`
		Records []uint64 `json:"records"`
	}
	if err := json.Unmarshal(r.body, &ran); err != nil || r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	find := func(key string, args ...string) []execution.Record {
		t.Helper()
		out, code := g.execgate(key, append([]string{"audit", "query", "--output", "json", "--limit", "0"}, args...)...)
		var found struct{ Records []execution.Record }
		if err := json.Unmarshal([]byte(out), &found); err != nil || code != 0 {
			t.Fatalf("%v: %d %s", args, code, out)
		}
		if strings.ContainsAny(out, "\x1b\u009b") {
			t.Errorf("%v: controls are printed as they are", args)
		}
		return found.Records
	}
	eventually(t, "the end is found", func() bool { return len(find(auditor, "--execution", ran.ID, "--type", "ended")) == 1 })
	story, code := g.execgate(auditor, "audit", "show", ran.ID)
	if code != 0 || !strings.Contains(story, "decided") || !strings.Contains(story, "exited 0") || !strings.Contains(story, "+") {
		t.Errorf("%d %s", code, story)
	}
	one, code := g.execgate(auditor, "audit", "show", fmt.Sprint(ran.Records[0]))
	if code != 0 || !strings.Contains(one, ran.ID) {
		t.Errorf("%d %s", code, one)
	}
	eventually(t, "another tenant's auditor finds its own reads", func() bool {
		found := find(theirs)
		if slices.ContainsFunc(found, func(r execution.Record) bool { return execution.OwnerOf(r) != "research" }) {
			t.Fatalf("another tenant's auditor finds %+v", found)
		}
		return len(found) > 0
	})
	for _, args := range [][]string{{"audit", "show", ran.ID}, {"audit", "show", fmt.Sprint(ran.Records[0])}, {"audit", "query", "--tenant", "default"}} {
		if out, code := g.execgate(theirs, args...); code == 0 || strings.Contains(out, "print") {
			t.Errorf("%v as another tenant: %d %s", args, code, out)
		}
	}
	if out, code := g.execgate(key("default", "caller"), "audit", "query"); code != exitDenied {
		t.Errorf("as a caller: %d %s", code, out)
	}
	usage := func() string {
		out, code := g.execgate(auditor, "usage", "--csv")
		if code != 0 {
			t.Fatal(out)
		}
		return out
	}
	if out := usage(); !strings.Contains(out, ",exited 1,0,") {
		t.Errorf("usage: %s", out)
	}

	// Each of these reads is a record.
	for range 150 {
		if r := g.request("GET", "/v1/records/0", ""); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	g.kill()
	check := func(what string) {
		t.Helper()
		g.start()
		g.waitReady()
		// What the reads of this test add comes after these.
		var want []uint64
		for _, r := range g.recordsOf(execution.RecordAuditRead) {
			want = append(want, r.Seq)
		}
		last := fmt.Sprint(want[len(want)-1] + 1)
		var got []uint64
		eventually(t, what+": all reads are found", func() bool {
			got = nil
			for _, r := range find(auditor, "--type", "audit_read", "--oldest", "--before", last) {
				got = append(got, r.Seq)
			}
			return len(got) >= len(want)
		})
		if !slices.Equal(got, want) || len(want) < 150 {
			t.Errorf("%s: found %d reads of %d", what, len(got), len(want))
		}
		if out := usage(); strings.Count(out, ",exited 1,0,") != 1 {
			t.Errorf("%s: usage: %s", what, out)
		}
	}
	check("killed")
	if code := g.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	must(t, os.Remove(filepath.Join(g.state, "index.db")))
	check("without an index")
	if code := g.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	must(t, os.WriteFile(filepath.Join(g.state, "index.db"), []byte(strings.Repeat("x", 1<<16)), 0o600))
	check("with a damaged index")
}

// Whoever follows sees what comes, once, and costs the log a record a minute; also where
// the gateway is killed meanwhile, and comes back.
func TestTailFollows(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	began := time.Now()
	g := newGateway(t, filepath.Join(t.TempDir(), "state"), nil)
	// It comes back where it was: at an address where nobody is given ports meanwhile.
	g.args = []string{"--listen", fmt.Sprintf("127.%d.%d.%d:0", 64+rand.IntN(64), rand.IntN(256), 1+rand.IntN(254))}
	g.start()
	g.waitReady()
	admin := g.key()
	tail := exec.Command("execgate", "audit", "tail", "--follow", "--lines", "1", "--output", "json", "--type", "authentication_failed")
	tail.Env = append(os.Environ(), envURL+"="+g.url, envKey+"="+admin)
	tail.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := tail.StdoutPipe()
	must(t, err)
	told := &logLines{}
	tail.Stderr = told
	must(t, tail.Start())
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	var got []uint64
	next := func() {
		t.Helper()
		select {
		case line := <-lines:
			var r execution.Record
			if err := json.Unmarshal([]byte(line), &r); err != nil || r.Type != execution.RecordAuthenticationFailed {
				t.Fatalf("%q (%v)", line, err)
			}
			got = append(got, r.Seq)
		case <-time.After(patience):
			t.Fatal("nothing comes")
		}
	}
	follow := func() {
		t.Helper()
		for range 5 {
			g.execgate("ak_wrong", "keys", "list")
			next()
		}
	}
	follow()
	g.kill()
	eventually(t, "it tells that the gateway is gone", func() bool { return strings.Contains(told.String(), "asked again until it answers") })
	g.args = []string{"--listen", strings.TrimPrefix(g.url, "http://")}
	g.start()
	g.waitReady()
	follow()
	if n := strings.Count(told.String(), "\n"); n != 1 {
		t.Errorf("it tells %q", told)
	}
	must(t, tail.Process.Signal(syscall.SIGINT))
	if err := tail.Wait(); err != nil {
		t.Errorf("interrupted, it ends with %v", err)
	}
	var want []uint64
	for _, r := range g.recordsOf(execution.RecordAuthenticationFailed) {
		want = append(want, r.Seq)
	}
	if !slices.Equal(got, want) {
		t.Errorf("shown %v, and there are %v", got, want)
	}
	if n := len(g.recordsOf(execution.RecordAuditRead)); n > 4+int(time.Since(began)/time.Minute) {
		t.Errorf("following wrote %d records", n)
	}
}
