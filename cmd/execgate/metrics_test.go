package main

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/export"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/policy/activation"
	"github.com/execgate/execgate/store"
	"github.com/execgate/execgate/vault"
)

// figures are parts that say what they are told to.
type figures struct {
	stats    executor.Stats
	counts   gateway.Counts
	revision string
}

func (f *figures) Stats() executor.Stats      { return f.stats }
func (f *figures) Counts() gateway.Counts     { return f.counts }
func (f *figures) Progress() (uint64, uint64) { return 7, 5 }
func (f *figures) Witnesses() []audit.WitnessState {
	return []audit.WitnessState{{Name: "file", Size: 35, Failures: 36}}
}
func (f *figures) Held() audit.Held {
	return audit.Held{Segments: 31, Bytes: 32, Removed: 33, Oldest: 34}
}
func (f *figures) Revision() string { return f.revision }
func (f *figures) parts() parts     { return parts{f, f, f, f, f, f, lent{}, lent{}, exported{}, f} }
func (f *figures) lag() uint64      { return 25 }
func (f *figures) rebuilt() uint64  { return 26 }
func (f *figures) PolicyCounts() activation.Counts {
	return activation.Counts{Activated: 14, Refused: 15}
}
func (f *figures) Figures() inputFigures {
	return inputFigures{
		kept:   store.InputCounts{Kept: 9, Lost: map[string]uint64{store.LostOverflow: 10}, Waiting: 11},
		shadow: map[string]uint64{"deny_to_allow": 12}, replays: map[string]uint64{"same": 13},
	}
}

// exported are exporters that say what they are told to.
type exported struct{}

func (exported) Stats() []export.Stats {
	return []export.Stats{{Name: "siem", Next: 25, LagRecords: 26, Lag: 27 * time.Second, Failures: 28, Bytes: 29}}
}

// lent are a broker and a lender that say what they are told to.
type lent struct{}

func (lent) Stats() egress.Stats {
	return egress.Stats{
		Connections: map[egress.Outcome]uint64{{Effect: execution.EffectDeny, Code: "private_address"}: 16},
		Requests: map[egress.RequestOutcome]uint64{
			{Outcome: egress.Outcome{Effect: execution.EffectAllow}, Status: "2xx"}:                         25,
			{Outcome: egress.Outcome{Effect: execution.EffectDeny, Code: "method_not_granted"}, Status: ""}: 26,
		},
		RequestBytesOut: 27, RequestBytesIn: 28,
		RequestSeconds: map[string]egress.Histogram{"2xx": {Count: 29, Sum: 30, Buckets: map[float64]uint64{.5: 28}}},
		Active:         17, BytesOut: 18, BytesIn: 19, Unrecorded: 20,
	}
}
func (lent) counts() (vault.Counts, bool) {
	return vault.Counts{Issued: 21, Revoked: 22, RevokeFailures: 23, Pending: 24, BreakerOpen: true}, true
}

// filled has a value for every metric.
func filled() *figures {
	h := executor.Histogram{Count: 3, Sum: 1.5, Buckets: map[float64]uint64{.5: 2, 1: 3}}
	return &figures{
		revision: "sha256:1",
		stats: executor.Stats{
			Shelves: []executor.ShelfStats{
				{Image: "python", Language: "python", Runtime: "runc", Parked: 1, Wanted: 2},
				{Image: "python", Language: "python", Runtime: "runc", Preload: true, Parked: 1, Wanted: 1},
				{Image: "python", Language: "python", Runtime: "runc", Preload: true, Wanted: 1},
			},
			Claims: map[string]uint64{"warm": 1}, Builds: map[string]executor.Histogram{"pool": h}, FailedBuilds: map[string]uint64{"pool": 1},
			Discards: map[string]uint64{"died": 1}, ReusedBusy: 1, ReusedIdle: 2, Reuses: 3, FailedCleanings: 4, Sessions: 5,
			Executions: map[string]executor.Histogram{executor.StartWarm: h},
		},
		counts: gateway.Counts{
			Running: 1, Queued: 2, AuditFailed: 3, StartsLost: 30,
			Decisions: map[gateway.Decided]uint64{{Action: execution.ActionExecute, Effect: execution.EffectDeny}: 4},
			Ended:     map[gateway.Ended]uint64{{Outcome: execution.OutcomeExited, Warm: true}: 5},
			Refused:   map[string]uint64{"draining": 6},
			Approvals: map[string]uint64{"approval_voided": 7},
			Webhooks:  map[string]uint64{"failed": 8},
		},
	}
}

func TestMetricsAreWhatThePartsSay(t *testing.T) {
	handler, err := metricsHandler(filled().parts(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	got := scan(t, w.Body.String())
	for series, want := range map[string]float64{
		`execgate_policy_info{revision="sha256:1"}`:                                                       1,
		`execgate_executions_running`:                                                                     1,
		`execgate_executions_queued`:                                                                      2,
		`execgate_decisions_total{action="execute",effect="deny"}`:                                        4,
		`execgate_refusals_total{code="draining"}`:                                                        6,
		`execgate_approvals_total{record="approval_voided"}`:                                              7,
		`execgate_inputs_kept_total`:                                                                      9,
		`execgate_inputs_lost_total{reason="overflow"}`:                                                   10,
		`execgate_policy_activations_total`:                                                               14,
		`execgate_policy_refusals_total`:                                                                  15,
		`execgate_audit_index_lag_records`:                                                                25,
		`execgate_audit_index_rebuilds_total`:                                                             26,
		`execgate_inputs_waiting`:                                                                         11,
		`execgate_shadow_decisions_total{result="deny_to_allow"}`:                                         12,
		`execgate_selftest_replays_total{result="same"}`:                                                  13,
		`execgate_webhook_deliveries_total{result="failed"}`:                                              8,
		`execgate_executions_total{outcome="exited",start="warm"}`:                                        5,
		`execgate_execution_seconds_bucket{start="warm",le="0.5"}`:                                        2,
		`execgate_execution_seconds_sum{start="warm"}`:                                                    1.5,
		`execgate_parked_sandboxes{image="python",language="python",preload="no",runtime="runc"}`:         1,
		`execgate_parked_sandboxes{image="python",language="python",preload="yes",runtime="runc"}`:        1,
		`execgate_parked_sandboxes_wanted{image="python",language="python",preload="yes",runtime="runc"}`: 2,
		`execgate_claims_total{result="warm"}`:                                                            1,
		`execgate_sandbox_build_seconds_count{use="pool"}`:                                                3,
		`execgate_sandbox_build_failures_total{use="pool"}`:                                               1,
		`execgate_sandboxes_discarded_total{reason="died"}`:                                               1,
		`execgate_reused_sandboxes{state="busy"}`:                                                         1,
		`execgate_reused_sandboxes{state="idle"}`:                                                         2,
		`execgate_reuses_total`:                                                                           3, `execgate_cleaning_failures_total`: 4, `execgate_sessions`: 5,
		`execgate_audit_records_total`: 7, `execgate_audit_signed_records_total`: 5, `execgate_audit_failures_total`: 3, `execgate_audit_starts_lost_total`: 30,
		`execgate_egress_connections_total{code="private_address",effect="deny"}`:           16,
		`execgate_egress_requests_total{code="",effect="allow",status="2xx"}`:               25,
		`execgate_egress_requests_total{code="method_not_granted",effect="deny",status=""}`: 26,
		`execgate_egress_request_bytes_total{direction="out"}`:                              27,
		`execgate_egress_request_bytes_total{direction="in"}`:                               28,
		`execgate_egress_request_seconds_bucket{status="2xx",le="0.5"}`:                     28,
		`execgate_egress_request_seconds_count{status="2xx"}`:                               29,
		`execgate_audit_witnessed_records{witness="file"}`:                                  35,
		`execgate_audit_witness_failures_total{witness="file"}`:                             36,
		`execgate_audit_segments`:                                                           31, `execgate_audit_bytes`: 32, `execgate_audit_segments_removed_total`: 33, `execgate_audit_oldest_record`: 34,
	} {
		if value, ok := got[series]; !ok || value != want {
			t.Errorf("%s is %v (%v), want %v", series, value, ok, want)
		}
	}
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		if got[name] < 1 {
			t.Errorf("%s is %v", name, got[name])
		}
	}
}

// What cannot be encoded is left out, and nothing else.
func TestAWrongFigureLosesItself(t *testing.T) {
	f := filled()
	f.stats.Claims = map[string]uint64{"\xff": 1}
	handler, err := metricsHandler(f.parts(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if text := w.Body.String(); w.Code != http.StatusOK || strings.Contains(text, "execgate_claims_total") || !strings.Contains(text, "execgate_sessions 5") {
		t.Errorf("%d %s", w.Code, text)
	}
}

// The page has each metric that is registered, with its type and labels, and no
// other.
func TestEveryMetricHasItsRow(t *testing.T) {
	registry := prometheus.NewPedanticRegistry() // which holds that each metric is described
	registry.MustRegister(newMetrics(filled().parts()))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(newMetrics(filled().parts()).descs); n != len(families) {
		t.Errorf("%d metrics are registered and %d have a value here", n, len(families))
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := map[string][]string{} // type and labels, by name
	for _, m := range regexp.MustCompile("(?m)^\\| `(execgate_\\w+)` \\| (\\w+) \\|([^|]*)\\| .+ \\|$").FindAllStringSubmatch(section, -1) {
		var labels []string
		for _, label := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[3], -1) {
			labels = append(labels, label[1])
		}
		slices.Sort(labels)
		rows[m[1]] = append([]string{m[2]}, labels...)
	}
	for _, family := range families {
		want := []string{strings.ToLower(family.GetType().String())}
		for _, label := range family.GetMetric()[0].GetLabel() {
			want = append(want, label.GetName())
		}
		if got := rows[family.GetName()]; !slices.Equal(got, want) {
			t.Errorf("docs/operations.md has for %s %v, and it is %v", family.GetName(), got, want)
		}
		delete(rows, family.GetName())
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		t.Errorf("docs/operations.md has %s, and there is no such metric", name)
	}
	for _, m := range regexp.MustCompile("`(execgate_\\w+)`").FindAllStringSubmatch(section, -1) {
		if !slices.ContainsFunc(newMetrics(filled().parts()).descs, func(d *prometheus.Desc) bool {
			return strings.Contains(d.String(), strconv.Quote(m[1]))
		}) {
			t.Errorf("docs/operations.md speaks of %s, and there is no such metric", m[1])
		}
	}
}

// The values of labels are on the page too, where they are words of this gateway.
func TestEveryLabelsValueIsOnThePage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	cfg := defaultConfig()
	cfg.State, cfg.Executor.Agent = t.TempDir(), os.Args[0]
	a, err := newApp(t.Context(), cfg, slog.New(slog.DiscardHandler), appOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	stats, counts := a.executor.Stats(), a.service.Counts()
	words := slices.Concat(
		slices.Collect(maps.Keys(stats.Claims)), slices.Collect(maps.Keys(stats.Builds)), slices.Collect(maps.Keys(stats.FailedBuilds)),
		slices.Collect(maps.Keys(stats.Discards)), slices.Collect(maps.Keys(stats.Executions)), slices.Collect(maps.Keys(counts.Refused)),
	)
	for _, word := range words {
		if !strings.Contains(string(page), "`"+word+"`") {
			t.Errorf("docs/operations.md does not have `%s`", word)
		}
	}
}

// metrics asks for them as Prometheus does, with the key of an auditor.
func (g *gatewayUnderTest) metrics(key string) string {
	g.t.Helper()
	r := g.request(http.MethodGet, "/metrics", "", "Authorization", "Bearer "+key, "Content-Type", "")
	if r.status != http.StatusOK {
		g.t.Fatalf("%d %s", r.status, r.body)
	}
	return string(r.body)
}

// A gateway that has executed tells of it: how it began, how it ended, what the
// pool had for it; and nothing of what was executed, or by whom.
func TestMetricsOfAGateway(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{
		"EXECGATE_EXECUTOR_WARM_TARGET": "1", "EXECGATE_EXECUTOR_WARM_MAX": "1", "EXECGATE_EXECUTOR_WARM_PRELOAD_TARGET": "0",
	})
	made := g.request(http.MethodPost, "/v1/keys", `{"tenant":"default","roles":["auditor"],"label":"labellabel"}`)
	auditor := keyOf(t, made)
	const shelf = `{image="python",language="python",preload="no",runtime="runc"}`
	until := func(what string, want map[string]float64) {
		t.Helper()
		var got map[string]float64
		defer func() {
			for series := range want {
				if got[series] != want[series] {
					t.Errorf("%s: %s is %v, want %v", what, series, got[series], want[series])
				}
			}
		}()
		eventually(t, what, func() bool {
			got = scan(t, g.metrics(auditor))
			for series, value := range want {
				if got[series] != value {
					return false
				}
			}
			return true
		})
	}
	until("a sandbox is parked", map[string]float64{
		"execgate_parked_sandboxes" + shelf: 1, "execgate_parked_sandboxes_wanted" + shelf: 1,
		`execgate_claims_total{result="warm"}`: 0, `execgate_sandboxes_discarded_total{reason="died"}`: 0,
	})
	died := g.waitContainers(1)[0].ID
	engineDo(t, http.MethodPost, "/containers/"+died+"/kill")
	until("the dead one is replaced", map[string]float64{
		"execgate_parked_sandboxes" + shelf: 1, `execgate_sandboxes_discarded_total{reason="died"}`: 1,
		`execgate_sandbox_build_seconds_count{use="pool"}`: 2,
	})
	warm := g.execute(python("print('codecode')", `"metadata":{"agent":"agentagent"}`)).ok(t)
	cold := g.execute(`{"language":"bash","code":"echo codecode; exit 3"}`).ok(t)
	g.execute(python("1", `"tools":["github"]`)).refused(t, http.StatusForbidden)
	until("what was executed is counted", map[string]float64{
		`execgate_claims_total{result="warm"}`: 1, `execgate_claims_total{result="none_kept"}`: 1, `execgate_claims_total{result="empty"}`: 0,
		`execgate_executions_total{outcome="exited",start="warm"}`: 1, `execgate_executions_total{outcome="exited",start="cold"}`: 1,
		`execgate_execution_seconds_count{start="warm"}`: 1, `execgate_execution_seconds_count{start="cold"}`: 1,
		`execgate_decisions_total{action="execute",effect="allow"}`: 2, `execgate_decisions_total{action="execute",effect="deny"}`: 1,
		`execgate_sandbox_build_seconds_count{use="execution"}`: 1, `execgate_sandbox_build_seconds_count{use="pool"}`: 3,
		`execgate_sandbox_build_failures_total{use="pool"}`: 0, "execgate_parked_sandboxes" + shelf: 1,
		`execgate_executions_running`: 0, `execgate_audit_failures_total`: 0, `execgate_sessions`: 0,
	})
	text := g.metrics(auditor)
	if got := scan(t, text); got["execgate_audit_records_total"] < 7 || !strings.Contains(text, `execgate_policy_info{revision="sha256:`) {
		t.Errorf("%v records; %s", got["execgate_audit_records_total"], text)
	}
	_, secret, _ := strings.Cut(auditor, ".")
	for _, private := range []string{"codecode", "agentagent", "labellabel", "tenant", "subject", auditor[:29], secret, g.id(), g.state, warm.ID, cold.ID} {
		if strings.Contains(text, private) {
			t.Errorf("%q stands in the metrics", private)
		}
	}
	g.request(http.MethodGet, "/metrics", "", "Authorization", "").refused(t, http.StatusUnauthorized)
	caller := keyOf(t, g.request(http.MethodPost, "/v1/keys", `{"tenant":"default","roles":["caller"]}`))
	g.request(http.MethodGet, "/metrics", "", "Authorization", "Bearer "+caller).refused(t, http.StatusForbidden)
}

// scan returns the values of a text of metrics by series, and holds that it is
// one of the form that Prometheus reads.
func scan(t testing.TB, text string) map[string]float64 {
	t.Helper()
	line := regexp.MustCompile(`^([a-z_]+(?:\{[a-z_]+="[^"]*"(?:,[a-z_]+="[^"]*")*\})?) (\S+)$`)
	values := map[string]float64{}
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n")
		if strings.HasPrefix(l, "# HELP ") || strings.HasPrefix(l, "# TYPE ") {
			continue
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			t.Fatalf("not a metric: %q", l)
		}
		value, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		values[m[1]] = value
	}
	return values
}

// engineDo has the engine do something.
func engineDo(t testing.TB, method, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://engine"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := engineHTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("engine: %s %s: %s: %s", method, path, resp.Status, text)
	}
}
