package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/execution/recordtest"
	"go.yaml.in/yaml/v3"
)

func TestConfigChangesAreRecorded(t *testing.T) {
	t.Parallel()
	dir, log, _ := newLog(t)
	place := &state{dir: dir}
	const value = "/a/value/that/is/nobody's"
	cfg := defaultConfig()
	change := func(with func(*Config)) func() { return func() { with(&cfg) } }
	for _, step := range []struct {
		name   string
		change func()
		want   string // names; - is no record
	}{
		{"first start", change(func(c *Config) { c.Policy.Folder = value }), "policy.folder"},
		{"the same", func() {}, "-"},
		{"two settings", change(func(c *Config) { c.Requests.MaxRunning, c.Vault.Auth.File = 3, value }), "requests.max_running vault.auth.file"},
		{"a list", change(func(c *Config) { c.Tools = []ToolConfig{{Name: "adder", Node: &yaml.Node{Line: 3}}} }), "tools"},
		{"a list that was moved", change(func(c *Config) { c.Tools[0].Node.Line = 7 }), "-"},
		{"a map", change(func(c *Config) { c.Requests.Reserved = map[string]int{"a": 1, "b": 2} }), "requests.reserved"},
		{"back", change(func(c *Config) { *c = defaultConfig() }), "policy.folder requests.max_running requests.reserved tools vault.auth.file"},
		{"file lost", func() { os.Remove(place.path(configFile)) }, ""},
		{"file damaged", func() { os.WriteFile(place.path(configFile), []byte("{"), 0o600) }, ""},
		{"the same again", func() {}, "-"},
	} {
		step.change()
		before := configChanges(t, dir)
		if err := recordConfig(t.Context(), cfg, place, log); err != nil {
			t.Fatal(err)
		}
		got := "-"
		if after := configChanges(t, dir); len(after) > len(before) {
			got = strings.Join(after[len(after)-1].Changed, " ")
		}
		if got != step.want {
			t.Errorf("%s: recorded is %q, want %q", step.name, got, step.want)
		}
	}
	for _, name := range []string{configFile, filepath.Join("audit", "0000000001.segment")} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || strings.Contains(string(text), value) {
			t.Errorf("%s holds the value of a setting (%v)", name, err)
		}
	}
	if info, err := os.Stat(place.path(configFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func configChanges(t *testing.T, dir string) (changes []*execution.ConfigChange) {
	t.Helper()
	for r, err := range audit.Read(filepath.Join(dir, "audit")) {
		if err != nil {
			t.Fatal(err)
		}
		recordtest.Check(t, r)
		if r.Type == execution.RecordConfigChanged {
			changes = append(changes, r.Config)
		}
	}
	return changes
}

// Each setting that the environment can set is among those whose change is recorded,
// by the same name.
func TestEverySettingIsDigested(t *testing.T) {
	cfg := defaultConfig()
	digested := digestSettings(cfg, nil)
	for _, s := range settingsOf(&cfg) {
		if digested[s.key] == "" {
			t.Errorf("%s is not digested", s.key)
		}
	}
	if digested["tools"] == "" {
		t.Error("the lists are not digested")
	}
}
