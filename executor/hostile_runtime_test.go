package executor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// Languages, streams and usage are the same under each runtime.
func TestEachRuntimeRunsPrograms(t *testing.T) {
	t.Parallel()
	input := under("", execution.Job{
		Language: "bash", Code: "read line; echo \"$line $INPUT_DATA\"; echo 1 >\"$EXECGATE_RESULT\"; echo kept >/workspace/out/a; cat given; exit 4\n",
		Input: []byte(`{"a":1}`), Stdin: "in\n", Files: []execution.File{{Path: "given", Content: []byte("file")}},
	})
	attacks(t, []hostile{
		{name: "python", job: python("import sys\nprint('out')\nprint('err', file=sys.stderr)\nresult = {'sum': 2 + 2}\n"), want: execution.OutcomeExited, stdout: "out\n", check: value(`{"sum":4}`)},
		{name: "bash", job: input, want: execution.OutcomeExited, exit: 4, stdout: "in {\"a\":1}\nfile", check: onlyArtifact("a")},
		{name: "command", job: command("/bin/sh", "-c", "exit 3"), want: execution.OutcomeExited, exit: 3},
		{name: "usage", job: python("x = bytearray(40 << 20)\nt = sum(range(3_000_000))\nimport time\ntime.sleep(0.1)\n"), want: execution.OutcomeExited, check: func(t testing.TB, r execution.Result) {
			if u := r.Usage; u.WallMS < 100 || u.CPUMS < 10 || u.PeakMemoryMiB < 40 || u.PeakMemoryMiB > 128 {
				t.Errorf("usage %+v", u)
			}
		}},
	})
}

// A program of node's works under the profile and under each runtime.
func TestEachRuntimeRunsNode(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, func(c *executor.Config) {
		c.Images[0].Reference = "execgate/sandbox-node:latest"
		c.Images[0].Languages = map[string]executor.Language{"javascript": {Command: []string{"/usr/bin/env", "--chdir=/opt/execgate/drivers", "/usr/bin/node", "javascript"}}}
	})
	underEach(t, func(t *testing.T, runtime string) {
		hostile{job: command("/usr/bin/node", "-e", `
const { execFileSync } = require('child_process');
const { Worker } = require('worker_threads');
const net = require('net');
console.log(execFileSync('/bin/echo', ['child']).toString().trim());
new Worker('require("worker_threads").parentPort.postMessage("worker")', { eval: true }).on('message', console.log);
const server = net.createServer(c => c.end('socket')).listen(8080, '127.0.0.1', () =>
  net.connect(8080, '127.0.0.1').on('data', d => { console.log(d.toString()); server.close(); }));
`), limits: func(l *execution.Limits) { l.MemoryMiB = 512 }, want: execution.OutcomeExited, stdout: "child", check: func(t testing.TB, r execution.Result) {
			for _, word := range []string{"worker", "socket"} {
				if !strings.Contains(string(r.Stdout), word) {
					t.Errorf("stdout lacks %q: %s", word, describe(r))
				}
			}
		}}.under(runtime).attack(t, e)
	})
}

// A parked sandbox serves under each runtime. One of gVisor whose memory cannot
// be raised is left for a cold start, with all that was granted.
func TestEachRuntimeParks(t *testing.T) {
	t.Parallel()
	underEach(t, func(t *testing.T, runtime string) {
		e := newExecutor(t, warm(1), func(c *executor.Config) { c.Warm[0].Runtime = runtime })
		untilParked(t, e, 1)
		if r := run(t, e, under(runtime, python("result = 1"))); string(r.Value) != "1" || !r.Usage.Warm {
			t.Errorf("claimed: %s", describe(r))
		}
		more := func() execution.Result {
			return run(t, e, under(runtime, python("x = bytearray(200 << 20)\nresult = len(x) >> 20")), func(l *execution.Limits) { l.MemoryMiB = 300 })
		}
		untilParked(t, e, 1)
		var r execution.Result
		if runtime == "runc" {
			r = adjusted(t, e, more)
		} else {
			r = more()
		}
		if string(r.Value) != "200" || r.Usage.Warm != (runtime == "runc") {
			t.Errorf("with more memory: %s", describe(r))
		}
		untilParked(t, e, 1)
		r = run(t, e, under(runtime, python("x = bytearray(200 << 20)")), func(l *execution.Limits) { l.MemoryMiB = 64 })
		if r.Outcome != execution.OutcomeOutOfMemory && (runtime == "runc" || r.Outcome != execution.OutcomeKilled) {
			t.Errorf("with less memory: %s", describe(r))
		}
	})
}

// gVisor lists no System V objects, so a sandbox where a program left any is not
// used again; one where it left none is.
func TestNothingOfIPCIsReusedUnderGVisor(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	image := resolve(t, e, "python")
	next := func(code string) execution.Result {
		job := python("import ctypes\nl = ctypes.CDLL(None)\n" + code)
		job.ID, job.Owner = execution.NewID("ex_", time.Now()), execution.Owner{Tenant: "a", Subject: "ak_1"}
		job.Grant = execution.Grant{Image: image.Digest, Runtime: "runsc", Limits: granted(), Reuse: execution.ReusePrincipal}
		r, err := e.Execute(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	next("")
	for _, made := range []string{"l.shmget(42, 4096, 0o1666)", "l.msgget(42, 0o1666)", "l.semget(42, 1, 0o1666)"} {
		if r := next("result = " + made + " >= 0"); string(r.Value) != "true" || !r.Usage.Warm {
			t.Errorf("%s: %s", made, describe(r))
		}
		if r := next("result = [l.shmget(42, 4096, 0o666), l.msgget(42, 0o666), l.semget(42, 1, 0o666)]"); string(r.Value) != "[-1,-1,-1]" || r.Usage.Warm {
			t.Errorf("after %s: %s", made, describe(r))
		}
	}
}
