package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/structs"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// configSchema describes the configuration file for editors and for people.
//
//go:embed config.schema.json
var configSchema []byte

// envPrefix begins the name of the variable that overrides a setting:
// requests.max_running is EXECGATE_REQUESTS_MAX_RUNNING.
const envPrefix = "EXECGATE_"

// Config is the whole configuration. A setting's value is that of its flag,
// else of its environment variable, else of the file, else the default.
// Secrets have no place in it.
type Config struct {
	// Listen is the address of the HTTP API.
	Listen string `koanf:"listen" yaml:"listen"`
	// State is the folder for everything that lasts; empty: see stateFolder.
	State    string         `koanf:"state" yaml:"state"`
	Log      LogConfig      `koanf:"log" yaml:"log"`
	Requests RequestsConfig `koanf:"requests" yaml:"requests"`
	Policy   PolicyConfig   `koanf:"policy" yaml:"policy"`
	Executor ExecutorConfig `koanf:"executor" yaml:"executor"`
	Audit    AuditConfig    `koanf:"audit" yaml:"audit"`
}

// LogConfig is about the process's own log, on standard error.
type LogConfig struct {
	Level  string `koanf:"level" yaml:"level"`   // debug, info, warn, error
	Format string `koanf:"format" yaml:"format"` // text, json
}

// RequestsConfig bounds what is taken in.
type RequestsConfig struct {
	MaxRunning int   `koanf:"max_running" yaml:"max_running"` // executions at once
	MaxBodyKiB int64 `koanf:"max_body_kib" yaml:"max_body_kib"`
	MaxCodeKiB int64 `koanf:"max_code_kib" yaml:"max_code_kib"`
	// DrainMS is how long running executions may go on at shutdown.
	DrainMS int64 `koanf:"drain_ms" yaml:"drain_ms"`
}

// PolicyConfig is about the organisation's policy.
type PolicyConfig struct {
	Folder      string `koanf:"folder" yaml:"folder"` // empty: the embedded policy
	DeadlineMS  int64  `koanf:"deadline_ms" yaml:"deadline_ms"`
	InputCode   bool   `koanf:"input_code" yaml:"input_code"`   // policies see the code itself
	Environment string `koanf:"environment" yaml:"environment"` // policies see it as context.environment
}

// ExecutorConfig is about sandboxes.
type ExecutorConfig struct {
	Engine         string `koanf:"engine" yaml:"engine"` // address; empty: DOCKER_HOST, then the default socket
	Agent          string `koanf:"agent" yaml:"agent"`   // path of execgate-agent; empty: beside execgate
	Images         string `koanf:"images" yaml:"images"` // path of an images.yaml; empty: the embedded list
	FirstUID       int    `koanf:"first_uid" yaml:"first_uid"`
	UIDCount       int    `koanf:"uid_count" yaml:"uid_count"`
	StopGraceMS    int64  `koanf:"stop_grace_ms" yaml:"stop_grace_ms"`
	StartTimeoutMS int64  `koanf:"start_timeout_ms" yaml:"start_timeout_ms"`
}

// AuditConfig is about the audit log.
type AuditConfig struct {
	SegmentMiB int64 `koanf:"segment_mib" yaml:"segment_mib"`
	BudgetMS   int64 `koanf:"budget_ms" yaml:"budget_ms"` // how long a record may take to become durable
}

func defaultConfig() Config {
	return Config{
		Listen:   "127.0.0.1:8080",
		Log:      LogConfig{Level: "info", Format: "text"},
		Requests: RequestsConfig{MaxRunning: 16, MaxBodyKiB: 16 << 10, MaxCodeKiB: 1 << 10, DrainMS: 30_000},
		Policy:   PolicyConfig{DeadlineMS: 50},
		Executor: ExecutorConfig{FirstUID: 210_000, UIDCount: 1024, StopGraceMS: 500, StartTimeoutMS: 30_000},
		Audit:    AuditConfig{SegmentMiB: 64, BudgetMS: 2000},
	}
}

// loadConfig reads the file at path, where one is given, and the environment.
func loadConfig(path string, lookup func(string) (string, bool)) (Config, error) {
	k := koanf.New(".")
	if err := k.Load(structs.Provider(defaultConfig(), "koanf"), nil); err != nil {
		return Config{}, fmt.Errorf("read the defaults: %w", err)
	}
	keys := k.Keys()
	if path != "" {
		values, err := readConfigFile(path)
		if err != nil {
			return Config{}, usage("configuration %s: %w", path, err)
		}
		if err := k.Load(confmap.Provider(values, "."), nil); err != nil {
			return Config{}, usage("configuration %s: %w", path, err)
		}
	}
	for _, key := range keys {
		if value, ok := lookup(envName(key)); ok {
			k.Set(key, value)
		}
	}
	var cfg Config
	if err := k.Unmarshal("", &cfg); err != nil {
		return Config{}, usage("configuration: %w", err)
	}
	return cfg, cfg.validate()
}

// envName is the variable of a setting.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// readConfigFile reads YAML strictly: a key that is not known, or stands twice,
// is an error that names its line.
func readConfigFile(path string) (map[string]any, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	if err := strict.Decode(&Config{}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := strict.Decode(&Config{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one document in the file")
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, err
	}
	return values, nil
}

// validate reports everything that is wrong with the values.
func (c Config) validate() error {
	var errs []error
	positive := map[string]int64{
		"requests.max_running": int64(c.Requests.MaxRunning), "requests.max_body_kib": c.Requests.MaxBodyKiB,
		"requests.max_code_kib": c.Requests.MaxCodeKiB, "requests.drain_ms": c.Requests.DrainMS,
		"policy.deadline_ms": c.Policy.DeadlineMS, "executor.first_uid": int64(c.Executor.FirstUID),
		"executor.uid_count": int64(c.Executor.UIDCount), "executor.stop_grace_ms": c.Executor.StopGraceMS,
		"executor.start_timeout_ms": c.Executor.StartTimeoutMS, "audit.segment_mib": c.Audit.SegmentMiB,
		"audit.budget_ms": c.Audit.BudgetMS,
	}
	for key, value := range positive {
		if value <= 0 || value > 1<<31 {
			errs = append(errs, fmt.Errorf("%s is %d: it must be a positive number", key, value))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return usage("configuration: %w", err)
	}
	return nil
}
