package executor_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// withRoom gives a program memory for its processes: under gVisor one of Python
// takes about 4 MiB.
func withRoom(h *hostile) {
	limits := h.limits
	h.limits = func(l *execution.Limits) {
		if limits != nil {
			limits(l)
		}
		l.MemoryMiB = 512
	}
}

// Under gVisor process 1 can be killed by its own user.
func endedWithTheAgent(h *hostile) {
	h.want, h.stdout, h.check = execution.OutcomeKilled, "", nil
}

func timeout(ms int64) func(*execution.Limits) {
	return func(l *execution.Limits) { l.TimeoutMS = ms }
}

// Programs that multiply, hang on, or will not die.
func TestHostileProcesses(t *testing.T) {
	t.Parallel()
	attacks(t, []hostile{
		{name: "fork bomb", gvisor: withRoom, want: execution.OutcomeTimedOut, limits: timeout(1500), hit: []string{"timeout_ms", "pids"},
			job: python("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n")},
		{name: "fork bomb in sh that fails", want: execution.OutcomePIDsLimit, hit: []string{"pids"},
			job: shell("for i in $(seq 100); do sleep 30 & done; exit 1")},
		{name: "fork bomb that gives up well", gvisor: withRoom, want: execution.OutcomeExited, hit: []string{"pids"},
			job: python("import os,time\nwhile True:\n    try: pid = os.fork()\n    except OSError: break\n    if pid == 0: time.sleep(30)\n")},
		{name: "thread bomb", gvisor: func(h *hostile) { h.or, h.exit = execution.OutcomeExited, 1 }, want: execution.OutcomePIDsLimit, hit: []string{"pids"},
			job: python("import threading,time\nwhile True: threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n")},
		{name: "ignores SIGTERM", want: execution.OutcomeTimedOut, limits: timeout(500), hit: []string{"timeout_ms"}, stdout: "ready",
			job: python("import signal\nfor n in range(1,65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nprint('ready', flush=True)\nwhile True: pass\n")},
		{name: "blocks every signal", want: execution.OutcomeTimedOut, limits: timeout(500),
			job: python("import signal,time\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1,65))\ntime.sleep(600)\n")},
		{name: "a daemon that holds the pipe open", want: execution.OutcomeExited, stdout: "parent",
			job: python("import os,time,sys\nif os.fork()==0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n    import signal\n    for n in (1,2,15): signal.signal(n, signal.SIG_IGN)\n    time.sleep(60)\nprint('parent', flush=True)\nos._exit(0)\n")},
		{name: "children alive at exit", want: execution.OutcomeExited, exit: 3,
			job: shell("for i in 1 2 3 4 5; do sleep 60 & done; exit 3")},
		{name: "closes its streams and runs on", want: execution.OutcomeTimedOut, limits: timeout(500),
			job: shell("exec 0<&- 1>&- 2>&-; sleep 600")},
		{name: "closes every descriptor", want: execution.OutcomeExited,
			job: python("import os\nos.closerange(0, 1024)\nos._exit(0)\n")},
		{name: "every signal to process 1", gvisor: endedWithTheAgent, want: execution.OutcomeExited, stdout: "alive",
			job: python("import os\nfor n in range(1,65):\n    try: os.kill(1,n)\n    except OSError as e: print(n,e)\nprint('alive')\n")},
		{name: "every signal to each thread of process 1", gvisor: endedWithTheAgent, want: execution.OutcomeExited, stdout: "alive",
			job: python("import os,ctypes\nlibc=ctypes.CDLL(None)\nfor _ in range(20):\n  for n in range(1,65):\n    for tid in os.listdir('/proc/1/task'):\n        libc.syscall(234, 1, int(tid), n)\nprint('alive')\n")},
		{name: "a storm of signals at process 1", want: execution.OutcomeTimedOut, limits: timeout(1000),
			job: python("import os\nwhile True:\n  for n in (23,15,2,11,17,27,34):\n    try: os.kill(1,n)\n    except BlockingIOError: pass # a full queue of signals\n")},
		{name: "kill -9 -1", want: execution.OutcomeExited, stdout: "alive",
			job: python("import os\ntry: os.kill(-1,9)\nexcept OSError: pass\nprint('alive')\n")},
		{name: "kills itself", want: execution.OutcomeKilled, hit: []string{},
			job: shell("kill -9 $$")},
		{name: "stops itself", want: execution.OutcomeTimedOut, limits: timeout(700), hit: []string{"timeout_ms"},
			job: shell("kill -STOP $$")},
		{name: "stops itself and its children", want: execution.OutcomeTimedOut, limits: timeout(700),
			job: python("import os,signal\nfor _ in range(5):\n    if os.fork()==0:\n        while True: os.kill(os.getpid(), signal.SIGSTOP)\nos.kill(0, signal.SIGSTOP)\n")},
		{name: "stops process 1", gvisor: func(h *hostile) { h.want, h.limits, h.stdout = execution.OutcomeTimedOut, timeout(700), "" }, want: execution.OutcomeExited, stdout: "alive",
			job: shell("kill -STOP 1; kill -TSTP 1; echo alive")},
		{name: "sets or stops the clock", want: execution.OutcomeTimedOut, limits: timeout(700), hit: []string{"timeout_ms"}, stdout: "1\n1\n1\n", job: python(`
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
for call in (lambda: time.clock_settime(time.CLOCK_REALTIME, 0), lambda: time.clock_settime(time.CLOCK_MONOTONIC, 0)):
    try: call()
    except OSError: print(1, flush=True)
zeros = (ctypes.c_long * 64)()
if libc.settimeofday(zeros, None) == -1: print(1, flush=True)
while True: pass
`)},
		{name: "kill -9 1", gvisor: endedWithTheAgent, want: execution.OutcomeExited, stdout: "alive",
			job: shell("kill -9 1; sleep 0.3; echo alive")},
		{name: "invalid UTF-8 and NUL in variables", want: execution.OutcomeExited, exit: 126,
			job: func() execution.Job { j := shell("true"); j.Env = map[string]string{"A": "a\x00b"}; return j }()},
		{name: "renames itself", want: execution.OutcomeExited, stdout: "agent",
			job: python("import ctypes\nctypes.CDLL(None).prctl(15, b'agent', 0, 0, 0)\nprint(open('/proc/self/comm').read())\n")},
		// Under gVisor it may take the agent's descriptors, and then its own result cannot be read.
		{name: "limits, priority and affinity of process 1", gvisor: func(h *hostile) { h.check = nil }, want: execution.OutcomeExited,
			job: python(`
import os, resource, ctypes
def refused(name, f):
    try: f()
    except OSError as e: print(name, e.errno)
    else: print(name, 'DONE')
refused('prlimit', lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)))
refused('prlimit-read', lambda: resource.prlimit(1, resource.RLIMIT_NOFILE))
refused('oom', lambda: open('/proc/1/oom_score_adj','w').write('1000'))
`), check: func(t testing.TB, r execution.Result) {
				if strings.Contains(string(r.Stdout), "DONE") {
					t.Errorf("%s", r.Stdout)
				}
			}},
		{name: "disturbs process 1 by what it may", want: execution.OutcomeExited, stdout: "alive",
			job: python("import os\nfor f in (lambda: os.setpriority(os.PRIO_PROCESS, 1, 19), lambda: os.sched_setaffinity(1, {0}), lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))):\n    try: f()\n    except OSError as e: print(e)\nprint('alive')\n")},
		{name: "a million bytes of code", want: execution.OutcomeExited, stdout: "1000000",
			job: python("s='" + strings.Repeat("a", 1_000_000) + "'\nprint(len(s))\n")},
		{name: "ten million bytes of code", want: execution.OutcomeExited, stdout: "10000000",
			job: python("s='" + strings.Repeat("a", 10_000_000) + "'\nprint(len(s))\n"), limits: func(l *execution.Limits) { l.MemoryMiB = 256 }},
		{name: "NUL in code", want: execution.OutcomeExited, exit: 1, job: python("print(1)\x00\n")},
		{name: "does not exist", want: execution.OutcomeExited, exit: 127, job: command("/nonexistent")},
		{name: "cannot be run", want: execution.OutcomeExited, exit: 126, job: command("/etc/passwd")},
		{name: "a NUL in an argument", want: execution.OutcomeExited, exit: 126, job: command("/bin/echo", "a\x00b")},
		{name: "stdin that is never read", want: execution.OutcomeExited,
			job: func() execution.Job { j := shell("exit 0"); j.Stdin = strings.Repeat("x", 8<<20); return j }()},
		{name: "more arguments than the kernel takes", want: execution.OutcomeExited, exit: 126,
			job: command("/bin/echo", strings.Repeat("x", 1<<20))},
	})
}

// A program that is told to stop may say a last word, as long as its grace is.
func TestProgramHeedsTheStop(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, withGrace(patience))
	underEach(t, func(t *testing.T, runtime string) {
		hostile{want: execution.OutcomeTimedOut, limits: timeout(700), hit: []string{"timeout_ms"}, stdout: "bye", job: python(`
import signal, sys, time
def bye(*_):
    print('bye', flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, bye)
while True: time.sleep(0.01)
`)}.under(runtime).attack(t, e)
	})
}

// withGrace makes the grace of programs that heed the stop as long as it is.
func withGrace(grace time.Duration) func(*executor.Config) {
	return func(c *executor.Config) { c.StopGrace = grace }
}

// 30 threads that spin at a quarter of a CPU starve everything else of it, and
// the deadline is kept all the same.
func TestHostileSpinEndsInTime(t *testing.T) {
	e := newExecutor(t)
	underEach(t, func(t *testing.T, runtime string) { spinEndsInTime(t, e, runtime) })
}

func spinEndsInTime(t *testing.T, e *executor.Executor, runtime string) {
	promptly(t, "to end past its limit", late, func() time.Duration {
		began := time.Now()
		r := hostile{
			job:    python("import threading\ndef f():\n    while True: pass\nfor _ in range(30): threading.Thread(target=f).start()\n"),
			limits: func(l *execution.Limits) { l.CPUMillis, l.TimeoutMS = 250, 1500 },
			want:   execution.OutcomeTimedOut, hit: []string{"timeout_ms"},
		}.under(runtime).attack(t, e)
		t.Logf("Execute took %s, wall_ms %d", time.Since(began), r.Usage.WallMS)
		return time.Duration(r.Usage.WallMS-1500) * time.Millisecond
	})
}

// A program that was granted so many processes can have exactly as many, and
// the agent lives to report it.
func TestExactlyTheGrantedProcesses(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	underEach(t, func(t *testing.T, runtime string) { exactlyTheGrantedProcesses(t, e, runtime) })
}

func exactlyTheGrantedProcesses(t *testing.T, e *executor.Executor, runtime string) {
	for _, n := range []int64{2, 8, 50, 200} {
		for _, kind := range []string{"process", "thread"} {
			t.Run(fmt.Sprint(n, " by ", kind), func(t *testing.T) {
				t.Parallel()
				exactlySoMany(t, e, runtime, n, kind)
			})
		}
	}
}

func exactlySoMany(t *testing.T, e *executor.Executor, runtime string, n int64, kind string) {
	code := `
import os, time, threading
n = 1
while True:
    try:
        if KIND == 'thread': threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        elif os.fork() == 0:
            time.sleep(600)
    except (OSError, RuntimeError): break
    n += 1
result = n
`
	r := hostile{job: python("KIND = '" + kind + "'" + code), limits: func(l *execution.Limits) { l.PIDs, l.MemoryMiB, l.TimeoutMS = n, 2048, patience.Milliseconds() },
		want: execution.OutcomeExited}.under(runtime).attack(t, e)
	// A handful met for less than a moment may go unseen, never more. gVisor
	// keeps no peak, so there threads that end with the program may, too.
	seen := n >= 8 && (runtime == "runc" || kind == "process")
	if seen && !slices.Contains(r.Usage.LimitsHit, "pids") {
		t.Errorf("granted %d, had as many by %s, and limits_hit is %v", n, kind, r.Usage.LimitsHit)
	}
	if string(r.Value) != itoa(n) {
		t.Errorf("granted %d, had %s by %s", n, r.Value, kind)
	}
}
