package main

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"

	"github.com/execgate/execgate/identity"
)

// configSchema describes the configuration file for editors and for people.
//
//go:embed config.schema.json
var configSchema []byte

// Config is the whole configuration. A setting's value is that of its flag,
// else of its environment variable, else of the file, else the default.
// Secrets have no place in it. config.schema.json says the same for editors and
// for people.
type Config struct {
	// Listen is the address of the HTTP API.
	Listen string `yaml:"listen"`
	// State is the folder for everything that lasts; empty: see stateFolder.
	State     string          `yaml:"state"`
	Log       LogConfig       `yaml:"log"`
	Requests  RequestsConfig  `yaml:"requests"`
	Sessions  SessionsConfig  `yaml:"sessions"`
	Policy    PolicyConfig    `yaml:"policy"`
	Approvals ApprovalsConfig `yaml:"approvals"`
	Webhooks  WebhooksConfig  `yaml:"webhooks"`
	Executor  ExecutorConfig  `yaml:"executor"`
	Vault     VaultConfig     `yaml:"vault"`
	Egress    EgressConfig    `yaml:"egress"`
	Audit     AuditConfig     `yaml:"audit"`
	// Tools are those that policies may grant.
	Tools []ToolConfig `yaml:"tools"`
	// Exporters are where audit records are delivered.
	Exporters []ExporterConfig `yaml:"exporters"`
}

// LogConfig is about the process's own log, on standard error.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json
}

// RequestsConfig bounds what is taken in.
type RequestsConfig struct {
	MaxRunning int `yaml:"max_running"` // executions at once
	MaxQueued  int `yaml:"max_queued"`  // submitted ones that wait
	// Reserved are slots, out of MaxRunning, by the tenant that alone may use them.
	Reserved   map[string]int `yaml:"reserved"`
	MaxBodyKiB int64          `yaml:"max_body_kib"`
	MaxCodeKiB int64          `yaml:"max_code_kib"`
	// KeepResultsMS is how long a submitted execution is remembered past its end.
	KeepResultsMS int64 `yaml:"keep_results_ms"`
	ResultsMiB    int64 `yaml:"results_mib"` // of all that are remembered
	// DrainMS is how long running executions may go on at shutdown.
	DrainMS int64 `yaml:"drain_ms"`
}

// SessionsConfig bounds the sessions.
type SessionsConfig struct {
	Max int `yaml:"max"` // open at once, of all tenants
}

// PolicyConfig is about the organisation's policy.
type PolicyConfig struct {
	Folder string `yaml:"folder"` // empty: the embedded policy
	// URL is where a bundle server has the policy, in the place of Folder; TokenFile
	// holds what it is asked with, and every PollMS it is asked again.
	URL       string `yaml:"url"`
	TokenFile string `yaml:"token_file"`
	PollMS    int64  `yaml:"poll_ms"`
	// Keys is the path of the public keys, one of which must have signed a policy;
	// empty: none needs to.
	Keys         string `yaml:"keys"`
	RequireTests bool   `yaml:"require_tests"` // refuse a policy without tests of its own
	DeadlineMS   int64  `yaml:"deadline_ms"`
	InputCode    bool   `yaml:"input_code"`  // policies see the code itself
	Environment  string `yaml:"environment"` // policies see it as context.environment
	// Ceilings is the path of a JSON file of what no policy can grant more of;
	// empty: there are none.
	Ceilings string `yaml:"ceilings"`
	// Tenants is a folder with a folder for each tenant that has a policy of its
	// own; empty: none has.
	Tenants string `yaml:"tenants"`
	// Shadow is a folder with a policy that is asked too, after the answer, and
	// decides nothing; empty: there is none.
	Shadow string       `yaml:"shadow"`
	Inputs InputsConfig `yaml:"inputs"`
}

// InputsConfig is about the inputs of decisions, which are kept for replays.
type InputsConfig struct {
	RetainDays int64 `yaml:"retain_days"` // 0: none are kept
	MaxMiB     int64 `yaml:"max_mib"`     // of all that are kept
}

// ExecutorConfig is about sandboxes.
type ExecutorConfig struct {
	Engine         string `yaml:"engine"` // address; empty: DOCKER_HOST, then the default socket
	Agent          string `yaml:"agent"`  // path of execgate-agent; empty: beside execgate
	Images         string `yaml:"images"` // path of an images.yaml; empty: the embedded list
	FirstUID       int    `yaml:"first_uid"`
	UIDCount       int    `yaml:"uid_count"`
	StopGraceMS    int64  `yaml:"stop_grace_ms"`
	StartTimeoutMS int64  `yaml:"start_timeout_ms"`
	// WarmTarget python sandboxes are kept parked, under demand up to WarmMax, and
	// where there is none for a long time no more than WarmMin,
	// and WarmPreloadTarget further ones with modules imported. Zero: none.
	WarmTarget        int `yaml:"warm_target"`
	WarmMin           int `yaml:"warm_min"`
	WarmMax           int `yaml:"warm_max"`
	WarmPreloadTarget int `yaml:"warm_preload_target"`
}

// AuditConfig is about the audit log.
type AuditConfig struct {
	SegmentMiB int64 `yaml:"segment_mib"`
	BudgetMS   int64 `yaml:"budget_ms"` // how long a record may take to become durable
	// WitnessFile and WitnessURL are where checkpoints are kept too; empty: nowhere.
	// WitnessTokenFile holds what the latter is asked with, WitnessCAFile the
	// authorities (PEM) that its certificate may be from, in the place of the system's.
	WitnessFile      string `yaml:"witness_file"`
	WitnessURL       string `yaml:"witness_url"`
	WitnessTokenFile string `yaml:"witness_token_file"`
	WitnessCAFile    string `yaml:"witness_ca_file"`

	RetainDays int64  `yaml:"retain_days"` // 0: for ever
	MaxMiB     int64  `yaml:"max_mib"`     // 0: no bound
	WhenFull   string `yaml:"when_full"`
	HeartbeatS int64  `yaml:"heartbeat_s"` // 0: none
}

func defaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:8080",
		Log:    LogConfig{Level: "info", Format: "text"},
		Requests: RequestsConfig{
			MaxRunning: 16, MaxQueued: 64, MaxBodyKiB: 16 << 10, MaxCodeKiB: 1 << 10,
			KeepResultsMS: 24 * 60 * 60 * 1000, ResultsMiB: 1 << 10, DrainMS: 30_000,
		},
		Sessions:  SessionsConfig{Max: 16},
		Approvals: ApprovalsConfig{MaxPending: 100, PendingMiB: 256},
		Policy:    PolicyConfig{DeadlineMS: 50, PollMS: 60_000, Inputs: InputsConfig{RetainDays: 30, MaxMiB: 1 << 10}},
		Executor: ExecutorConfig{
			FirstUID: 210_000, UIDCount: 1024, StopGraceMS: 500, StartTimeoutMS: 30_000,
			WarmTarget: 2, WarmMin: 1, WarmMax: 4, WarmPreloadTarget: 1,
		},
		Vault: defaultVault(), Egress: EgressConfig{IdleTimeoutMS: 10 * 60 * 1000, UngrantedNames: namesExplained},
		Audit: AuditConfig{SegmentMiB: 64, BudgetMS: 2000, WhenFull: "refuse", HeartbeatS: 300},
	}
}

// bound is the range of a setting that is a number.
type bound struct {
	key      string
	value    int64
	min, max int64
}

// maxReserved bounds the slots reserved for one tenant.
const maxReserved = 9_999

// bounds are those of config.schema.json. The upper ones catch slips of the
// hand and overflow.
func (c Config) bounds() []bound {
	return []bound{
		{"requests.max_running", int64(c.Requests.MaxRunning), 1, 10_000},
		{"requests.max_queued", int64(c.Requests.MaxQueued), 1, 10_000},
		{"requests.max_body_kib", c.Requests.MaxBodyKiB, 1, 1 << 20},
		{"requests.max_code_kib", c.Requests.MaxCodeKiB, 1, 1 << 20},
		{"requests.keep_results_ms", c.Requests.KeepResultsMS, 1, 30 * 24 * 60 * 60 * 1000},
		{"requests.results_mib", c.Requests.ResultsMiB, 1, 1 << 20},
		{"requests.drain_ms", c.Requests.DrainMS, 1, 24 * 60 * 60 * 1000},
		{"sessions.max", int64(c.Sessions.Max), 1, 10_000},
		{"approvals.max_pending", int64(c.Approvals.MaxPending), 1, 10_000},
		{"approvals.pending_mib", c.Approvals.PendingMiB, 1, 1 << 20},
		{"policy.poll_ms", c.Policy.PollMS, 1000, 24 * 60 * 60 * 1000},
		{"policy.deadline_ms", c.Policy.DeadlineMS, 1, 10_000},
		{"policy.inputs.retain_days", c.Policy.Inputs.RetainDays, 0, 3650},
		{"policy.inputs.max_mib", c.Policy.Inputs.MaxMiB, 1, 1 << 20},
		{"executor.first_uid", int64(c.Executor.FirstUID), 1000, math.MaxInt32},
		{"executor.uid_count", int64(c.Executor.UIDCount), 1, 1_000_000},
		{"executor.stop_grace_ms", c.Executor.StopGraceMS, 1, 60_000},
		{"executor.start_timeout_ms", c.Executor.StartTimeoutMS, 1, 600_000},
		{"executor.warm_target", int64(c.Executor.WarmTarget), 0, 1000},
		{"executor.warm_min", int64(c.Executor.WarmMin), 0, 1000},
		{"executor.warm_max", int64(c.Executor.WarmMax), 0, 1000},
		{"executor.warm_preload_target", int64(c.Executor.WarmPreloadTarget), 0, 1000},
		{"vault.timeout_ms", c.Vault.TimeoutMS, 1, 60_000},
		{"vault.max_ttl_s", c.Vault.MaxTTLS, 1, 30 * 24 * 60 * 60},
		{"egress.idle_timeout_ms", c.Egress.IdleTimeoutMS, 1, 24 * 60 * 60 * 1000},
		{"audit.segment_mib", c.Audit.SegmentMiB, 1, 1024},
		{"audit.budget_ms", c.Audit.BudgetMS, 1, 60_000},
		{"audit.retain_days", c.Audit.RetainDays, 0, 36_500},
		{"audit.max_mib", c.Audit.MaxMiB, 0, 1 << 30},
		{"audit.heartbeat_s", c.Audit.HeartbeatS, 0, 86_400},
	}
}

var (
	logLevels  = []string{"debug", "info", "warn", "error"}
	logFormats = []string{"text", "json"}
	whenFull   = []string{"refuse", "drop_exported"}
)

// validate reports everything that is wrong with the values.
func (c Config) validate() error {
	var errs []error
	for _, b := range c.bounds() {
		if b.value < b.min || b.value > b.max {
			errs = append(errs, fmt.Errorf("%s is %d: it must be from %d to %d", b.key, b.value, b.min, b.max))
		}
	}
	errs = append(errs, c.Requests.checkReserved(), c.checkWebhooks(), c.Vault.check(), c.Egress.check())
	errs = append(errs, c.checkExporters()...)
	if last := int64(c.Executor.FirstUID) + int64(c.Executor.UIDCount); last > math.MaxInt32 {
		errs = append(errs, fmt.Errorf("executor.first_uid and executor.uid_count reach the user %d, which does not exist", last))
	}
	if c.Policy.Folder != "" && c.Policy.URL != "" {
		errs = append(errs, errors.New("policy.folder and policy.url are both set: the policy can come from one of them"))
	}
	if c.Executor.WarmMax < c.Executor.WarmTarget {
		errs = append(errs, fmt.Errorf("executor.warm_max is %d: it must be at least executor.warm_target, %d", c.Executor.WarmMax, c.Executor.WarmTarget))
	}
	if most := c.mostParked(); c.Executor.UIDCount <= most {
		errs = append(errs, fmt.Errorf("executor.uid_count is %d: parked sandboxes may take %d of them, and none would be left", c.Executor.UIDCount, most))
	}
	if !slices.Contains(logLevels, c.Log.Level) {
		errs = append(errs, fmt.Errorf("log.level is %q: it is one of %q", c.Log.Level, logLevels))
	}
	if !slices.Contains(logFormats, c.Log.Format) {
		errs = append(errs, fmt.Errorf("log.format is %q: it is one of %q", c.Log.Format, logFormats))
	}
	if !slices.Contains(whenFull, c.Audit.WhenFull) {
		errs = append(errs, fmt.Errorf("audit.when_full is %q: it is one of %q", c.Audit.WhenFull, whenFull))
	}
	if least := 4 * c.Audit.SegmentMiB; c.Audit.MaxMiB != 0 && c.Audit.MaxMiB < least {
		errs = append(errs, fmt.Errorf("audit.max_mib is %d: it must be at least four times audit.segment_mib, %d, or 0 for no bound", c.Audit.MaxMiB, least))
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen is %q: it must be an address such as 127.0.0.1:8080", c.Listen))
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		errs = append(errs, fmt.Errorf("listen is %q: its port must be a number up to 65535", c.Listen))
	}
	if err := errors.Join(errs...); err != nil {
		return usage("configuration: %w", err)
	}
	return nil
}

// checkReserved reports what is wrong with the reserved slots. One must be left
// for everybody.
func (r RequestsConfig) checkReserved() error {
	var errs []error
	left := int64(r.MaxRunning)
	for _, tenant := range slices.Sorted(maps.Keys(r.Reserved)) {
		slots := r.Reserved[tenant]
		if !identity.ValidTenant(tenant) {
			errs = append(errs, fmt.Errorf("requests.reserved names %q, which cannot be a tenant", tenant))
		}
		if slots < 1 || slots > maxReserved {
			errs = append(errs, fmt.Errorf("requests.reserved gives %q %d slots: they must be from 1 to %d", tenant, slots, maxReserved))
			continue
		}
		left -= int64(slots)
	}
	if len(r.Reserved) > 0 && left < 1 {
		errs = append(errs, fmt.Errorf("requests.reserved takes %d of the %d slots of requests.max_running: one must be left for everybody", int64(r.MaxRunning)-left, r.MaxRunning))
	}
	return errors.Join(errs...)
}
