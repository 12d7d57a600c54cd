package images_test

import (
	"strings"
	"testing"
)

// A caseOf is a program in some language, and what must come of it.
type caseOf struct {
	name    string
	program program
	exit    int
	stdout  string
	stderr  string // a leading … means that it begins with what follows
	result  string // JSON; empty for none
	error   string // a part of it; empty for none
}

func (tc caseOf) check(t *testing.T, r report) {
	t.Helper()
	if r.Exit != tc.exit {
		t.Errorf("exit status %d, want %d", r.Exit, tc.exit)
	}
	if r.Stdout != tc.stdout {
		t.Errorf("stdout %.2000q (%d bytes), want %.2000q (%d bytes)", r.Stdout, len(r.Stdout), tc.stdout, len(tc.stdout))
	}
	begin, partly := strings.CutPrefix(tc.stderr, "…")
	if r.Stderr != tc.stderr && (!partly || !strings.HasPrefix(r.Stderr, begin)) {
		t.Errorf("stderr:\n%.2000s\nwant:\n%s", r.Stderr, tc.stderr)
	}
	if strings.Contains(r.Stderr, "/opt/execgate") || strings.Contains(r.Stdout, "/opt/execgate") {
		t.Errorf("the output shows the driver:\n%s%s", r.Stdout, r.Stderr)
	}
	if got := text(r.Result); got != tc.result && (got != "" || tc.error == "") {
		t.Errorf("result %q, want %q", got, tc.result)
	}
	if got := text(r.Error); !strings.Contains(got, tc.error) || (tc.error == "") != (r.Error == nil) || strings.Contains(got, "\n") {
		t.Errorf("error %q, want one line with %q", got, tc.error)
	}
}

// checkAll runs the programs, one after another, and checks what comes of each.
func (s sandbox) checkAll(t *testing.T, language string, cases []caseOf) {
	t.Helper()
	var programs []program
	for _, tc := range cases {
		programs = append(programs, tc.program)
	}
	reports := s.runAs(t, language, programs...)
	for i, tc := range cases {
		t.Run(tc.name, func(t *testing.T) { tc.check(t, reports[i]) })
	}
}

func js(code string) program { return program{code: code} }

func TestJavaScriptDriver(t *testing.T) {
	t.Parallel()
	// What policy grants by default, but for the CPU.
	s := startSandbox(t, imageNamed(t, "node"), "--memory", "256m", "--memory-swap", "256m", "--pids-limit", "74", "--ulimit", "nofile=256")
	mib := strings.Repeat("x", 1<<20)
	s.checkAll(t, "javascript", []caseOf{
		{name: "prints", program: js("console.log('Hello from sandbox!')\nconsole.log(2 + 2)"), stdout: "Hello from sandbox!\n4\n"},
		{name: "nothing", program: js("")},
		{name: "input and result", program: program{input: `{"numbers": [1, 2, 3, 4, 5]}`,
			code: "const n = INPUT_DATA.numbers, sum = n.reduce((a, b) => a + b)\nresult = {sum, average: sum / n.length, count: n.length}"},
			result: `{"sum":15,"average":3,"count":5}`},
		{name: "input is true, null", program: program{input: `[true, null, "é\u0000😀"]`, code: "result = INPUT_DATA"}, result: `[true,null,"é\u0000😀"]`},
		{name: "no input", program: js("console.log(INPUT_DATA)"), stdout: "null\n"},
		{name: "input with the name of a prototype", program: program{input: `{"__proto__": {"a": 1}}`, code: "result = [INPUT_DATA.a, {}.a, INPUT_DATA]"},
			result: `[null,null,{"__proto__":{"a":1}}]`},
		{name: "stdin", program: program{code: "console.log(require('fs').readFileSync(0, 'utf8').split('\\n'))", stdin: "a\nb"}, stdout: "[ 'a', 'b' ]\n"},
		{name: "stdin as a stream", program: program{code: "process.stdin.on('data', d => console.log(String(d)))", stdin: "a"}, stdout: "a\n"},
		{name: "environment", program: program{env: map[string]string{"MODE": "test", "TZ": "Asia/Tokyo"},
			code: "console.log(process.env.MODE, new Date(0).getHours())"}, stdout: "test 9\n"},
		{name: "where it runs", program: js("console.log(process.cwd(), process.argv, __filename, __dirname, require.main === module, typeof exports)"),
			stdout: "/workspace [ '/usr/bin/node', '/workspace/main.js' ] /workspace/main.js /workspace true object\n"},
		{name: "sloppy mode", program: js("console.log(this === globalThis, (function () { return this === globalThis })(), 010); with ({a: 1}) console.log(a)"), stdout: "true true 8\n1\n"},
		{name: "names it may bind itself", program: js("const fs = require('fs'), module = 1, exports = 2, process = 3, INPUT_DATA = 4, job = 5; console.log(module, exports)"), stdout: "1 2\n"},
		{name: "descriptor 3 is closed", program: js("try { require('fs').fstatSync(3).isFIFO() && console.log('open') } catch (e) { console.log(e.code) }\n"), stdout: "EBADF\n"},
		{name: "modules of the workspace", program: js("require('fs').writeFileSync('helper.js', 'exports.x = 7; exports.up = module.parent === null')\nconsole.log(require('./helper').x, require.resolve('./helper'))"), stdout: "7 /workspace/helper.js\n"},
		{name: "import()", program: js("require('fs').writeFileSync('/workspace/m.mjs', 'export const x = 8')\nimport('./m.mjs').then(m => { console.log(m.x); return import('fs') }).then(fs => console.log(typeof fs.readFileSync))"), stdout: "8\nfunction\n"},
		{name: "child processes and workers", program: js("const {Worker} = require('worker_threads')\nnew Worker('require(\"worker_threads\").parentPort.postMessage(7)', {eval: true}).on('message', m => console.log(m, require('child_process').execFileSync('echo', ['hi']) + ''))"), stdout: "7 hi\n\n"},

		{name: "uncaught error", program: js("function f() {\n  throw new Error('boom')\n}\n\nf()"), exit: 1,
			stderr: "…main.js:2\n  throw new Error('boom')\n  ^\n\nError: boom\n    at f (main.js:2:9)\n    at main.js:5:1\n"},
		{name: "uncaught error in a timer", program: js("result = 1\nsetTimeout(() => {\n  null.x\n})"), exit: 1, result: "1",
			stderr: "…main.js:3\n  null.x\n       ^\n\nTypeError: Cannot read properties of null (reading 'x')\n    at Timeout._onTimeout (main.js:3:8)\n"},
		{name: "uncaught rejection", program: js("Promise.reject(new TypeError('rej'))"), exit: 1,
			stderr: "…main.js:1\nPromise.reject(new TypeError('rej'))\n               ^\n\nTypeError: rej\n    at main.js:1:16\n"},
		{name: "uncaught number", program: js("throw 5"), exit: 1, stderr: "…\nmain.js:1\nthrow 5\n^\n5\n"},
		{name: "caught by the program's own handler", program: js("process.on('uncaughtException', e => console.log('mine', e.message))\nthrow new Error('x')"), stdout: "mine x\n"},
		{name: "stacks do not show the driver", program: js("console.log(new Error('s').stack.split('\\n').length)\nconsole.trace('t')"), stdout: "5\n",
			stderr: "…Trace: t\n    at main.js:2:9\n"},
		{name: "syntax error", program: js("let x = 1\nif (x\n  y"), exit: 1, stderr: "…main.js:3\n  y\n  ^\n\nSyntaxError: Unexpected identifier 'y'\n"},
		{name: "static import", program: js("import fs from 'fs'"), exit: 1, stderr: "…main.js:1\nimport fs from 'fs'\n^^^^^^\n\nSyntaxError: Cannot use import statement outside a module\n"},
		{name: "recursion", program: js("function f() { f() }\nf()"), exit: 1, stderr: "…main.js:1\nfunction f() { f() }\n"},

		{name: "exit status", program: js("result = 1\nprocess.exit(3)"), exit: 3, result: "1"},
		{name: "exit status without exit", program: js("process.exitCode = 4"), exit: 4},
		{name: "exit in a promise", program: js("(async () => { await null; process.exit(5) })(); setTimeout(() => {}, 60000)"), exit: 5},
		{name: "killed", program: js("console.log('before')\nprocess.kill(process.pid, 'SIGKILL')"), exit: 128 + 9, stdout: "before\n"},
		{name: "much output, then exit", program: js("console.log('x'.repeat(1 << 20)); process.exit(0)"), stdout: mib + "\n"},
		{name: "much on both streams, then exit", program: js("process.stdout.write('x'.repeat(1 << 20)); process.stderr.write('x'.repeat(1 << 20)); process.exit(2)"), exit: 2, stdout: mib, stderr: mib},
		{name: "much output, then an error", program: js("process.stdout.write('x'.repeat(1 << 20)); process.stderr.write('e\\n'); throw 1"), exit: 1, stdout: mib, stderr: "…e\n\nmain.js:1\n"},
		{name: "much output in pieces, then killed", program: js("for (let i = 0; i < 1024; i++) process.stdout.write('x'.repeat(1024)); process.kill(process.pid, 'SIGKILL')"), exit: 128 + 9, stdout: mib},
		{name: "at exit", program: js("process.on('exit', c => console.log('bye', c))\nconsole.log('hi')"), stdout: "hi\nbye 0\n"},
		{name: "timers are waited for", program: js("result = []\nsetTimeout(() => { result.push(1); setImmediate(() => result.push(2)) }, 30)"), result: "[1,2]"},
		{name: "a loop of its own end", program: js("process.once('beforeExit', () => setTimeout(() => { result = 'later' }, 5))"), result: `"later"`},

		{name: "result by var", program: js("var result = 'ü'"), result: `"ü"`},
		{name: "result by let", program: js("let result = 1; setTimeout(() => { result++ })"), result: "2"},
		{name: "result by const", program: js("const result = {a: [null, true]}"), result: `{"a":[null,true]}`},
		{name: "result on the global object", program: js("globalThis.result = 0"), result: "0"},
		{name: "result of strict mode", program: js("'use strict'\nglobalThis.result = 1"), result: "1"},
		{name: "result is a promise", program: js("result = (async () => { await new Promise(r => setTimeout(r, 20)); return 7 })()"), result: "7"},
		{name: "result is a promise of a promise", program: js("const result = Promise.resolve().then(() => ({then(f) { setTimeout(f, 5, 8) }}))"), result: "8"},
		{name: "result is undefined", program: js("result = undefined")},
		{name: "undefined inside", program: js("result = {a: undefined, b: [undefined]}"), result: `{"b":[null]}`},
		{name: "bound below an error", program: js("throw 1\nconst result = 1"), exit: 1, stderr: "…\nmain.js:1\n"},
		{name: "result is a date", program: js("result = [new Date(0)]"), result: `["1970-01-01T00:00:00.000Z"]`},
		{name: "result is a typed array", program: js("result = new Float64Array([1, 2.5])"), result: "[1,2.5]"},
		{name: "result under a umask", program: js("process.umask(0o777)\nresult = 1"), result: "1"},
		{name: "result beside other builtins", program: js("JSON.stringify = () => 'forged'; require('fs').writeSync = null\nresult = 1"), result: "1"},
		{name: "result is never settled", program: js("result = new Promise(() => {})"), error: "result is a promise that was not settled when the program ended: await it"},
		{name: "result is a promise at exit", program: js("result = Promise.resolve(1)\nprocess.exit(0)"), error: "not settled"},
		{name: "result is rejected and handled", program: js("result = Promise.reject(new Error('no'))\nresult.catch(() => {})"), error: "result is a promise that was rejected: Error: no"},
		{name: "result is NaN", program: js("result = [NaN]"), error: "result holds NaN or Infinity, which JSON cannot hold: use null in its place"},
		{name: "result is a BigInt", program: js("result = {a: 1n}"), error: "type bigint, which JSON cannot hold: use Number(...) or String(...)"},
		{name: "result is a function", program: js("function result() {}"), error: "type function, which JSON cannot hold"},
		{name: "result holds a function", program: js("result = {f() {}}"), error: "type function, which JSON cannot hold"},
		{name: "result is a symbol", program: js("result = [Symbol('a')]"), error: "type symbol, which"},
		{name: "result is a Map", program: js("result = new Map([[1, 2]])"), error: "type Map, which JSON cannot hold: use Object.fromEntries(...)"},
		{name: "result is a Set", program: js("result = {a: new Set()}"), error: "use Array.from(...)"},
		{name: "result is an error", program: js("result = new RangeError('x')"), error: "type RangeError, which JSON cannot hold: use its message"},
		{name: "result holds a promise", program: js("result = [Promise.resolve(1)]"), error: "type Promise, which JSON cannot hold: use its value, from await"},
		{name: "result is bytes", program: js("result = Buffer.from('a')"), error: ".toString('base64')"},
		{name: "result contains itself", program: js("result = {}\nresult.a = [result]"), error: "result contains itself, which JSON cannot hold: use a copy without the cycle"},
		{name: "result is too deep", program: js("result = []\nfor (let i = 0; i < 1e5; i++) result = [result]"), error: "nested too deeply"},
		{name: "result is half a character", program: js(`result = '\ud800'`), error: "not valid Unicode"},
		{name: "result raises", program: js("result = {toJSON() { throw new Error('a\\nb') }}"), error: "result could not be made JSON: Error: a b"},
		{name: "result raises nothing in particular", program: js("result = {toJSON() { throw Object.create(null) }}"), error: "could not be made JSON"},
		{name: "no room for the result", program: js("require('fs').writeFileSync('/tmp/full', Buffer.alloc(62 << 20))\nresult = 'x'.repeat(8 << 20)"), error: "result could not be written: ENOSPC"},

		{name: "never used", program: program{job: "…"}},
		{name: "not a job", program: program{job: "["}, exit: 70, stderr: "…execgate: the job could not be read: SyntaxError: "},
		{name: "two jobs", program: program{job: "{}{}"}, exit: 70, stderr: "…execgate: the job could not be read: SyntaxError: "},
		{name: "not a job, but JSON", program: program{job: "[1]"}, exit: 70, stderr: "execgate: the job could not be read: TypeError: not a JSON object with code and result\n"},
	})
}

// Memory that runs out is the sandbox's limit, which the kernel enforces and counts, and not a heap
// that node made smaller; what fits is collected in time.
func TestJavaScriptUsesTheMemoryItIsGranted(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ memory, live string }{{"128m", "60"}, {"256m", "150"}, {"512m", "330"}} {
		t.Run(tc.memory, func(t *testing.T) {
			s := startSandbox(t, imageNamed(t, "node"), "--memory", tc.memory, "--memory-swap", tc.memory, "--pids-limit", "74")
			r := s.runAs(t, "javascript", js(`
				const block = () => Array.from({length: 8500}, (_, i) => ({a: i, b: i * 2.5, c: null})) // half a MiB and more
				const live = []
				for (let i = 0; i < `+tc.live+` * 3; i++) live[i % `+tc.live+`] = block()
				result = live.length`))[0]
			if r.Exit != 0 || text(r.Result) != tc.live {
				t.Errorf("with objects that fit: %+v", r)
			}
			r = s.runAs(t, "javascript", js("const a = []\nfor (;;) a.push(new Array(10000).fill({}))"))[0]
			if r.Exit != 128+9 || r.Stderr != "" {
				t.Errorf("with objects that do not fit: %+v", r)
			}
		})
	}
}

// A parked interpreter says when it waits for its job and when it has it.
func TestJavaScriptDriverParks(t *testing.T) {
	t.Parallel()
	s := startSandbox(t, imageNamed(t, "node"), "--memory", "256m", "--pids-limit", "74")
	out := s.sh(t, `cd /tmp && mkfifo job && exec 5>ready 6<>job
		EXECGATE_READY=5 /opt/execgate/drivers/javascript zlib no-such-module 3<job 6>&- >out &
		exec 5>&-
		until grep -q P ready; do sleep 0.05; done
		printf '{"code": "console.log(process.env.EXECGATE_READY, typeof require(`+"\\\\\"zlib\\\\\""+`).gzip)", "result": "/tmp/r"}' >job
		exec 6>&-
		wait; cat ready out`)
	if out != "PTundefined function\n" {
		t.Errorf("got %q", out)
	}
}
