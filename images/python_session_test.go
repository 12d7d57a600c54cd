package images_test

import (
	"fmt"
	"strings"
	"testing"
)

// whenAsleep has "go" printed once the main thread waits in time.sleep, which is where CPython hears
// of an interrupt at once: in clock_nanosleep(2), by the kernel's number of it.
const whenAsleep = `import os, platform, threading, time
def tell(call=f'/proc/self/task/{os.getpid()}/syscall', sleep={'x86_64': '230', 'aarch64': '115'}[platform.machine()]):
    while open(call).read().split()[0] != sleep: time.sleep(0.001)
    print('go')
threading.Thread(target=tell, daemon=True).start()

`

func TestPythonSession(t *testing.T) {
	t.Parallel()
	s := newSession(t, "python")
	const header = "Traceback (most recent call last):\n"
	with := func(c turn, p program) turn { p.code = c.program.code; c.program = p; return c }
	for _, tc := range []struct {
		name  string
		turns []turn
	}{
		{"names stay", []turn{
			said("bound", "import math, os\nassert 'EXECGATE_SESSION' not in os.environ\nx = 41\ndef f(): return x + 1\nclass C: pass"),
			said("read", "print(f(), math.floor(2.5), C.__name__, __file__, __name__)").prints("42 2 C main-2.py __main__\n"),
			said("after a failure", "y = 5\nraise KeyError('k')").fails(1, header+"  File \"main-3.py\", line 2, in <module>\n    raise KeyError('k')\nKeyError: 'k'\n"),
			said("both", "print(x, y)").prints("41 5\n"),
			said("pickled", "import pickle; print(type(pickle.loads(pickle.dumps(C()))) is C)").prints("True\n"),
		}},
		{"a traceback shows each job's lines", []turn{
			said("first", "# a comment\ndef f():\n    return 1 / 0"),
			said("second", "open('main.py', 'w').write('no\\n' * 5)\nf()").fails(1, header+"  File \"main-2.py\", line 2, in <module>\n    f()\n    ~^^\n  File \"main.py\", line 3, in f\n    return 1 / 0\n           ~~^~~\nZeroDivisionError: division by zero\n"),
			said("a syntax error", "x = 1\nif x\n").fails(1, "  File \"main-3.py\", line 2\n    if x\n        ^\nSyntaxError: expected ':'\n"),
		}},
		{"nothing is stale", []turn{
			with(said("first", "import os, sys\nresult = [INPUT_DATA, os.environ['A'], os.environ['B'], sys.stdin.readline()]\nos.chdir('/tmp')\nos.environ['KEPT'] = 'k'"),
				program{input: "1", stdin: "a\nb\n", env: map[string]string{"A": "x", "B": "y"}}).gives(`[1, "x", "y", "a\n"]`),
			said("no result", "print(INPUT_DATA, os.environ.get('A'), os.environ['KEPT'], os.getcwd(), repr(sys.stdin.read()), 'result' in globals(), sys.argv)").prints("None None k /workspace '' False ['main-2.py']\n"),
			with(said("input()", "result = [input(), sys.__stdin__ is sys.stdin]\nos.environ['HOME'] = '/'"), program{stdin: "c", env: map[string]string{"HOME": "/tmp"}}).gives(`["c", true]`),
			said("put back", "print(os.environ['HOME'])").prints("/workspace\n"),
			with(said("time zone", "import time; print(time.localtime(0).tm_hour)"), program{env: map[string]string{"TZ": "Asia/Tokyo"}}).prints("9\n"),
			said("time zone put back", "print(time.localtime(0).tm_hour)").prints("0\n"),
		}},
		{"an interrupt ends the program and keeps the rest", []turn{
			{caseOf: caseOf{name: "asleep", program: program{code: whenAsleep + "x = 7\ntime.sleep(60)"}, exit: 130, stdout: "go\n",
				stderr: header + "  File \"main.py\", line 8, in <module>\n    time.sleep(60)\n    ~~~~~~~~~~^^^^\nKeyboardInterrupt\n"}, interruptOn: "\n"},
			{caseOf: caseOf{name: "in a loop", program: program{code: "print('go', x)\nwhile True: x += 1"}, exit: 130, stdout: "go 7\n",
				stderr: "…" + header + "  File \"main-2.py\", line "}, interruptOn: "\n"},
			{caseOf: caseOf{name: "in the driver's own code", program: program{code: "for i in range(10 ** 9): print('go')"}, exit: 130, stderr: "…" + header + "  File \"main-3.py\", line 1, in <module>\n"}, interruptOn: "\n", anyOutput: true},
			{caseOf: caseOf{name: "handled", program: program{code: "try:\n    print('go', x >= 7)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    result = 'stopped'"}, stdout: "go True\n", result: `"stopped"`}, interruptOn: "\n"},
			{caseOf: caseOf{name: "while asyncio runs", program: program{code: "import asyncio\nasync def f():\n    print('go')\n    await asyncio.sleep(60)\nasyncio.run(f())"}, exit: 130, stdout: "go\n", stderr: "…" + header}, interruptOn: "\n"},
			{caseOf: caseOf{name: "of children too", program: program{code: "import subprocess\nsubprocess.run(['sh', '-c', 'echo go; sleep 60'])"}, exit: 130, stdout: "go\n", stderr: "…" + header}, interruptOn: "\n"},
			{caseOf: caseOf{name: "while none runs", program: program{code: "print('on')"}, stdout: "on\n"}, early: true},
			{caseOf: caseOf{name: "a handler of the program's own", program: program{code: "import signal\nseen = []\n_ = signal.signal(2, lambda *a: seen.append(1))\nprint('go')\nwhile not seen: time.sleep(0.01)"}, stdout: "go\n"}, interruptOn: "\n"},
			{caseOf: caseOf{name: "which is its own only", program: program{code: "print(signal.getsignal(2) is signal.default_int_handler)"}, stdout: "True\n"}, early: true},
		}},
		{"the end of a program is not the interpreter's", []turn{
			said("exit", "x = 1\nexit(3)").fails(3, ""),
			said("with text", "import sys\nsys.exit('so long')").fails(1, "so long\n"),
			said("no exit functions yet", "import atexit\natexit.register(print, 'bye')\nprint(x)").prints("1\n"),
			said("an alarm", "import signal\nsignal.signal(signal.SIGALRM, lambda *a: 1/0)\n_ = signal.setitimer(signal.ITIMER_REAL, 60)"),
			said("of another program", "print(signal.getitimer(signal.ITIMER_REAL))").prints("(0.0, 0.0)\n"),
			said("threads go on", "import threading\nstop, seen = threading.Event(), []\ndef f():\n    stop.wait(); seen.append(1)\nt = threading.Thread(target=f); t.start()"),
			said("and are the session's", "stop.set(); t.join(); print(seen)").prints("[1]\n"),
			said("a pool", "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(2)\nprint(pool.submit(pow, 2, 3).result())").prints("8\n"),
			said("that goes on", "print(pool.submit(pow, 2, 4).result())\npool.shutdown()\natexit.unregister(print)").prints("16\n"),
		}},
		{"children", []turn{
			said("a fork", "import os, sys\nx = 1\nchild = os.fork()\nif child == 0:\n    x = 2\n    result = 'of the child'\n    sys.exit(4)\nresult = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])").gives("4"),
			said("descriptors", "def count(): return sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1]\nimport subprocess\nprint(x, subprocess.run(['ls', '/proc/self/fd'], capture_output=True, text=True, close_fds=False).stdout.split())").prints("1 ['0', '1', '2', '3']\n"),
			said("of a fork", "r, w = os.pipe()\nif os.fork() == 0:\n    os.write(w, repr(count()).encode()); os._exit(0)\nos.wait()\nprint(os.read(r, 99).decode())").prints("[0, 1, 2, 3, 5]\n"),
			said("multiprocessing", "import multiprocessing as m\ndef sq(x): return x * x\nwith m.get_context('fork').Pool(2) as p: result = p.map(sq, range(3))").gives("[0, 1, 4]"),
		}},
		{"results", []turn{
			said("a figure", "import matplotlib.pyplot as plt, os\nplt.plot([1]); plt.show(); print(os.listdir('out'))").prints("['figure-1.png']\n"),
			said("another", "plt.plot([2]); plt.show(); print(sorted(os.listdir('out')))").prints("['figure-1.png', 'figure-2.png']\n"),
			{caseOf: caseOf{name: "not JSON", program: program{code: "result = {1}"}, error: "use a list"}},
			said("again", "result = 2").gives("2"),
			said("much output", "print('x' * 300_000, end='')").prints(strings.Repeat("x", 300_000)),
			said("a stream that keeps", "import io, sys\nout = sys.stdout\nsys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, 'w', closefd=False)))\nprint('kept')").prints("kept\n"),
			said("a closed stdin", "sys.stdout = out\nsys.stdin.close(); print(1)").prints("1\n"),
			{caseOf: caseOf{name: "is anew", program: program{code: "print(sys.stdin.read())", stdin: "in"}, stdout: "in\n"}},
		}},
		{"a program that ends its interpreter", []turn{
			{caseOf: caseOf{name: "_exit", program: program{code: "import os\nprint('a', end='')\nos._exit(5)"}, exit: 5, stdout: "a"}, lost: true},
		}},
		{"a closed ready descriptor", []turn{
			{caseOf: caseOf{name: "is lost", program: program{code: "import os\nos.close(4)"}, exit: 70, stderr: "…execgate: the session is lost: OSError(9, "}, lost: true},
		}},
		{"a full ready descriptor", []turn{
			{caseOf: caseOf{name: "is lost", program: program{code: "import os\nprint(1)\nwhile True:\n    try: os.write(4, b'x' * 4096)\n    except BlockingIOError: break"}, exit: 70, stdout: "1\n", stderr: "…execgate: the session is lost: BlockingIOError("}, lost: true},
		}},
		{"a ready descriptor that lies", []turn{
			{caseOf: caseOf{name: "is lost", program: program{code: "import os\nos.write(4, b'x' * 10)"}, exit: 0, stdout: ""}, lost: true},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { s.session(t, "python", tc.turns) })
		s.sh(t, "rm -rf /workspace/* /tmp/session-result*")
	}
}

// Many programs leave nothing behind in the interpreter but what they bound.
func TestPythonSessionLeaksNothing(t *testing.T) {
	t.Parallel()
	s := newSession(t, "python")
	turns := []turn{said("first", "import os\ndef count(): return len(os.listdir('/proc/self/fd'))\nbefore = count()\nn = 0")}
	for range 200 {
		turns = append(turns, turn{caseOf: caseOf{program: program{code: "n += 1\nresult = n", stdin: "x", env: map[string]string{"A": "a"}}, result: fmt.Sprint(len(turns))}})
	}
	turns = append(turns, said("last", "print(n, count() - before)").prints("200 0\n"))
	s.session(t, "python", turns)
}
