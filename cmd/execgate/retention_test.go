package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
)

// fillLog has the gateway record what it refuses, some 17 KiB each, until the log has
// sealed n further segments, or takes no more.
func (g *gatewayUnderTest) fillLog(n int) (full bool) {
	g.t.Helper()
	claims := map[string]string{}
	for i := range 32 {
		claims[fmt.Sprint("claim_", i)] = strings.Repeat("x", 512)
	}
	metadata, err := json.Marshal(claims)
	if err != nil {
		g.t.Fatal(err)
	}
	body := python("print(1)", `"metadata":`+string(metadata), `"network":["nowhere.example:443"]`)
	newest := func() string {
		files := g.segments()
		return files[len(files)-1]
	}
	for range n {
		for before := newest(); newest() == before; {
			switch r := g.execute(body); r.status {
			case http.StatusForbidden:
			case http.StatusServiceUnavailable:
				if !strings.Contains(string(r.body), "audit_unavailable") {
					g.t.Fatalf("%s", r.body)
				}
				return true
			default:
				g.t.Fatalf("%d %s", r.status, r.body)
			}
		}
	}
	return false
}

// segments are the files of the log, in order.
func (g *gatewayUnderTest) segments() []string {
	files, err := filepath.Glob(filepath.Join(g.state, "audit", "*.segment"))
	if err != nil {
		g.t.Fatal(err)
	}
	return files
}

// oldestShown is the number of the first record that the gateway shows.
func (g *gatewayUnderTest) oldestShown() uint64 {
	g.t.Helper()
	r := g.request(http.MethodGet, "/v1/records?order=oldest&limit=1", "")
	var page struct{ Records []execution.Record }
	if err := json.Unmarshal(r.body, &page); err != nil || len(page.Records) != 1 {
		g.t.Fatalf("%d %s", r.status, r.body)
	}
	return page.Records[0].Seq
}

// A gateway holds its log within its settings, as far as its exporter lets it: what the
// exporter has not acknowledged stays, new work is then refused, and once it is
// acknowledged the log goes on by itself. What is left starts, verifies, and is what
// is shown.
func TestRetentionOfAGateway(t *testing.T) {
	t.Parallel()
	var acknowledges atomic.Bool
	var got received
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !acknowledges.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var records []json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&records); err != nil {
			t.Error(err)
		}
		got.add(t, records...)
	}))
	defer receiver.Close()
	// A log that is full is waited for as long as a record has: longer than a busy disk may
	// take for one.
	g := withConfig(t, map[string]string{"EXECGATE_AUDIT_BUDGET_MS": "10000"}, fmt.Sprintf(`
audit: {segment_mib: 1, max_mib: 4, retain_days: 1, when_full: drop_exported}
exporters: [{name: siem, type: http, url: %s/ingest}]
`, receiver.URL))
	if !g.fillLog(10) {
		t.Fatal("the log takes more than it may")
	}
	if files := g.segments(); len(files) > 4 || filepath.Base(files[0]) != "0000000001.segment" {
		t.Errorf("the exporter has nothing, and there are %v", files)
	}
	if g.oldestShown() != 0 {
		t.Error("the first record is not shown any more")
	}
	acknowledges.Store(true)
	eventually(t, "there is room again", func() bool { return len(g.segments()) <= 2 })
	if g.fillLog(5) {
		eventually(t, "there is room again, while the exporter catches up", func() bool { return !g.fillLog(1) })
	}
	check := func(what string) {
		t.Helper()
		eventually(t, what+": retention has done what there is to do", func() bool { return len(g.segments()) <= 2 })
		oldest := g.records()[0].Seq
		if oldest == 0 {
			t.Fatalf("%s: nothing was removed", what)
		}
		eventually(t, what+": the oldest that is shown is the oldest that is kept", func() bool { return g.oldestShown() == oldest })
		if r := g.request(http.MethodGet, "/v1/records/0", ""); r.status != http.StatusNotFound {
			t.Errorf("%s: record 0: %d %s", what, r.status, r.body)
		}
		metrics := g.metrics(g.key())
		for _, want := range []string{fmt.Sprintf("execgate_audit_oldest_record %d\n", oldest), "execgate_audit_segments 2\n"} {
			if !strings.Contains(metrics, want) {
				t.Errorf("%s: the metrics have no %q", what, want)
			}
		}
	}
	check("running")
	for _, life := range []struct {
		what string
		end  func()
	}{
		{"stopped", func() {
			if code := g.stop(); code != 0 {
				t.Errorf("the gateway ended with %d", code)
			}
			out, code := g.execgate("", "audit", "verify", "--dir", filepath.Join(g.state, "audit"), "--key", filepath.Join(g.state, "keys", "audit.pub"))
			if code != 0 || !strings.Contains(out, "gone by retention") {
				t.Errorf("verify: %d %s", code, out)
			}
		}},
		{"killed", func() { g.kill() }},
	} {
		life.end()
		g.start()
		g.waitReady()
		check(life.what)
	}
	last := g.records()[0].Seq
	eventually(t, "the exporter had what was removed", func() bool {
		all := got.seqs()
		slices.Sort(all)
		return uint64(len(all)) > last && all[last] == last
	})
	if code := g.stop(); code != 0 {
		t.Errorf("the gateway ended with %d", code)
	}
	g.verify()
	if left, err := filepath.Glob(filepath.Join(g.state, "audit", "*.checkpoint")); err != nil || len(left) > 3 {
		t.Errorf("checkpoints are left: %v %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(g.state, "audit", "0000000001.segment")); err == nil {
		t.Error("the first segment is back")
	}
}

// That old segments cannot be removed shows before the log is full.
func TestReadyzWarnsOfRetention(t *testing.T) {
	t.Parallel()
	i := startIndexedLog(t, t.TempDir(), audit.Config{SegmentBytes: 64 << 10, MaxBytes: 256 << 10, DropExported: true})
	ready := func() error { return auditProber{i.log}.Ready(t.Context()) }
	const warning = "cannot remove old segments"
	for n := 1; i.log.Held().Removed == 0; n++ {
		i.appendSoon(t, n)
	}
	eventually(t, "a log that removes what it should has room", func() bool {
		err := ready()
		if err != nil && strings.Contains(err.Error(), warning) {
			t.Fatal(err)
		}
		return err == nil
	})
	inTheWay := filepath.Join(i.dir, "0000000001.segment")
	must(t, os.MkdirAll(filepath.Join(inTheWay, "file"), 0o700))
	for i.log.Retaining() == nil {
		// It may be full meanwhile, and is then refused.
		_, _ = i.log.Append(t.Context(), execution.Record{Type: execution.RecordAuthenticationFailed})
	}
	// One that is full is not ready, which says more.
	if err := ready(); execution.KindOf(err) != execution.KindUnavailable && (err == nil || !strings.Contains(err.Error(), warning)) {
		t.Errorf("a log that cannot: %v", err)
	}
	must(t, os.RemoveAll(inTheWay))
	eventually(t, "the warning ends", func() bool { return ready() == nil })
}
