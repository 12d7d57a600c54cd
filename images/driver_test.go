package images_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// job returns the order to run code, without input.
func job(code string) order { return jobOf(map[string]any{"code": code}) }

func jobOf(fields map[string]any) order {
	fields["result"] = "RESULT_PATH"
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return order{Job: string(text)}
}

func TestPythonDriver(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	traceback := func(frames ...string) string {
		return "Traceback (most recent call last):\n" + strings.Join(frames, "\n") + "\n"
	}
	cases := []struct {
		name   string
		order  order
		exit   int
		stdout string
		stderr string // all of it; a leading … means that it ends so
		result string // JSON; empty for none
		error  string // a part of it; empty for none
	}{
		{name: "prints", order: job("print('Hello from sandbox!')\nprint(2 + 2)"), stdout: "Hello from sandbox!\n4\n"},
		{name: "nothing", order: job("")},
		{
			name: "input and result",
			order: jobOf(map[string]any{"input": map[string]any{"numbers": []int{1, 2, 3, 4, 5}},
				"code": "n = INPUT_DATA['numbers']\nresult = {'sum': sum(n), 'average': sum(n) / len(n), 'count': len(n)}"}),
			result: `{"sum": 15, "average": 3.0, "count": 5}`,
		},
		{name: "input is true, null", order: jobOf(map[string]any{"input": []any{true, nil, "é\u0000"}, "code": "result = INPUT_DATA"}),
			result: `[true, null, "é\u0000"]`},
		{name: "no input", order: job("print(INPUT_DATA)"), stdout: "None\n"},
		{name: "surrogate pair", order: order{Job: `{"code": "print(INPUT_DATA)", "input": "\ud83d\ude00", "result": "RESULT_PATH"}`}, stdout: "😀\n"},
		{name: "stdin", order: order{Job: jobOf(map[string]any{"code": "print(input('? '), input())"}).Job, Stdin: "a\nb\n"}, stdout: "? a b\n"},
		{name: "environment", order: jobOf(map[string]any{"env": map[string]string{"MODE": "test", "TZ": "Asia/Tokyo"},
			"code": "import os, time\nprint(os.environ['MODE'], time.tzname[0])"}), stdout: "test JST\n"},
		{name: "where it runs", order: job("import os, sys\nprint(os.getcwd(), sys.path[0], sys.argv, __name__, __file__, sorted(k for k in globals() if k[0] != '_'))"),
			stdout: "/workspace /workspace ['main.py'] __main__ main.py ['INPUT_DATA', 'os', 'sys']\n"},
		{name: "the module is __main__", order: job("import sys, pickle\nclass C: pass\nassert sys.modules['__main__'].C is C\nprint(type(pickle.loads(pickle.dumps(C()))).__name__)"), stdout: "C\n"},
		{name: "descriptor 3 is closed", order: job("import os\ntry: os.fstat(3)\nexcept OSError as e: print(e.errno)"), stdout: "9\n"},
		{name: "modules of the workspace", order: job("open('helper_a.py', 'w').write('x = 7')\nimport helper_a, os\nprint(helper_a.x, os.path.exists('__pycache__'))"), stdout: "7 False\n"},
		{name: "annotations and dataclasses", order: job("from __future__ import annotations\nimport dataclasses, typing\n@dataclasses.dataclass\nclass P:\n  x: int = 1\nprint(typing.get_type_hints(P), P())"),
			stdout: "{'x': <class 'int'>} P(x=1)\n"},
		{name: "inspect finds the source", order: job("import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))"), stdout: "def f():\n    return 1\n\n"},

		{name: "traceback", order: job("def f():\n    return 1 / 0\n\nf()"), exit: 1,
			stderr: traceback(`  File "main.py", line 4, in <module>`, "    f()", "    ~^^", `  File "main.py", line 2, in f`,
				"    return 1 / 0", "           ~~^~~", "ZeroDivisionError: division by zero")},
		{name: "traceback beside a file of that name", exit: 1,
			order:  job("open('main.py', 'w').write('not this\\n' * 9)\nraise KeyError('k')"),
			stderr: traceback(`  File "main.py", line 2, in <module>`, "    raise KeyError('k')", "KeyError: 'k'")},
		{name: "traceback the program prints", order: job("import traceback\ntry:\n    [].pop()\nexcept IndexError:\n    traceback.print_exc()"),
			stderr: traceback(`  File "main.py", line 3, in <module>`, "    [].pop()", "    ~~~~~~^^", "IndexError: pop from empty list")},
		{name: "chained", order: job("try:\n    int('x')\nexcept ValueError as e:\n    raise LookupError from e"), exit: 1,
			stderr: traceback(`  File "main.py", line 2, in <module>`, "    int('x')", "    ~~~^^^^^", "ValueError: invalid literal for int() with base 10: 'x'") +
				"\nThe above exception was the direct cause of the following exception:\n\n" +
				traceback(`  File "main.py", line 4, in <module>`, "    raise LookupError from e", "LookupError")},
		{name: "syntax error", order: job("x = 1\nif x\n  y"), exit: 1,
			stderr: "  File \"main.py\", line 2\n    if x\n        ^\nSyntaxError: expected ':'\n"},
		{name: "NUL in the code", order: job("x\u0000"), exit: 1, stderr: "SyntaxError: source code string cannot contain null bytes\n"},
		{name: "own excepthook", order: job("import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n1/0"), exit: 1, stdout: "mine ZeroDivisionError\n"},
		{name: "broken excepthook", order: job("import sys\nsys.excepthook = None\n1/0"), exit: 1,
			stderr: "Error in sys.excepthook:\nTypeError: 'NoneType' object is not callable\n\nOriginal exception was:\n" +
				traceback(`  File "main.py", line 3, in <module>`, "    1/0", "    ~^~", "ZeroDivisionError: division by zero")},
		{name: "recursion", order: job("def f(): f()\nf()"), exit: 1, stderr: "…RecursionError: maximum recursion depth exceeded\n"},
		{name: "recursion in the parser", order: job(strings.Repeat("(", 5000)), exit: 1, stderr: "…SyntaxError: too many nested parentheses\n"},
		{name: "interrupt", order: job("raise KeyboardInterrupt"), exit: 130, stderr: "…KeyboardInterrupt\n"},
		{name: "result of a program that fails", order: job("result = 1\nraise SystemError"), exit: 1, stderr: "…SystemError\n", result: "1"},

		{name: "exit status", order: job("result = 1\nimport sys; sys.exit(3)"), exit: 3, result: "1"},
		{name: "exit without status", order: job("exit()")},
		{name: "exit with text", order: job("raise SystemExit('so long')"), exit: 1, stderr: "so long\n"},
		{name: "exit at once", order: job("import os\nprint('a', end='')\nresult = 1\nos._exit(4)"), exit: 4, stdout: "a"},
		{name: "crash", order: job("import os, signal\nprint('a', end='')\nos.kill(os.getpid(), signal.SIGSEGV)"), exit: -11, stdout: "a"},
		{name: "killed", order: order{Job: job("import time\nprint('be', end='')\nprint('fore', end='')\ntime.sleep(60)").Job, KillOn: "before"}, exit: -9, stdout: "before"},
		{name: "closed stdout", order: job("import sys, os\nsys.stdout.close()\nos.close(1)\nresult = 2"), result: "2"},
		{name: "at exit", order: job("import atexit\natexit.register(print, 'bye')\nprint('hi')"), stdout: "hi\nbye\n"},
		{name: "threads are waited for", order: job("import threading, time\nresult, said = [], threading.Event()\ndef f():\n    said.wait(); time.sleep(.2)\n    result.append(1); print('t')\nthreading.Thread(target=f).start()\nprint('m')\nsaid.set()"),
			stdout: "m\nt\n", result: "[1]"},
		{name: "daemons are not", order: job("import threading, time\nthreading.Thread(target=time.sleep, args=(50,), daemon=True).start()")},
		{name: "multiprocessing", order: job("import multiprocessing as m\ndef sq(x): return x * x\nif __name__ == '__main__':\n    with m.get_context('fork').Pool(2) as p:\n        result = p.map(sq, range(4))"),
			result: "[0, 1, 4, 9]"},
		{name: "a forked child gives no result", order: job("import os\nresult = os.fork()\nif result:\n    os.waitpid(result, 0)\n    result = 'parent'\n    time = __import__('time'); time.sleep(.1)\nelse:\n    result = 'child'"),
			result: `"parent"`},
		{name: "asyncio", order: job("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 5\nresult = asyncio.run(f())"), result: "5"},
		{name: "bytes and text keep their order", order: job("import sys\nprint('a')\nsys.stdout.buffer.write(b'b\\xff\\n')\nprint('c', file=sys.stdout)\nsys.stdout.reconfigure(line_buffering=True)"), stdout: "a\nb\ufffd\nc\n"},
		{name: "much output", order: job("print('x' * 3_000_000)"), stdout: strings.Repeat("x", 3_000_000) + "\n"},

		{name: "result is none", order: job("result = None"), result: "null"},
		{name: "result is a tuple", order: job("result = (1, 'ü', {'a': (True,)})"), result: `[1, "ü", {"a": [true]}]`},
		{name: "result from numpy", order: job("import numpy as np\nresult = {'a': np.arange(3), 's': np.float64(.5), 'i': np.int32(7), 'b': np.bool_(True)}"),
			result: `{"a": [0, 1, 2], "s": 0.5, "i": 7, "b": true}`},
		{name: "result from pandas", order: job("import pandas as pd\nd = pd.DataFrame({'a': [1, 2]})\nresult = [d.a, d.index, d.a.sum(), d.to_dict('list')]"),
			result: `[[1, 2], [0, 1], 3, {"a": [1, 2]}]`},
		{name: "result under a umask", order: job("import os\nos.umask(0o777)\nresult = 1"), result: "1"},
		{name: "result is a DataFrame", order: job("import pandas\nresult = pandas.DataFrame()"), error: "type DataFrame, which JSON cannot hold: use .to_dict()"},
		{name: "result is NaN", order: job("result = [float('nan')]"), error: "NaN or Infinity"},
		{name: "result from numpy is infinite", order: job("import numpy\nresult = numpy.array([numpy.inf])"), error: "NaN or Infinity"},
		{name: "result is a set", order: job("result = {1}"), error: "use a list"},
		{name: "result is bytes", order: job("result = b''"), error: ".decode()"},
		{name: "result is a date", order: job("import datetime\nresult = datetime.date(2024, 1, 1)"), error: ".isoformat()"},
		{name: "result is numpy dates", order: job("import numpy\nresult = numpy.array(['2024-01-01'], 'M8[ns]')"), error: ".astype(str)"},
		{name: "result is a function", order: job("def result(): pass"), error: "type function, which JSON cannot hold"},
		{name: "result is a class", order: job("import numpy\nresult = numpy.ndarray"), error: "type type, which"},
		{name: "result is a generator", order: job("result = (x for x in 'ab')"), error: "use list(...)"},
		{name: "result is complex", order: job("result = 1j"), error: "float(), abs() or str()"},
		{name: "result has tuples for keys", order: job("result = {(1, 2): 3}"), error: "use str(key)"},
		{name: "result contains itself", order: job("result = []\nresult.append(result)"), error: "contains itself"},
		{name: "result is too deep", order: job("result = []\nfor _ in range(10**5): result = [result]"), error: "nested too deeply"},
		{name: "result is half a character", order: job(`result = '\ud800'`), error: "not valid Unicode"},
		{name: "result is a mock", order: job("from unittest.mock import MagicMock\nresult = MagicMock()"), error: "type MagicMock, which"},
		{name: "result raises", order: job("class C:\n    def tolist(self): raise OSError('a\\nb')\nresult = C()"), error: "could not be made JSON: OSError: a b"},
		{name: "a type with a newline in its name", order: job("result = type('a\\nb', (), {})()"), error: "type a b, which"},

		{name: "matplotlib is silent", order: job("import matplotlib.pyplot as plt\nprint(plt.get_backend().lower())"), stdout: "agg\n"},
		{name: "figures shown are saved", order: job("import matplotlib.pyplot as plt, os\nfor y in (1, 2):\n    plt.figure(); plt.plot([0, y])\nplt.show()\nplt.plot([1]); plt.show(); plt.show()\nprint(sorted(os.listdir('out')), open('out/figure-1.png', 'rb').read(4)[1:])"),
			stdout: "['figure-1.png', 'figure-2.png', 'figure-3.png'] b'PNG'\n"},
		{name: "backend of the program's own choice", order: jobOf(map[string]any{"env": map[string]string{"MPLBACKEND": "svg"}, "code": "import matplotlib\nprint(matplotlib.get_backend())"}), stdout: "svg\n"},

		{name: "never used", order: order{Job: ""}},
		{name: "not a job", order: order{Job: "["}, exit: 70, stderr: "execgate: the job could not be read: ValueError('not a JSON object')\n"},
		{name: "two jobs", order: order{Job: "{}{}"}, exit: 70, stderr: "execgate: the job could not be read: ValueError('not one JSON object')\n"},
	}
	var orders []order
	for _, tc := range cases {
		orders = append(orders, tc.order)
	}
	reports := s.run(t, orders...)
	for i, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := reports[i]
			if r.Exit != tc.exit {
				t.Errorf("exit status %d, want %d", r.Exit, tc.exit)
			}
			if r.Stdout != tc.stdout {
				t.Errorf("stdout %.2000q, want %.2000q", r.Stdout, tc.stdout)
			}
			end, partly := strings.CutPrefix(tc.stderr, "…")
			if r.Stderr != tc.stderr && (!partly || !strings.HasSuffix(r.Stderr, end)) {
				t.Errorf("stderr:\n%.2000s\nwant:\n%s", r.Stderr, tc.stderr)
			}
			if strings.Contains(r.Stderr, "/opt/execgate") {
				t.Errorf("stderr shows the driver:\n%s", r.Stderr)
			}
			if got := text(r.Result); got != tc.result {
				t.Errorf("result %q, want %q", got, tc.result)
			}
			if got := text(r.Error); !strings.Contains(got, tc.error) || (tc.error == "") != (r.Error == nil) || strings.Contains(got, "\n") {
				t.Errorf("error %q, want one line with %q", got, tc.error)
			}
		})
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// An interpreter that is started ahead of its job imports first, and before the program's
// environment and files can have a say.
func TestPythonDriverPreloads(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	o := job("import sys\nprint('pandas' in sys.modules, 'matplotlib.pyplot' in sys.modules)\nimport matplotlib.pyplot as plt\nplt.plot([1]); plt.show()\n1/0")
	o.Command = append(slices.Clone(s.driver), "pandas", "matplotlib.pyplot", "no_such_module")
	r := s.run(t, o)[0]
	if r.Exit != 1 || r.Stdout != "True True\n" {
		t.Errorf("got %+v", r)
	}
	want := "Traceback (most recent call last):\n  File \"main.py\", line 5, in <module>\n    1/0\n    ~^~\nZeroDivisionError: division by zero\n"
	if r.Stderr != want {
		t.Errorf("stderr:\n%s\nwant:\n%s", r.Stderr, want)
	}
	if files := s.sh(t, "ls out"); files != "figure-1.png\n" {
		t.Errorf("out/ holds %q", files)
	}
}
