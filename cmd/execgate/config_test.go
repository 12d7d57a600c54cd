package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// property is what the tests read of config.schema.json.
type property struct {
	Type        string
	Enum        []string
	Default     any
	Description string
	Minimum     *int64
	Maximum     *int64

	AdditionalProperties any
	Properties           map[string]property
}

// leaves returns the settings that the schema describes, by key.
func leaves(t *testing.T) map[string]property {
	var root property
	decoder := json.NewDecoder(bytes.NewReader(configSchema))
	decoder.UseNumber()
	if err := decoder.Decode(&root); err != nil {
		t.Fatal(err)
	}
	all := map[string]property{}
	var walk func(prefix string, p property)
	walk = func(prefix string, p property) {
		if p.AdditionalProperties != false {
			t.Errorf("%q takes any key", prefix)
		}
		for name, child := range p.Properties {
			if child.Description == "" {
				t.Errorf("%s%s has no description", prefix, name)
			}
			if len(child.Properties) > 0 {
				walk(prefix+name+".", child)
			} else {
				all[prefix+name] = child
			}
		}
	}
	walk("", root)
	return all
}

// The schema, from which the documentation is written, says what Config is.
func TestSchemaIsTheConfig(t *testing.T) {
	described := leaves(t)
	bounds := map[string]bound{}
	for _, b := range defaultConfig().bounds() {
		bounds[b.key] = b
	}
	enums := map[string][]string{"log.level": logLevels, "log.format": logFormats, "audit.when_full": whenFull, "vault.auth.method": authMethods, "egress.ungranted_names": ungrantedNames}
	cfg := defaultConfig()
	for _, s := range settingsOf(&cfg) {
		p, ok := described[s.key]
		if !ok {
			t.Errorf("%s is not in the schema", s.key)
			continue
		}
		delete(described, s.key)
		want := map[reflect.Kind]string{reflect.String: "string", reflect.Int: "integer", reflect.Int64: "integer", reflect.Bool: "boolean", reflect.Map: "object"}[s.value.Kind()]
		if p.Enum != nil {
			p.Type = "string"
		}
		if p.Type != want {
			t.Errorf("%s is %q in the schema and %q in Config", s.key, p.Type, want)
		}
		if got, want := fmt.Sprint(p.Default), fmt.Sprint(s.value.Interface()); p.Default == nil || got != want {
			t.Errorf("the default of %s is %q in the schema and %q in Config", s.key, got, want)
		}
		if diff := cmp.Diff(enums[s.key], p.Enum); diff != "" {
			t.Errorf("%s: (-Config +schema)\n%s", s.key, diff)
		}
		b, bounded := bounds[s.key]
		switch {
		case bounded != (want == "integer"):
			t.Errorf("%s has no bound", s.key)
		case bounded && (p.Minimum == nil || p.Maximum == nil || *p.Minimum != b.min || *p.Maximum != b.max):
			t.Errorf("%s is from %d to %d in Config, and not in the schema", s.key, b.min, b.max)
		}
	}
	for key, p := range described {
		if p.Type == "array" {
			continue // it has no variable; TestSchemaIsTheToolConfig reads it
		}
		t.Errorf("%s is in the schema only", key)
	}
	if err := defaultConfig().validate(); err != nil {
		t.Errorf("the defaults are not valid: %v", err)
	}
}

// An editor that follows the schema and the gateway agree.
func TestSchemaAndLoaderAgree(t *testing.T) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(configSchema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("config.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		text string
		ok   bool
	}{
		{`{}`, true},
		{`{"listen": "127.0.0.1:0", "requests": {"max_running": 4}, "policy": {"input_code": true}}`, true},
		{`{"log": {"level": "debug", "format": "json"}}`, true},
		{`{"log": {"level": "loud"}}`, false},
		{`{"requests": {"max_running": 0}}`, false},
		{`{"requests": {"max_running": "4"}}`, false},
		{`{"requests": {"max_running": 4.5}}`, false},
		{`{"requests": {"max_runing": 4}}`, false},
		{`{"audit": {"segment_mib": 2048}}`, false},
		{`{"executor": {"first_uid": 0}}`, false},
		{`{"policy": {"input_code": "yes"}}`, false},
		{`{"api_key": "ak_secret"}`, false},
		{`{"vault": {"token": "s.secret"}}`, false},
		{`{"requests": 4}`, false},
		{`{"requests": {"reserved": {}}}`, true},
		{`{"requests": {"reserved": {"ci": 2, "research": 1}}}`, true},
		{`{"requests": {"reserved": {"ci": 0}}}`, false},
		{`{"requests": {"reserved": {"ci": "2"}}}`, false},
		{`{"requests": {"reserved": {"ci": 100000}}}`, false},
		{`{"requests": {"reserved": {"CI": 2}}}`, false},
		{`{"requests": {"reserved": {"": 2}}}`, false},
		{`{"requests": {"reserved": 2}}`, false},
		{`{"requests": {"reserved": ["ci"]}}`, false},
		{`{"exporters": []}`, true},
		{`{"exporters": [{"name": "siem", "type": "http", "url": "https://siem.example.com/", "format": "ocsf", "gzip": true, "from": "now"}]}`, true},
		{`{"exporters": [{"name": "a", "type": "jsonl", "path": "-", "types": ["decided"], "tenants": ["ci"]}]}`, true},
		{`{"exporters": [{"name": "a", "type": "syslog", "address": "logs:6514"}]}`, true},
		{`{"exporters": [{"name": "A", "type": "jsonl", "path": "-"}]}`, false},
		{`{"exporters": [{"name": "a", "type": "kafka"}]}`, false},
		{`{"exporters": [{"type": "jsonl", "path": "-"}]}`, false},
		{`{"exporters": [{"name": "a", "type": "jsonl", "path": "-", "format": "xml"}]}`, false},
		{`{"exporters": [{"name": "a", "type": "jsonl", "path": "-", "types": ["decidde"]}]}`, false},
		{`{"exporters": [{"name": "a", "type": "http", "url": "https://x/", "token": "secret"}]}`, false},
		{`{"exporters": {"name": "a"}}`, false},
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(test.text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err == nil) != test.ok {
			t.Errorf("%s: the schema says %v", test.text, err)
		}
		path := filepath.Join(t.TempDir(), "config.yaml") // JSON is YAML
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := loadConfig(path, func(string) (string, bool) { return "", false })
		if err == nil {
			err = cfg.validate()
		}
		if (err == nil) != test.ok {
			t.Errorf("%s: the loader says %v", test.text, err)
		}
		if err != nil && (codeOf(err) != exitUsage || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v", test.text, err)
		}
	}
}

// Every setting has its variable, which sets it and nothing else.
func TestEverySettingHasItsVariable(t *testing.T) {
	plain := defaultConfig()
	for i, s := range settingsOf(&plain) {
		text := map[reflect.Kind]string{
			reflect.String: "of the environment", reflect.Int: "4321", reflect.Int64: "4321", reflect.Bool: "true", reflect.Map: "a=1,b=2",
		}[s.value.Kind()]
		variable := "EXECGATE_" + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
		cfg, err := loadConfig("", func(name string) (string, bool) { return text, name == variable })
		if err != nil {
			t.Errorf("%s: %v", s.key, err)
			continue
		}
		want := text
		if s.value.Kind() == reflect.Map {
			want = "map[a:1 b:2]"
		}
		if got := fmt.Sprint(settingsOf(&cfg)[i].value.Interface()); got != want {
			t.Errorf("%s sets %s to %q", variable, s.key, got)
		}
		settingsOf(&cfg)[i].value.Set(s.value)
		if diff := cmp.Diff(plain, cfg); diff != "" {
			t.Errorf("%s sets more than %s:\n%s", variable, s.key, diff)
		}
	}
}

func TestOrderOfSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte("requests: {max_running: 4, drain_ms: 5}\naudit:\n#  budget_ms: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := map[string]string{"EXECGATE_REQUESTS_DRAIN_MS": "6", "EXECGATE_STATE": ""}
	cfg, err := loadConfig(path, func(name string) (string, bool) { v, ok := environ[name]; return v, ok })
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Requests.MaxRunning, want.Requests.DrainMS = 4, 6
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What the schema cannot say about reserved slots, and how a variable goes wrong.
func TestReservedSlots(t *testing.T) {
	for _, test := range []struct {
		text, message string // empty: it is right
	}{
		{"ci=2,research=13", ""},
		{"ci=2,research=14", "one must be left for everybody"},
		{"ci=16", "one must be left for everybody"},
		{"ci=0", "from 1 to"},
		{"Ci=1", "cannot be a tenant"},
		{"ci", "name=number"},
		{"ci=two", "name=number"},
		{"ci=1,ci=2", "name=number"},
		{"ci=1,", "name=number"},
	} {
		cfg, err := loadConfig("", func(name string) (string, bool) { return test.text, name == "EXECGATE_REQUESTS_RESERVED" })
		if err == nil {
			err = cfg.validate()
		}
		if (err == nil) != (test.message == "") || err != nil && !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: %v", test.text, err)
		}
	}
}

// What the schema cannot say about the size of the audit log.
func TestSizeOfTheAuditLog(t *testing.T) {
	for _, test := range []struct {
		audit   AuditConfig
		message string // empty: it is right
	}{
		{AuditConfig{SegmentMiB: 64, BudgetMS: 1, WhenFull: "refuse"}, ""},
		{AuditConfig{SegmentMiB: 64, BudgetMS: 1, WhenFull: "drop_exported", MaxMiB: 256, RetainDays: 1}, ""},
		{AuditConfig{SegmentMiB: 64, BudgetMS: 1, WhenFull: "drop_exported", MaxMiB: 255}, "audit.max_mib is 255"},
		{AuditConfig{SegmentMiB: 64, BudgetMS: 1, WhenFull: "refuse", MaxMiB: -1}, "audit.max_mib is -1"},
		{AuditConfig{SegmentMiB: 64, BudgetMS: 1, WhenFull: "drop"}, "audit.when_full"},
		{AuditConfig{SegmentMiB: 64, BudgetMS: 1}, "audit.when_full"},
	} {
		cfg := defaultConfig()
		cfg.Audit = test.audit
		err := cfg.validate()
		if (err == nil) != (test.message == "") || err != nil && !strings.Contains(err.Error(), test.message) {
			t.Errorf("%+v: %v", test.audit, err)
		}
	}
}

func TestStrangeVariablesAreNoticed(t *testing.T) {
	got := strangers([]string{
		"EXECGATE_REQUEST_MAX_RUNNING=1", "EXECGATE_LISTEN=x", "EXECGATE_URL=x", "EXECGATE_API_KEY=x",
		"EXECGATE_PORT_8080_TCP=x", "EXECGATE_SERVICE_HOST=x", "PATH=x",
	})
	if diff := cmp.Diff([]string{"EXECGATE_REQUEST_MAX_RUNNING"}, got); diff != "" {
		t.Error(diff)
	}
}
