package executor_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// warm parks sandboxes for what run grants.
func warm(target int, preload ...string) func(*executor.Config) {
	return func(c *executor.Config) {
		c.Warm = append(c.Warm, executor.Warm{
			Image: "python", Language: "python", Runtime: "runc", Limits: granted(), Target: target, Max: target + 2, Preload: preload,
		})
	}
}

// untilParked waits until n sandboxes are parked.
func untilParked(t testing.TB, e *executor.Executor, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d sandboxes are parked", n), func() bool { return e.Parked() >= n })
}

// adjusted runs what takes a parked sandbox whose limits are changed for it, once more
// where the engine took so long for that that the execution began cold.
func adjusted(t testing.TB, e *executor.Executor, try func() execution.Result) (r execution.Result) {
	t.Helper()
	for range 5 {
		untilParked(t, e, 1)
		failed := e.Stats().Claims["adjust_failed"]
		if r = try(); e.Stats().Claims["adjust_failed"] == failed {
			break
		}
		t.Logf("the engine has not changed the limits in time")
	}
	return r
}

func TestParkedSandboxIsUsedOnce(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, warm(1))
	seen := map[string]bool{}
	for range 3 {
		untilParked(t, e, 1)
		r := run(t, e, python("import os\nopen('/tmp/left', 'x').close()\nprint(os.getuid())\nresult = os.environ['EXECGATE_EXECUTION']"))
		if r.Outcome != execution.OutcomeExited || *r.ExitCode != 0 {
			t.Fatalf("outcome %s, stderr %s", r.Outcome, r.Stderr)
		}
		if !r.Usage.Warm {
			t.Error("the execution did not start warm")
		}
		if seen[string(r.Stdout)] {
			t.Errorf("user %s ran twice", r.Stdout)
		}
		seen[string(r.Stdout)] = true
		if string(r.Value) != `"ex_test_`+t.Name()+`"` {
			t.Errorf("the program saw execution %s", r.Value)
		}
	}
}

func TestEmptyPoolStartsCold(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, warm(0))
	if r := run(t, e, python("result = 1")); r.Usage.Warm || string(r.Value) != "1" {
		t.Fatalf("warm %t, result %s", r.Usage.Warm, r.Value)
	}
}

func TestParkedSandboxTakesTheGrantsLimits(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, warm(1))
	r := adjusted(t, e, func() execution.Result {
		return run(t, e, python("x = bytearray(100 << 20)"), func(l *execution.Limits) { l.MemoryMiB, l.CPUMillis = 64, 250 })
	})
	if r.Outcome != execution.OutcomeOutOfMemory || !r.Usage.Warm {
		t.Fatalf("outcome %s, warm %t, stderr %s", r.Outcome, r.Usage.Warm, r.Stderr)
	}
}

func TestShelfTakesOnTheShapeThatIsGranted(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, warm(1))
	untilParked(t, e, 1)
	other := func(l *execution.Limits) { l.TmpMiB = 5 }
	for range 3 {
		if r := run(t, e, python("result = 1"), other); r.Usage.Warm {
			t.Fatal("a sandbox of another shape was used")
		}
	}
	deadline := time.Now().Add(patience)
	for {
		r := run(t, e, python("import shutil\nresult = shutil.disk_usage('/tmp').total >> 20"), other)
		if string(r.Value) != "5" {
			t.Fatalf("/tmp has %s MiB, stderr %s", r.Value, r.Stderr)
		}
		if r.Usage.Warm {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the shelf does not take on the shape")
		}
	}
}

func TestPreloadedModulesServeProgramsThatNameThem(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, warm(1), warm(1, "pandas"))
	untilParked(t, e, 2)
	const loaded = "import sys\nresult = 'pandas' in sys.modules # "
	if r := run(t, e, python(loaded+"pandas")); string(r.Value) != "true" || !r.Usage.Warm {
		t.Errorf("a program that names pandas: loaded %s, warm %t", r.Value, r.Usage.Warm)
	}
	if r := run(t, e, python(strings.Replace(loaded, "'pandas'", "'pan' 'das'", 1))); string(r.Value) != "false" || !r.Usage.Warm {
		t.Errorf("a program that does not: loaded %s, warm %t", r.Value, r.Usage.Warm)
	}
}

func TestDeadParkedSandboxIsNotUsed(t *testing.T) {
	t.Parallel()
	for name, argv := range map[string][]string{
		"its container": {"kill"},
		"its driver":    {"exec", "-u", "0:0"},
	} {
		t.Run(name, func(t *testing.T) {
			var gateway string
			e := newExecutor(t, warm(1), func(c *executor.Config) { gateway = c.Gateway })
			untilParked(t, e, 1)
			id := containers(t, "label=execgate.gateway="+gateway)[0]
			args := append(argv, id)
			if argv[0] == "exec" {
				args = append(args, "/bin/sh", "-c", "kill -9 -1")
			}
			out, err := exec.Command("docker", args...).CombinedOutput()
			const killed = 128 + 9 // the agent ends with its driver, and the shell with the agent, before it has ended itself
			if ended, ok := errors.AsType[*exec.ExitError](err); err != nil && !(ok && argv[0] == "exec" && ended.ExitCode() == killed) {
				t.Fatalf("docker %v: %v: %s", args, err, out)
			}
			r := run(t, e, python("result = 1"))
			if string(r.Value) != "1" {
				t.Fatalf("outcome %s, stderr %s", r.Outcome, r.Stderr)
			}
		})
	}
}

// A parked interpreter's own past does not count as the program's.
func TestUsageOfAParkedSandboxIsTheProgramsOwn(t *testing.T) {
	e := newExecutor(t, warm(1, "pandas"))
	untilParked(t, e, 1)
	began := time.Now()
	r := run(t, e, python("result = 'pandas'"))
	took := time.Since(began).Milliseconds()
	if !r.Usage.Warm || r.Usage.CPUMS > 150 || r.Usage.WallMS > took {
		t.Fatalf("usage %+v, and all took %d ms", r.Usage, took)
	}
}

func TestRenewedPool(t *testing.T) {
	t.Parallel()
	gateway := ""
	e := newExecutor(t, warm(1), func(c *executor.Config) { gateway = c.Gateway })
	untilParked(t, e, 1)
	before := containers(t, "label=execgate.gateway="+gateway)
	e.Renew()
	until(t, "another sandbox is parked", func() bool {
		now := containers(t, "label=execgate.gateway="+gateway)
		return e.Parked() == 1 && len(now) == 1 && now[0] != before[0]
	})
}
