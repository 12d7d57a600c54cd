package main

import (
	"log/slog"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/export"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/policy/activation"
	"github.com/execgate/execgate/vault"
)

// metricsAtOnce is how many may read the metrics at the same time.
const metricsAtOnce = 4

// parts are what metrics are read from.
type parts struct {
	executor interface{ Stats() executor.Stats }
	service  interface{ Counts() gateway.Counts }
	log      interface {
		Progress() (durable, signed uint64)
		Witnesses() []audit.WitnessState
		Held() audit.Held
	}
	policy interface{ Revision() string }
	inputs interface{ Figures() inputFigures }
	// policies are counted apart from the policy that is in force.
	policies  interface{ PolicyCounts() activation.Counts }
	egress    interface{ Stats() egress.Stats }
	lender    interface{ counts() (vault.Counts, bool) }
	exporters interface{ Stats() []export.Stats }
	records   interface {
		lag() uint64
		rebuilt() uint64
	}
}

// metricsHandler answers with the metrics of parts and of the process, as they
// are when it is asked. What cannot be had is left out, and logged.
func metricsHandler(p parts, logger *slog.Logger) (http.Handler, error) {
	registry, err := newRegistry(p)
	if err != nil {
		return nil, err
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: metricsAtOnce,
	}), nil
}

func newRegistry(p parts) (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		newMetrics(p), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return registry, nil
}

// family is one metric with all its labels.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// metrics is a collector of what the parts count. A label never has a value that
// a caller chose: those are without bound, and are nobody else's business.
type metrics struct {
	parts parts
	descs []*prometheus.Desc

	activations, policyRefusals                        family
	build, policy                                      family
	running, queued                                    family
	decisions, refusals, executions, executionSeconds  family
	parked, wanted, claims, buildSeconds, failedBuilds family
	discards, reused, reuses, failedCleanings          family
	sessions                                           family
	approvals, webhooks                                family
	auditRecords, auditSigned, auditFailed, startsLost family
	auditWitnessed, witnessFailures                    family
	auditSegments, auditBytes                          family
	auditRemoved, auditOldest, auditWaiting            family
	inputsKept, inputsLost, inputsWaiting              family
	shadowed, replays                                  family
	connections, egressBytes, egressActive             family
	egressUnrecorded, egressKept, egressReused         family
	egressRequests, egressRequestBytes                 family
	egressRequestSeconds                               family
	leasesIssued, leasesRevoked, revokeFailures        family
	pendingRevocations, vaultBreaker                   family
	exportNext, exportLag, exportLagSeconds            family
	exportFailures, exportBytes                        family
	indexLag, indexRebuilds                            family
}

func newMetrics(p parts) *metrics {
	m := &metrics{parts: p}
	m.build = m.gauge("build_info", "The version that runs; always 1.", "version", "go_version")
	m.activations = m.counter("policy_activations_total", "Times that a policy was put in force, the organisation's or one below it.")
	m.policyRefusals = m.counter("policy_refusals_total", "Policies, the organisation's or one below it, that were not put in force.")
	m.policy = m.gauge("policy_info", "The policy in force, always 1; absent where none is.", "revision")

	m.running = m.gauge("executions_running", "Executions that hold a slot.")
	m.queued = m.gauge("executions_queued", "Executions that wait for a slot.")
	m.decisions = m.counter("decisions_total", "Decisions that were recorded.", "action", "effect")
	m.refusals = m.counter("refusals_total", "Executions and sessions that found no room, or a gateway that shuts down.", "code")
	m.executions = m.counter("executions_total", "Executions that were allowed and ended.", "outcome", "start")
	m.executionSeconds = m.histogram("execution_seconds", "Time from the slot to the result, of executions with a result.", "start")

	shelf := []string{"image", "language", "runtime", "preload"}
	m.parked = m.gauge("parked_sandboxes", "Sandboxes that wait, their interpreter up.", shelf...)
	m.wanted = m.gauge("parked_sandboxes_wanted", "Sandboxes that should wait now.", shelf...)
	m.claims = m.counter("claims_total", "Times that a parked sandbox was asked for.", "result")
	m.buildSeconds = m.histogram("sandbox_build_seconds", "Time to build a sandbox, of those that came up.", "use")
	m.failedBuilds = m.counter("sandbox_build_failures_total", "Sandboxes that did not come up.", "use")
	m.discards = m.counter("sandboxes_discarded_total", "Sandboxes that were up and given up unused.", "reason")
	m.reused = m.gauge("reused_sandboxes", "Sandboxes kept for further executions of their principals.", "state")
	m.reuses = m.counter("reuses_total", "Executions that got a sandbox which had run another.")
	m.failedCleanings = m.counter("cleaning_failures_total", "Sandboxes that could not be cleaned, and are not reused.")
	m.sessions = m.gauge("sessions", "Sessions that are open.")

	m.approvals = m.counter("approvals_total", "Records about approvals.", "record")
	m.webhooks = m.counter("webhook_deliveries_total", "Deliveries to webhooks that came to an end.", "result")

	m.auditRecords = m.counter("audit_records_total", "Records in the audit log, from its beginning.")
	m.auditSigned = m.counter("audit_signed_records_total", "Records in the audit log that a checkpoint has signed.")
	m.auditSegments = m.gauge("audit_segments", "Files that the audit log has.")
	m.auditBytes = m.gauge("audit_bytes", "What the files of the audit log take up.")
	m.auditRemoved = m.counter("audit_segments_removed_total", "Files of the audit log that retention removed.")
	m.auditOldest = m.gauge("audit_oldest_record", "Number of the oldest record that is kept.")
	m.auditWaiting = m.gauge("audit_retention_waiting_segments", "Files of the audit log that are due to be removed, and still needed.", "for")
	m.startsLost = m.counter("audit_starts_lost_total", "Executions that ran without a record of their beginning, because it could not be written.")
	m.auditFailed = m.counter("audit_failures_total", "Times that something was refused or withheld because a record could not be written.")

	m.auditWitnessed = m.gauge("audit_witnessed_records", "Records in the last checkpoint that a witness has kept since the start.", "witness")
	m.witnessFailures = m.counter("audit_witness_failures_total", "Times that a witness did not keep a checkpoint.", "witness")

	m.inputsKept = m.counter("inputs_kept_total", "Decisions whose inputs were kept for replays.")
	m.inputsLost = m.counter("inputs_lost_total", "Decisions that cannot be replayed.", "reason")
	m.inputsWaiting = m.gauge("inputs_waiting", "Inputs that wait to be written.")
	m.shadowed = m.counter("shadow_decisions_total", "What the shadow policy made of decisions.", "result")
	m.replays = m.counter("selftest_replays_total", "What came of replaying recent decisions by their own policies.", "result")

	m.connections = m.counter("egress_connections_total", "Connections that programs opened, by what became of them.", "effect", "code")
	m.egressActive = m.gauge("egress_connections", "Connections that are carried now.")
	m.egressBytes = m.counter("egress_bytes_total", "Bytes that connections carried.", "direction")
	m.egressUnrecorded = m.counter("egress_unrecorded_refusals_total", "Refusals of programs that were refused too often to record each.")
	m.egressKept = m.gauge("egress_kept_connections", "Connections that wait for further calls of http tools.")
	m.egressReused = m.counter("egress_reused_connections_total", "Calls of http tools that had one of them.")
	m.egressRequests = m.counter("egress_requests_total", "Requests that programs made over intercepted connections, by what became of them.", "effect", "code", "status")
	m.egressRequestBytes = m.counter("egress_request_bytes_total", "Bytes of the bodies of those requests, and of their answers.", "direction")
	m.egressRequestSeconds = m.histogram("egress_request_seconds", "Time from the decision to the answer's end, of requests that were allowed.", "status")
	m.leasesIssued = m.counter("vault_leases_issued_total", "Credentials that were lent.")
	m.leasesRevoked = m.counter("vault_leases_revoked_total", "Credentials that were taken back.")
	m.revokeFailures = m.counter("vault_revoke_failures_total", "Attempts to take back that failed, and are made again.")
	m.pendingRevocations = m.gauge("vault_pending_revocations", "Tokens that are to be ended and are not yet.")
	m.vaultBreaker = m.gauge("vault_breaker_open", "Whether Vault is not asked now, since it does not answer; 0 or 1.")
	m.exportNext = m.gauge("export_next_seq", "Number of the first audit record that the exporter's receiver has not acknowledged.", "exporter")
	m.exportLag = m.gauge("export_lag_records", "Durable audit records that it has not acknowledged.", "exporter")
	m.exportLagSeconds = m.gauge("export_lag_seconds", "Age of the oldest of them that was read.", "exporter")
	m.exportFailures = m.counter("export_failures_total", "Attempts to deliver that failed, and are made again.", "exporter")
	m.exportBytes = m.counter("export_bytes_total", "Bytes of audit records that were delivered, before compression.", "exporter")
	m.indexLag = m.gauge("audit_index_lag_records", "Durable records of the audit log that cannot be found yet.")
	m.indexRebuilds = m.counter("audit_index_rebuilds_total", "Times that the index of the audit log was made anew.")
	return m
}

func (m *metrics) family(kind prometheus.ValueType, name, help string, labels []string) family {
	desc := prometheus.NewDesc("execgate_"+name, help, labels, nil)
	m.descs = append(m.descs, desc)
	return family{desc, kind}
}

func (m *metrics) gauge(name, help string, labels ...string) family {
	return m.family(prometheus.GaugeValue, name, help, labels)
}

func (m *metrics) counter(name, help string, labels ...string) family {
	return m.family(prometheus.CounterValue, name, help, labels)
}

// histogram is a family for readings.times.
func (m *metrics) histogram(name, help string, labels ...string) family {
	return m.family(prometheus.UntypedValue, name, help, labels)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range m.descs {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	r := readings(ch)
	r.value(m.build, 1, version(), runtime.Version())
	if revision := m.parts.policy.Revision(); revision != "" {
		r.value(m.policy, 1, revision)
	}
	changes := m.parts.policies.PolicyCounts()
	r.value(m.activations, float64(changes.Activated))
	r.value(m.policyRefusals, float64(changes.Refused))
	m.ofService(r, m.parts.service.Counts())
	m.ofExecutor(r, m.parts.executor.Stats())
	durable, signed := m.parts.log.Progress()
	r.value(m.auditRecords, float64(durable))
	r.value(m.auditSigned, float64(signed))
	for _, w := range m.parts.log.Witnesses() {
		r.value(m.auditWitnessed, float64(w.Size), w.Name)
		r.value(m.witnessFailures, float64(w.Failures), w.Name)
	}
	held := m.parts.log.Held()
	r.value(m.auditSegments, float64(held.Segments))
	r.value(m.auditBytes, float64(held.Bytes))
	r.value(m.auditRemoved, float64(held.Removed))
	r.value(m.auditOldest, float64(held.Oldest))
	for _, hold := range audit.Holds() {
		waiting := 0
		if hold == held.For {
			waiting = held.Waiting
		}
		r.value(m.auditWaiting, float64(waiting), string(hold))
	}
	m.ofInputs(r, m.parts.inputs.Figures())
	m.ofEgress(r, m.parts.egress.Stats())
	for _, s := range m.parts.exporters.Stats() {
		m.ofExporter(r, s)
	}
	r.value(m.indexLag, float64(m.parts.records.lag()))
	r.value(m.indexRebuilds, float64(m.parts.records.rebuilt()))
	if n, ok := m.parts.lender.counts(); ok {
		m.ofVault(r, n)
	}
}

func (m *metrics) ofEgress(r readings, s egress.Stats) {
	for outcome, count := range s.Connections {
		r.value(m.connections, float64(count), string(outcome.Effect), outcome.Code)
	}
	r.value(m.egressActive, float64(s.Active))
	r.value(m.egressBytes, float64(s.BytesOut), "out")
	r.value(m.egressBytes, float64(s.BytesIn), "in")
	r.value(m.egressUnrecorded, float64(s.Unrecorded))
	r.value(m.egressKept, float64(s.Kept))
	r.value(m.egressReused, float64(s.Reused))
	for outcome, count := range s.Requests {
		r.value(m.egressRequests, float64(count), string(outcome.Effect), outcome.Code, outcome.Status)
	}
	r.value(m.egressRequestBytes, float64(s.RequestBytesOut), "out")
	r.value(m.egressRequestBytes, float64(s.RequestBytesIn), "in")
	for status, h := range s.RequestSeconds {
		r.times(m.egressRequestSeconds, map[string]executor.Histogram{status: executor.Histogram(h)})
	}
}

// ofExporter has names of the configuration as labels: no caller chose them.
func (m *metrics) ofExporter(r readings, s export.Stats) {
	r.value(m.exportNext, float64(s.Next), s.Name)
	r.value(m.exportLag, float64(s.LagRecords), s.Name)
	r.value(m.exportLagSeconds, s.Lag.Seconds(), s.Name)
	r.value(m.exportFailures, float64(s.Failures), s.Name)
	r.value(m.exportBytes, float64(s.Bytes), s.Name)
}

func (m *metrics) ofVault(r readings, n vault.Counts) {
	r.value(m.leasesIssued, float64(n.Issued))
	r.value(m.leasesRevoked, float64(n.Revoked))
	r.value(m.revokeFailures, float64(n.RevokeFailures))
	r.value(m.pendingRevocations, float64(n.Pending))
	open := 0.0
	if n.BreakerOpen {
		open = 1
	}
	r.value(m.vaultBreaker, open)
}

func (m *metrics) ofInputs(r readings, f inputFigures) {
	r.value(m.inputsKept, float64(f.kept.Kept))
	r.values(m.inputsLost, f.kept.Lost)
	r.value(m.inputsWaiting, float64(f.kept.Waiting))
	r.values(m.shadowed, f.shadow)
	r.values(m.replays, f.replays)
}

func (m *metrics) ofService(r readings, n gateway.Counts) {
	r.value(m.running, float64(n.Running))
	r.value(m.queued, float64(n.Queued))
	for decided, count := range n.Decisions {
		r.value(m.decisions, float64(count), string(decided.Action), string(decided.Effect))
	}
	r.values(m.refusals, n.Refused)
	r.values(m.approvals, n.Approvals)
	r.values(m.webhooks, n.Webhooks)
	for ended, count := range n.Ended {
		start := executor.StartCold
		if ended.Warm {
			start = executor.StartWarm
		}
		r.value(m.executions, float64(count), string(ended.Outcome), start)
	}
	r.value(m.auditFailed, float64(n.AuditFailed))
	r.value(m.startsLost, float64(n.StartsLost))
}

func (m *metrics) ofExecutor(r readings, s executor.Stats) {
	for at, count := range shelvesOf(s) {
		r.value(m.parked, float64(count.parked), at.image, at.language, at.runtime, at.preload)
		r.value(m.wanted, float64(count.wanted), at.image, at.language, at.runtime, at.preload)
	}
	r.values(m.claims, s.Claims)
	r.times(m.buildSeconds, s.Builds)
	r.values(m.failedBuilds, s.FailedBuilds)
	r.values(m.discards, s.Discards)
	r.value(m.reused, float64(s.ReusedBusy), "busy")
	r.value(m.reused, float64(s.ReusedIdle), "idle")
	r.value(m.reuses, float64(s.Reuses))
	r.value(m.failedCleanings, float64(s.FailedCleanings))
	r.value(m.sessions, float64(s.Sessions))
	r.times(m.executionSeconds, s.Executions)
}

type (
	shelfLabels struct{ image, language, runtime, preload string }
	shelfCounts struct{ parked, wanted int }
)

// shelvesOf adds up shelves whose labels are the same.
func shelvesOf(s executor.Stats) map[shelfLabels]shelfCounts {
	sums := map[shelfLabels]shelfCounts{}
	for _, shelf := range s.Shelves {
		at := shelfLabels{shelf.Image, shelf.Language, shelf.Runtime, "no"}
		if shelf.Preload {
			at.preload = "yes"
		}
		sum := sums[at]
		sums[at] = shelfCounts{sum.parked + shelf.Parked, sum.wanted + shelf.Wanted}
	}
	return sums
}
