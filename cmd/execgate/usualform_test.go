package main

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// What is wrong in the usual form of a sandbox over Docker, and must be right
// here: one test each.
func TestUsualMistakes(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"OPENAI_API_KEY": "sk-of-the-host", "EXECGATE_POLICY_ENVIRONMENT": "of-the-gateway"})

	t.Run("a timeout ends the container", func(t *testing.T) {
		e := g.outOfTime(t, func(limits string) string {
			return python("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)", limits)
		}, "up\n")
		if e.Stdout != "up\n" {
			t.Errorf("%+v", e)
		}
		g.waitNothingLeft()
	})
	t.Run("no folder of the host is mounted", func(t *testing.T) {
		e := g.execute(python(`
import os
result = [line.split()[4] for line in open("/proc/self/mountinfo") if line.split()[3] != "/" and line.split()[4] not in ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts") and not line.split()[4].startswith(("/proc", "/sys", "/dev"))]
`)).ok(t)
		// What is not the root of its file system is the agent's volume.
		if got := string(e.Result); strings.Count(got, `"`) != 2 {
			t.Errorf("mounted from the host: %s", got)
		}
	})
	t.Run("stdout and stderr stay apart", func(t *testing.T) {
		e := g.execute(python("import sys\nprint('out')\nprint('err', file=sys.stderr)")).ok(t)
		if e.Stdout != "out\n" || e.Stderr != "err\n" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("a printed result is none", func(t *testing.T) {
		e := g.execute(python(`print('__RESULT_START__\n{"sum": 15}\n__RESULT_END__')` + "\nprint('{\"result\": 15}')")).ok(t)
		if string(e.Result) != "null" {
			t.Errorf("result %s", e.Result)
		}
	})
	t.Run("input is data and not source", func(t *testing.T) {
		e := g.execute(python("result = [INPUT_DATA, INPUT_DATA['a'] is True, INPUT_DATA['b'] is None]", `"input":{"a":true,"b":null,"c":"'''\"\"\"\n{}","d":1e2}`)).ok(t)
		if got, want := string(e.Result), `[{"a":true,"b":null,"c":"'''\"\"\"\n{}","d":100.0},true,true]`; got != want {
			t.Errorf("result %s", got)
		}
	})
	t.Run("an exit code is the program's own", func(t *testing.T) {
		// Those with which docker run and shells speak of faults.
		for _, code := range []int{1, 69, 125, 126, 127, 137, 255} {
			e := g.execute(python("import os\nos._exit(INPUT_DATA)", `"input":`+strconv.Itoa(code))).ok(t)
			if e.Outcome != execution.OutcomeExited || e.ExitCode == nil || *e.ExitCode != code {
				t.Errorf("%d: %+v", code, e)
			}
		}
		e := g.execute(python("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")).ok(t)
		if e.Outcome != execution.OutcomeKilled || e.ExitCode != nil {
			t.Errorf("%+v", e)
		}
	})
	t.Run("output has a bound", func(t *testing.T) {
		e := g.execute(python("while True: print('x' * 1000)", `"limits":{"output_kib":64}`)).ok(t)
		if e.Outcome != execution.OutcomeOutputLimit || !e.Truncated.Stdout || len(e.Stdout) != 64<<10 {
			t.Errorf("outcome %s, truncated %v, %d bytes", e.Outcome, e.Truncated, len(e.Stdout))
		}
	})
	t.Run("the environment holds nothing of the host", func(t *testing.T) {
		e := g.execute(python("import os\nresult = [dict(os.environ), open('/proc/self/environ').read()]", `"env":{"MODE":"test"}`)).ok(t)
		for _, secret := range []string{"sk-of-the-host", "OPENAI", "of-the-gateway", g.key(), g.state} {
			if strings.Contains(string(e.Result), secret) {
				t.Errorf("the program sees %q: %s", secret, e.Result)
			}
		}
		if !strings.Contains(string(e.Result), `"MODE":"test"`) {
			t.Errorf("the program does not see its own variable: %s", e.Result)
		}
	})
	t.Run("limits from inside", func(t *testing.T) {
		e := g.execute(python(`
import os
def read(*paths):
    for path in paths:
        if os.path.exists(path):
            return open(path).read().split()
result = {
    "memory": read("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max")[0],
    "quota": read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu.max")[0],
    "pids": read("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max")[0],
    "tmp": os.statvfs("/tmp").f_blocks * os.statvfs("/tmp").f_frsize,
}`, `"limits":{"memory_mib":128,"cpu_millis":250,"pids":50,"tmp_mib":10}`)).ok(t)
		if got, want := string(e.Result), `{"memory":"134217728","quota":"25000","pids":"74","tmp":10485760}`; got != want {
			t.Errorf("result %s", got)
		}
	})
	t.Run("the libraries work", func(t *testing.T) {
		e := g.execute(python(`
import numpy, pandas, requests
import matplotlib.pyplot as plt
plt.plot([1, 2, 3])
plt.show()
frame = pandas.DataFrame({"a": numpy.arange(4)})
result = {"sum": int(frame.a.sum()), "mean": float(frame.a.mean()), "requests": requests.__name__}
`, `"limits":{"memory_mib":512,"cpu_millis":1000,"timeout_ms":60000}`)).ok(t)
		if got, want := string(e.Result), `{"sum":6,"mean":1.5,"requests":"requests"}`; got != want || e.Stderr != "" {
			t.Errorf("result %s, stderr %s", got, e.Stderr)
		}
		if len(e.Artifacts) != 1 || e.Artifacts[0].MediaType != "image/png" || !strings.HasPrefix(string(e.Artifacts[0].Content), "\x89PNG") {
			t.Errorf("artifacts %d", len(e.Artifacts))
		}
	})
	t.Run("files are bytes", func(t *testing.T) {
		content := base64.StdEncoding.EncodeToString([]byte{0, 0xff, '\n'})
		e := g.execute(python("result = list(open('a/b.bin', 'rb').read())", `"files":[{"path":"a/b.bin","content":"`+content+`","encoding":"base64"}]`)).ok(t)
		if string(e.Result) != "[0,255,10]" {
			t.Errorf("result %s", e.Result)
		}
	})
	t.Run("a clamp is said", func(t *testing.T) {
		r := g.execute(python("print(1)", `"limits":{"memory_mib":4096}`))
		if r.status != http.StatusOK {
			r.refused(t, http.StatusForbidden)
			return
		}
		if e := r.ok(t); len(e.Decision.Clamped) != 1 || e.Decision.Clamped[0].Limit != "memory_mib" {
			t.Errorf("%+v", e.Decision)
		}
	})
	g.waitNothingLeft()
}
