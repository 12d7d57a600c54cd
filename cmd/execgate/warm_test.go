package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/policies"
	"github.com/google/go-cmp/cmp"
)

// Parked sandboxes have the limits that the shipped policy grants unasked.
func TestWarmLimitsAreThoseOfTheShippedPolicy(t *testing.T) {
	text, err := policies.Files.ReadFile("data.json")
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		Tenants map[string]struct {
			Limits struct{ Default execution.Limits }
		}
	}
	if err := json.Unmarshal(text, &data); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(data.Tenants["default"].Limits.Default, warmLimits); diff != "" {
		t.Errorf("(-policy +warmLimits)\n%s", diff)
	}
}

func TestWhatIsKeptWarm(t *testing.T) {
	list, err := Config{State: t.TempDir()}.sandboxImages()
	if err != nil {
		t.Fatal(err)
	}
	plain := executor.Warm{Image: "python", Language: "python", Runtime: "runc", Limits: warmLimits, Min: 1, Target: 2, Max: 4}
	preload := plain
	preload.Preload, preload.Target, preload.Max = []string{"pandas", "matplotlib.pyplot"}, 1, 2
	defaults := defaultConfig().Executor
	noPlain, noPreload := defaults, defaults
	noPlain.WarmTarget, noPreload.WarmPreloadTarget = 0, 0
	for _, test := range []struct {
		name string
		cfg  ExecutorConfig
		list []executor.Image
		want []executor.Warm
		most int
	}{
		{"by default", defaults, list, []executor.Warm{plain, preload}, 6},
		{"without preloaded ones", noPreload, list, []executor.Warm{plain}, 4},
		{"only preloaded ones", noPlain, list, []executor.Warm{preload}, 2},
		{"for one execution", defaults.cold(), list, nil, 0},
		{"of images without python", defaults, []executor.Image{{Name: "python"}, {Name: "node"}}, nil, 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.cfg.warm(test.list)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got := (Config{Executor: test.cfg}).mostParked(); got != test.most {
				t.Errorf("at most %d are parked, not %d", got, test.most)
			}
		})
	}
}

func TestWarmSettingsFitTogether(t *testing.T) {
	for _, test := range []struct {
		change   func(*ExecutorConfig)
		reserved map[string]int
		message  string // empty: they do
	}{
		{func(c *ExecutorConfig) { c.WarmTarget = 4 }, nil, ""},
		{func(c *ExecutorConfig) { c.WarmTarget = 5 }, nil, "executor.warm_max is 4"},
		{func(c *ExecutorConfig) { c.WarmTarget, c.WarmMax = 0, 0 }, nil, ""},
		{func(c *ExecutorConfig) { c.UIDCount = 7 }, nil, ""},
		{func(c *ExecutorConfig) { c.UIDCount = 6 }, nil, "executor.uid_count is 6"},
		{func(c *ExecutorConfig) { c.UIDCount = 17 }, map[string]int{"a": 1}, ""},
		{func(c *ExecutorConfig) { c.UIDCount = 16 }, map[string]int{"a": 1}, "executor.uid_count is 16"},
	} {
		cfg := defaultConfig()
		test.change(&cfg.Executor)
		cfg.Requests.Reserved = test.reserved
		if err := cfg.validate(); (err == nil) != (test.message == "") || err != nil && !strings.Contains(err.Error(), test.message) {
			t.Errorf("%+v: %v", cfg.Executor, err)
		}
	}
}

// waitParked waits until so many plain sandboxes of python are parked: a container that
// runs may not be one yet.
func (g *gatewayUnderTest) waitParked(n int) {
	g.t.Helper()
	const series = `execgate_parked_sandboxes{image="python",language="python",preload="no",runtime="runc"}`
	eventually(g.t, fmt.Sprintf("%d sandboxes are parked", n), func() bool { return scan(g.t, g.metrics(g.key()))[series] == float64(n) })
}

// A gateway parks sandboxes, serves from them, each once, and leaves none.
func TestGatewayKeepsSandboxesWarm(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{
		"EXECGATE_EXECUTOR_WARM_TARGET": "1", "EXECGATE_EXECUTOR_WARM_MAX": "1", "EXECGATE_LOG_LEVEL": "debug",
	})
	first := g.waitContainers(1)[0].ID
	eventually(t, "an execution gets a parked sandbox", func() bool {
		if e := g.execute(python("print('hello')")).ok(t); e.Stdout != "hello\n" {
			t.Fatalf("stdout is %q", e.Stdout)
		}
		return g.log.find("parked sandbox claimed") != nil
	})
	eventually(t, "another one takes its place", func() bool {
		left := g.containers()
		return len(left) == 1 && left[0].State == "running" && left[0].ID != first
	})
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.checkStopped()
}
