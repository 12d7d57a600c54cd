package executor_test

import (
	"cmp"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// hostileSession is a program that means harm to its session, and what must come
// of it and of the next one there.
type hostileSession struct {
	name    string
	code    string
	limits  func(*execution.Limits)
	want    execution.Outcome // exited where it is empty
	session execution.SessionState
	next    execution.SessionState // after a program that prints; empty: not looked at
	heeds   bool                   // an interrupt ends what runs in it
	check   string                 // python that the next program runs; refused: it cannot be started
}

// brief is the timeout of programs that are meant to meet it.
func brief(l *execution.Limits) { l.TimeoutMS = 1000 }

// What a program does to its interpreter, to the descriptor on which the driver
// says how far it is, or to its files, ends in time, says what is left of the
// session, and leaves the next execution its own outcome in time.
func TestHostileSession(t *testing.T) {
	t.Parallel()
	const kept, reset = execution.SessionKept, execution.SessionReset
	// ready finds the descriptor on which the driver says how far it is: of its
	// pipes the one that is written to and closed on exec.
	const ready = `
import fcntl, os, stat
ready = [fd for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}') and stat.S_ISFIFO(os.fstat(fd).st_mode)
    and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY][0]
`
	e, patient := newExecutor(t), newExecutor(t, withGrace(patience))
	for _, h := range []hostileSession{
		{name: "says it is done and runs on", code: ready + "os.write(ready, b'D\\0')\nwhile True: pass", session: kept},
		{name: "says it is done, and then another program does", code: ready + `
import time
held = os.dup(ready); os.set_inheritable(held, True)
os.execv('/bin/sh', ['sh', '-c', f"printf 'D\\0' >&{held}; exec sleep 600"])`, session: kept, next: reset, heeds: true},
		{name: "becomes another program", code: "import os\nos.execv('/bin/true', ['true'])", session: reset, next: kept},
		{name: "becomes another program that stays", code: "import os\nos.execv('/bin/sleep', ['sleep', '600'])", limits: brief, want: execution.OutcomeTimedOut, session: reset, next: kept},
		{name: "says all words at once", code: ready + "os.set_blocking(ready, True)\nos.write(ready, b'TDTDPPDDTTxyz' * 1000)", session: kept},
		{name: "floods the descriptor for ever", code: ready + "os.set_blocking(ready, True)\nwhile True: os.write(ready, b'TTTT' * 1000)", limits: brief, want: execution.OutcomeTimedOut, session: kept, next: kept, heeds: true},
		{name: "closes the descriptor", code: ready + "os.close(ready)", session: reset, next: kept},
		{name: "puts another file in its place", code: ready + "os.dup2(os.open('/dev/null', os.O_WRONLY), ready)", limits: brief, want: execution.OutcomeTimedOut, session: reset, next: kept},
		{name: "closes the job's descriptor", code: "import os\nos.close(3)", session: ""},
		{name: "closes every descriptor", code: "import os\nos.closerange(0, 256)", session: reset, next: kept},
		{name: "ignores the interrupt", code: "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", limits: brief, want: execution.OutcomeTimedOut, session: reset, next: kept},
		{name: "blocks every signal", code: "import signal\nsignal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))\nprint('on')", session: kept, next: kept},
		{name: "stops itself", code: "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", limits: brief, want: execution.OutcomeTimedOut, session: reset, next: kept},
		{name: "kills all it can", code: "import os, signal\nos.kill(1, signal.SIGKILL)\nos.kill(os.getpid(), signal.SIGKILL)", want: execution.OutcomeKilled, session: reset, next: kept},
		{name: "leaves daemons that ignore signals", code: `
import ctypes, os, signal
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) # its orphans are its own
for n in range(1, 65):
    if n not in (9, 19, 32, 33): signal.signal(n, signal.SIG_IGN)
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True: signal.pause()
        os._exit(0)
`, session: kept, next: kept, check: `
import os
others = [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid()) and open(f'/proc/{p}/stat').read().split(') ')[1][0] != 'Z']
assert not others, others`},
		{name: "limits its streams", code: "import fcntl\nfor fd in range(4):\n    try: fcntl.fcntl(fd, fcntl.F_SETFL, 0o4000 | 0o2000 | 0o20000); fcntl.fcntl(fd, 1031, 4096)\n    except OSError: pass", session: kept},
		{name: "seals and cuts its input", code: `
import fcntl, mmap, os
refused = 0
for seal in (1, 2, 4, 8, 16):
    try: fcntl.fcntl(0, 1033, seal)
    except OSError: refused += 1
assert refused == 5
os.ftruncate(0, 1 << 20); memory = mmap.mmap(0, 1 << 20); os.ftruncate(0, 0); os.lseek(0, 1 << 40, 0)
fcntl.fcntl(0, fcntl.F_SETFL, os.O_APPEND)`, session: kept, next: kept},
		{name: "result is a folder", code: "import os\nos.makedirs('/tmp/.execgate-result/a/b'); open('/tmp/.execgate-result/a/b/c', 'w')", session: kept, next: kept},
		{name: "result is a link", code: "import os\nos.symlink('/etc/passwd', '/tmp/.execgate-result')", session: kept, next: kept},
		{name: "result is a pipe", code: "import os\nos.mkfifo('/tmp/.execgate-result'); os.mkfifo('/tmp/.execgate-result.error')", session: kept, next: kept},
		{name: "no room for a result", code: "try:\n    f = open('/tmp/fill', 'wb')\n    while True: f.write(bytes(1 << 20))\nexcept OSError: pass\nresult = list(range(1000))", want: execution.OutcomeDiskLimit, session: kept, next: kept},
		{name: "artifacts are a link", code: "import os\nos.rmdir('/workspace/out'); os.symlink('/', '/workspace/out')", session: kept, next: kept},
		{name: "artifacts are a link to nowhere", code: "import os\nos.rmdir('/workspace/out'); os.symlink('/nowhere', '/workspace/out')", session: kept, next: kept, check: "refused"},
		{name: "holds leases on what it leaves", code: `
import fcntl, os
held = []
for name in ('/workspace/out/leased', '/tmp/.execgate-result.error', '/tmp/.execgate-result'):
    fd = os.open(name, os.O_RDWR | os.O_CREAT); os.write(fd, b'1'); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK); held.append(fd)
`, session: kept},
	} {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			if h.heeds {
				h.attack(t, patient)
			} else {
				h.attack(t, e)
			}
		})
	}
}

func (h hostileSession) attack(t *testing.T, e *executor.Executor) {
	_, execute := inSession(t, e, "python")
	var limits []func(*execution.Limits)
	if h.limits != nil {
		limits = append(limits, h.limits)
	}
	began := time.Now()
	r := execute(python(h.code), limits...)
	t.Logf("%s: %s, session %s, %.300q", time.Since(began).Round(time.Millisecond), r.Outcome, r.Session, r.Stderr)
	if want := cmp.Or(h.want, execution.OutcomeExited); r.Outcome != want || !h.leaves(r) {
		t.Errorf("session %s, want %s, outcome %s: %s", r.Session, h.session, want, describe(r))
	}
	if took := time.Since(began); took > lateAmongOthers {
		t.Errorf("took %s", took)
	}
	if r.Session == execution.SessionEnded {
		return
	}
	limits = nil
	if h.next != execution.SessionKept {
		limits = append(limits, brief) // where there was an interpreter there may be what takes no job
	}
	began = time.Now()
	r = execute(python("print('next')\n"+strings.TrimPrefix(h.check, "refused")), limits...)
	t.Logf("%s: %s, session %s, %.300q", time.Since(began).Round(time.Millisecond), r.Outcome, r.Session, r.Stderr)
	if took := time.Since(began); took > lateAmongOthers {
		t.Errorf("the next one took %s", took)
	}
	if h.next != "" && r.Session != h.next {
		t.Errorf("after the next one: session %s, want %s: %s", r.Session, h.next, describe(r))
	}
	if h.next == execution.SessionKept && h.check != "refused" && (r.Outcome != execution.OutcomeExited || *r.ExitCode != 0 || string(r.Stdout) != "next\n") {
		t.Errorf("the next one: %s", describe(r))
	}
	if r.Session != execution.SessionEnded {
		if r = execute(python("print('third')")); r.Session == execution.SessionEnded {
			t.Errorf("the third one: %s", describe(r))
		}
	}
}

// leaves reports whether the session is as it should be. Where the interpreter was
// to be killed and the agent gets no processor to say so, all of it is lost.
func (h hostileSession) leaves(r execution.Result) bool {
	if h.want == execution.OutcomeTimedOut && h.session == execution.SessionReset && r.Session == execution.SessionEnded {
		return true
	}
	return h.session == "" || r.Session == h.session
}

// wakers are ways to go on running though one was stopped.
var wakers = map[string]string{
	"a thread that continues its process": `
import os, signal, threading
def wake():
    while True: os.kill(os.getpid(), signal.SIGCONT)
for _ in range(2): threading.Thread(target=wake, daemon=True).start()
`,
	"other processes that continue it": `
import os, signal
parent = os.getpid()
for _ in range(8):
    if os.fork() == 0:
        while True: os.kill(parent, signal.SIGCONT)
`,
	"a timer": `
import ctypes
libc = ctypes.CDLL(None)
event = (ctypes.c_int * 16)(0, 0, 18, 0) # SIGEV_SIGNAL with SIGCONT
timer = ctypes.c_void_p()
assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
every = (ctypes.c_long * 4)(0, 5_000_000, 0, 5_000_000)
assert libc.timer_settime(timer, 0, every, None) == 0
`,
	"the end of a child": `
import ctypes, os, signal
if os.uname().machine == 'x86_64':
    clone = 56
    pid = ctypes.CDLL(None).syscall(clone, 18, 0, 0, 0, 0) # SIGCONT instead of SIGCHLD
    if pid == 0:
        while True: signal.pause()
`,
	"a process group that is orphaned": `
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
group = os.getpgid(0)
r, w = os.pipe()
if os.fork() == 0:
    os.setpgid(0, 0)
    if os.fork() == 0:
        os.setpgid(0, group); os.write(w, b'x')
    while True: signal.pause()
os.read(r, 1)
`,
	"a change of a folder": `
import fcntl, os, signal
folder = os.open('/workspace', os.O_RDONLY)
fcntl.fcntl(folder, fcntl.F_SETSIG, signal.SIGCONT)
fcntl.fcntl(folder, fcntl.F_NOTIFY, fcntl.DN_CREATE | fcntl.DN_MODIFY | fcntl.DN_ACCESS | fcntl.DN_MULTISHOT)
`,
}

// An interpreter that does not stand still between executions is lost.
func TestSessionStandsStill(t *testing.T) {
	t.Parallel()
	const counts = `
import os, threading, time
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.0005)
threading.Thread(target=tick, daemon=True).start()
`
	e := newExecutor(t)
	for name, waker := range wakers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, execute := inSession(t, e, "python")
			// One that goes on is killed a moment later.
			untilStill := func(when string) {
				t.Helper()
				until(t, when+" it is stopped", func() bool {
					ids := containers(t, "label=execgate.execution="+s.ID)
					if len(ids) == 0 {
						return true // the session has ended, which is told below
					}
					top := docker(t, "top", ids[0], "-eLo", "pid,stat,comm")
					for line := range strings.Lines(top) {
						if strings.Contains(line, "python") && !strings.Contains(line, " T") && !strings.Contains(line, " Z") {
							return false
						}
					}
					return true
				})
			}
			r := execute(python(counts + waker))
			t.Logf("%s: session %s", r.Outcome, r.Session)
			if r.Outcome != execution.OutcomeExited || *r.ExitCode != 0 {
				t.Error(describe(r))
			}
			untilStill("at first")
			if err := e.PutFile(t.Context(), s.ID, "noticed", []byte("x")); err != nil {
				t.Error(err)
			}
			time.Sleep(100 * time.Millisecond) // for what would wake it
			untilStill("later")
			r = execute(python("print(ticks)"))
			t.Logf("next %s: session %s, %q", r.Outcome, r.Session, r.Stdout)
			if r.Session == execution.SessionEnded {
				t.Error(describe(r))
			}
		})
	}
}
