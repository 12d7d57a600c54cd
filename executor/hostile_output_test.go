package executor_test

import (
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// valueError checks that there is no value, and that the caller is told why.
func valueError(text string) func(testing.TB, execution.Result) {
	return func(t testing.TB, r execution.Result) {
		t.Helper()
		if r.Value != nil || !strings.Contains(r.ValueError, text) {
			t.Errorf("want no value and an error with %q: %s", text, describe(r))
		}
	}
}

// value checks the value.
func value(want string) func(testing.TB, execution.Result) {
	return func(t testing.TB, r execution.Result) {
		t.Helper()
		if string(r.Value) != want || r.ValueError != "" {
			t.Errorf("want value %s: %s", want, describe(r))
		}
	}
}

// Programs that write too much, or what is no text.
func TestHostileOutput(t *testing.T) {
	t.Parallel()
	small := func(l *execution.Limits) { l.OutputKiB = 64 }
	budget := func(t testing.TB, r execution.Result) {
		t.Helper()
		if n := len(r.Stdout) + len(r.Stderr); n != 64<<10 || !r.Truncated.Stdout && !r.Truncated.Stderr {
			t.Errorf("%d bytes of 64 KiB, truncated %+v", n, r.Truncated)
		}
	}
	hit := []string{"output_kib"}
	attacks(t, []hostile{
		{name: "flood of stdout", job: shell("yes"), limits: small, want: execution.OutcomeOutputLimit, hit: hit, check: budget},
		{name: "flood of stderr", job: shell("yes >&2"), limits: small, want: execution.OutcomeOutputLimit, hit: hit, check: budget},
		{name: "flood of both", job: shell("yes o & yes e >&2"), limits: small, want: execution.OutcomeOutputLimit, hit: hit, check: budget},
		{name: "interleaved bytes", job: python("import os\nwhile True:\n    os.write(1,b'o')\n    os.write(2,b'e')\n"), limits: small, want: execution.OutcomeOutputLimit, hit: hit, check: budget},
		{name: "flood that ignores the stop", job: python("import os,signal\nsignal.signal(15,signal.SIG_IGN)\nsignal.signal(13,signal.SIG_IGN)\nwhile True:\n    try: os.write(1,bytes(65536))\n    except OSError: pass\n"), limits: small, want: execution.OutcomeOutputLimit, hit: hit, check: budget},
		{name: "one byte too many", job: python("print('x'*65536, end='')\nprint('y', end='')"), limits: small, want: execution.OutcomeOutputLimit, hit: hit, check: budget},
		{name: "exactly the limit", job: python("print('x'*65536, end='')"), limits: small, want: execution.OutcomeExited, hit: []string{}},
		{name: "flood by a daemon after the end", job: python("import os,sys\nif os.fork()==0:\n    os.setsid()\n    while True: os.write(1,b'x')\nos._exit(0)\n"), want: execution.OutcomeExited},
		{name: "NUL and invalid UTF-8", job: python("import os\nos.write(1, bytes(range(256)))\nos.write(2, b'\\x00\\xff')\n"), want: execution.OutcomeExited, check: func(t testing.TB, r execution.Result) {
			if len(r.Stdout) != 256 || r.Stdout[255] != 255 || string(r.Stderr) != "\x00\xff" {
				t.Errorf("bytes are changed: %s", describe(r))
			}
		}},
		{name: "what looks like frames", job: python("import os\nos.write(1, b'\\x08\\x00\\x00\\x00\\x02{}')\nos.write(2, bytes([1,0,0,0,0,0,0,5]) + b'hello')\n"), want: execution.OutcomeExited, stdout: "{}"},
	})
}

// Results that are no results.
func TestHostileResults(t *testing.T) {
	t.Parallel()
	write := func(script string) execution.Job {
		return python("import os\nP = os.environ['EXECGATE_RESULT']\n" + script)
	}
	attacks(t, []hostile{
		{name: "many MiB", job: python("result = 'x' * (8 << 20)"), want: execution.OutcomeExited, check: valueError("ask for a larger result_kib")},
		{name: "exactly the limit", job: write("open(P,'w').write('\"' + 'x' * ((256<<10)-2) + '\"')"), want: execution.OutcomeExited, check: func(t testing.TB, r execution.Result) {
			if len(r.Value) != 256<<10 {
				t.Errorf("%d bytes: %s", len(r.Value), r.ValueError)
			}
		}},
		{name: "sparse and huge", job: write("f=open(P,'w')\nos.truncate(P, 16<<20)"), want: execution.OutcomeExited, check: valueError("at most 262144 are granted")},
		{name: "two gibibytes", job: python("import os\nf = open(os.environ['EXECGATE_RESULT'], 'wb', buffering=0)\nfor _ in range(2048): f.write(b'1' * (1 << 20))\n"), limits: func(l *execution.Limits) { l.MemoryMiB = 512 }, want: execution.OutcomeDiskLimit, hit: []string{"tmp_mib"}, check: valueError("at most 262144 are granted")},
		{name: "nested 100000 deep", job: write("open(P,'w').write('[' * 100000 + ']' * 100000)"), want: execution.OutcomeExited, check: valueError("nested too deeply")},
		{name: "nested 201 deep", job: write("open(P,'w').write('[' * 201 + ']' * 201)"), want: execution.OutcomeExited, check: valueError("nested too deeply")},
		{name: "nested 200 deep", job: write("open(P,'w').write('[' * 200 + ']' * 200)"), want: execution.OutcomeExited, check: value(strings.Repeat("[", 200) + strings.Repeat("]", 200))},
		{name: "open brackets", job: write("open(P,'w').write('[' * 200000)"), want: execution.OutcomeExited, check: valueError("the result is")},
		{name: "not JSON", job: write("open(P,'w').write('{1: 2}')"), want: execution.OutcomeExited, check: valueError("not JSON")},
		{name: "two values", job: write("open(P,'w').write('1 2')"), want: execution.OutcomeExited, check: valueError("not JSON")},
		{name: "NaN", job: write("open(P,'w').write('NaN')"), want: execution.OutcomeExited, check: valueError("not JSON")},
		{name: "not UTF-8", job: write("open(P,'wb').write(b'\"\\xff\\xfe\"')"), want: execution.OutcomeExited, check: valueError("not UTF-8")},
		{name: "NUL", job: write("open(P,'wb').write(b'\"\\x00\"')"), want: execution.OutcomeExited, check: valueError("not JSON")},
		{name: "empty", job: write("open(P,'w')"), want: execution.OutcomeExited, check: value("")},
		{name: "a pipe", job: write("os.mkfifo(P)"), want: execution.OutcomeExited, check: valueError("not a regular file")},
		{name: "a link to a file", job: write("os.symlink('/etc/hostname', P)"), want: execution.OutcomeExited, check: valueError("not a regular file")},
		{name: "a link to a device", job: write("os.symlink('/dev/zero', P)"), want: execution.OutcomeExited, check: valueError("not a regular file")},
		{name: "a link to process 1", job: write("os.symlink('/proc/1/environ', P)"), want: execution.OutcomeExited, check: valueError("not a regular file")},
		{name: "a folder", job: write("os.mkdir(P)"), want: execution.OutcomeExited, check: valueError("not a regular file")},
		{name: "cannot be read", job: write("open(P,'w').write('1')\nos.chmod(P, 0)"), want: execution.OutcomeExited, check: valueError("cannot be read")},
		{name: "an error of many MiB", job: write("open(P+'.error','w').write('x' * (4<<20))"), want: execution.OutcomeExited, check: func(t testing.TB, r execution.Result) {
			if len(r.ValueError) > 4096 {
				t.Errorf("an error of %d bytes", len(r.ValueError))
			}
		}},
		{name: "an error that is not text", job: write("open(P+'.error','wb').write(b'\\xff\\x00')"), want: execution.OutcomeExited},
		{name: "an error that is a pipe", job: write("os.mkfifo(P+'.error')\nopen(P,'w').write('1')"), want: execution.OutcomeExited, check: value("1")},
		{name: "a result though it was stopped", job: write("import time\nwith open(P,'w') as f: f.write('1')\nprint('written', flush=True)\ntime.sleep(600)"), limits: timeout(500), want: execution.OutcomeTimedOut, stdout: "written", check: value("1")},
		{name: "in a /tmp that is full", job: python("f=open('/tmp/x','wb',buffering=0)\ntry:\n    while True: f.write(bytes(4096))\nexcept OSError: pass\nresult=list(range(10000))"), want: execution.OutcomeDiskLimit, hit: []string{"tmp_mib"}, check: valueError("")},
	})
}

// A result as large as may be granted costs the sandbox no memory of its own.
func TestLargeResult(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	r := hostile{
		job: shell(`printf '"' > /tmp/.execgate-result; dd if=/dev/zero bs=1M count=40 2>/dev/null | tr '\0' x >> /tmp/.execgate-result; printf '"' >> /tmp/.execgate-result`),
		limits: func(l *execution.Limits) {
			l.MemoryMiB, l.TmpMiB, l.WorkspaceMiB, l.ShmMiB, l.ResultKiB = 64, 45, 1, 1, 45<<10
		},
		want: execution.OutcomeExited,
	}.attack(t, e)
	if len(r.Value) != 40<<20+2 {
		t.Errorf("%d bytes came back: %s", len(r.Value), r.ValueError)
	}
}
