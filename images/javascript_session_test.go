package images_test

import (
	"fmt"
	"testing"
)

func TestJavaScriptSession(t *testing.T) {
	t.Parallel()
	s := newSession(t, "node")
	for _, tc := range []struct {
		name  string
		turns []turn
	}{
		{"names stay", []turn{
			said("bound", "var a = 1; let b = 2; const c = 3; function f() { return a + b + c }; class K {}; d = 4; globalThis.e = 5"),
			said("read", "console.log(f(), typeof K, d, e); b = 10").prints("6 function 4 5\n"),
			said("after a failure", "var g = 7\nnull.x").fails(1, "…main-3.js:2\nnull.x\n     ^\n\nTypeError: Cannot read properties of null (reading 'x')\n    at main-3.js:2:6\n"),
			said("all", "console.log(f(), g, process.env.EXECGATE_SESSION, process.argv)").prints("14 7 undefined [ '/usr/bin/node', '/workspace/main.js' ]\n"),
			said("declared again", "const c = 4").fails(1, "…main-5.js:1\nconst c = 4\n^\n\nSyntaxError: Identifier 'c' has already been declared\n"),
			said("by var", "var a = 8; console.log(f())").prints("21\n"),
			said("a syntax error", "if (").fails(1, "…main-7.js:1\nif (\n    \n\nSyntaxError: "),
		}},
		{"errors show each program's lines", []turn{
			said("first", "// a comment\nfunction f() {\n  null.x\n}"),
			said("second", "f()").fails(1, "…main.js:3\n  null.x\n       ^\n\nTypeError: Cannot read properties of null (reading 'x')\n    at f (main.js:3:8)\n    at main-2.js:1:1\n"),
			said("in a timer", "setTimeout(f)\nsetInterval(() => {}, 5)").fails(1, "…main.js:3\n  null.x\n       ^\n\nTypeError: "),
			said("a rejection", "Promise.reject(new TypeError('rej'))").fails(1, "…main-4.js:1\nPromise.reject(new TypeError('rej'))\n               ^\n\nTypeError: rej\n    at main-4.js:1:16\n"),
			said("a number", "throw 5").fails(1, "Uncaught 5\n"),
			said("a misuse of the timers", "setTimeout(1)").fails(1, "…main-6.js:1\n"),
			said("its own handler", "process.once('uncaughtException', e => console.log('mine', e.message))\nthrow new Error('x')").prints("mine x\n"),
		}},
		{"nothing is stale", []turn{
			{caseOf: caseOf{name: "first", result: `[1,"x","a\nb"]`, program: program{input: "1", stdin: "a\nb", env: map[string]string{"A": "x"},
				code: "result = [INPUT_DATA, process.env.A, require('fs').readFileSync(0, 'utf8')]; process.chdir('/tmp')"}}},
			said("no result", "console.log(INPUT_DATA, process.env.A, typeof result, process.cwd())").prints("null undefined undefined /workspace\n"),
			{caseOf: caseOf{name: "stdin as a stream", stdout: "c\n", program: program{stdin: "c", code: "process.stdin.on('data', d => console.log(String(d)))"}}},
			{caseOf: caseOf{name: "and again", stdout: "d\n", program: program{stdin: "d", code: "process.stdin.on('data', d => console.log(String(d)))"}}},
			said("var", "var result = 1").gives("1"),
			said("var is gone", "console.log(result)").prints("undefined\n"),
		}},
		{"result by let", []turn{said("let", "let result = 1").gives("1"), said("is gone", ""), said("and free", "result = 3").gives("3")}},
		{"result by const", []turn{said("const", "const result = [1]").gives("[1]"), said("is not the next one's", "")}},
		{"waits for its work", []turn{
			said("timers", "var log = []\nsetTimeout(() => { log.push(1); setImmediate(() => log.push(2)) }, 20); result = log").gives("[1,2]"),
			said("a promise", "result = (async () => { await new Promise(r => setTimeout(r, 20)); return log.length })()").gives("2"),
			said("of promisify", "result = require('util').promisify(setTimeout)(5, 6)").gives("6"),
			said("of timers/promises", "result = import('timers/promises').then(t => t.setTimeout(5, 7))").gives("7"),
			{caseOf: caseOf{name: "never settled", program: program{code: "result = new Promise(() => {})"}, error: "not settled"}},
			said("beforeExit", "process.once('beforeExit', () => setTimeout(() => { result = 'later' }, 5))").gives(`"later"`),
			said("child processes", "require('child_process').exec('ls /proc/self/fd | tr \"\\\\n\" \" \"', (e, out) => console.log(out))").prints("0 1 2 3 \n"),
			said("import()", "require('fs').writeFileSync('m.mjs', 'export const x = 8')\nimport('./m.mjs').then(m => console.log(m.x))").prints("8\n"),
		}},
		{"an interrupt ends the program and keeps the rest", []turn{
			{caseOf: caseOf{name: "in a loop", program: program{code: "var x = 7; console.log('go'); for (;;) x++"}, exit: 130, stdout: "go\n"}, interruptOn: "\n"},
			{caseOf: caseOf{name: "in a loop that prints", program: program{code: "for (;;) console.log('go')"}, exit: 130}, interruptOn: "\n", anyOutput: true},
			{caseOf: caseOf{name: "in a wait", program: program{code: "var y = x >= 7; setInterval(() => {}, 1000); setTimeout(() => {}, 60000); setTimeout(() => console.log('go'), 20)"}, exit: 130, stdout: "go\n"}, interruptOn: "\n"},
			{caseOf: caseOf{name: "in an await", program: program{code: "(async () => { await null; setTimeout(() => console.log('go', y), 20); await require('timers/promises').setTimeout(60000); })()"}, exit: 130, stdout: "go true\n"}, interruptOn: "\n"},
			{caseOf: caseOf{name: "with a child", program: program{code: "require('child_process').spawn('sh', ['-c', 'sleep 0.05; echo go; sleep 60'], {stdio: 'inherit'}); setInterval(() => {}, 1000)"}, exit: 130, stdout: "go\n"}, interruptOn: "\n"},
			{caseOf: caseOf{name: "of its own handler", program: program{code: "process.on('SIGINT', () => { console.log('mine'); clearInterval(i) }); var i = setInterval(() => {}, 1000); setTimeout(() => console.log('go'), 20)"}, stdout: "go\nmine\n"}, interruptOn: "\n"},
			{caseOf: caseOf{name: "while none runs", program: program{code: "setTimeout(() => console.log('on', x >= 7), 20)"}, stdout: "on true\n"}, early: true},
		}},
		{"the end of a program is not the interpreter's", []turn{
			said("exit", "var x = 1; result = 2; setTimeout(() => {}, 60000); process.exit(3)").fails(3, "").gives("2"),
			said("exit in a promise", "(async () => { await null; process.exit(5) })(); setTimeout(() => {}, 60000)").fails(5, ""),
			said("exit in a timer", "setTimeout(() => { process.exit() })").fails(0, ""),
			said("exit that is caught", "try { process.exit(6) } catch {}; setTimeout(() => console.log('no'), 1000)").fails(6, ""),
			said("exit status without exit", "process.exitCode = 4").fails(4, ""),
			said("on", "console.log(x, process.exitCode)").prints("1 undefined\n"),
		}},
		{"a closed ready descriptor", []turn{
			{caseOf: caseOf{name: "is lost", program: program{code: "require('fs').closeSync(4)"}, exit: 70, stderr: "execgate: the session is lost: Error: EBADF: bad file descriptor, write\n"}, lost: true},
		}},
		{"a ready descriptor that lies", []turn{
			{caseOf: caseOf{name: "is lost", program: program{code: "require('fs').writeSync(4, 'xxxx')"}, exit: 0}, lost: true},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { s.session(t, "javascript", tc.turns) })
		s.sh(t, "rm -rf /workspace/* /tmp/session-result*")
	}
}

func TestJavaScriptSessionLeaksNothing(t *testing.T) {
	t.Parallel()
	s := newSession(t, "node")
	turns := []turn{said("first", "function count() { return require('fs').readdirSync('/proc/self/fd').length }\nvar before = count(), n = 0")}
	for range 200 {
		turns = append(turns, turn{caseOf: caseOf{program: program{code: "result = ++n", stdin: "x", env: map[string]string{"A": "a"}}, result: fmt.Sprint(len(turns))}})
	}
	turns = append(turns, said("last", "console.log(n, count() - before)").prints("200 0\n"))
	s.session(t, "javascript", turns)
}
