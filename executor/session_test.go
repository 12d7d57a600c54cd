package executor_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

var somebody = execution.Owner{Tenant: "default", Subject: "ak_1"}

// inSession opens a session and returns what runs a job in it.
func inSession(t testing.TB, e *executor.Executor, language string) (s execution.Session, execute func(execution.Job, ...func(*execution.Limits)) execution.Result) {
	t.Helper()
	s = execution.Session{ID: execution.NewID(execution.PrefixSession, time.Now()), Owner: somebody, Language: language}
	image := resolve(t, e, "python")
	s.Grant = execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted()}
	s.Grant.Session = execution.SessionGrant{IdleS: 60, AbsoluteS: 600, Max: 4}
	if err := e.OpenSession(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.CloseSession(context.Background(), s.ID) })
	n := 0
	return s, func(job execution.Job, change ...func(*execution.Limits)) execution.Result {
		t.Helper()
		n++
		job.ID, job.Owner, job.Session, job.Grant = fmt.Sprintf("ex_%s_%d", s.ID, n), s.Owner, s.ID, s.Grant
		for _, f := range change {
			f(&job.Grant.Limits)
		}
		r, err := e.Execute(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

// wantRun fails unless r exited with 0 and left the session as it says.
func wantRun(t testing.TB, r execution.Result, stdout string) {
	t.Helper()
	if r.Outcome != execution.OutcomeExited || *r.ExitCode != 0 || r.Session != execution.SessionKept || string(r.Stdout) != stdout {
		t.Errorf("want %q and a session that is kept, got session %s, %s", stdout, r.Session, describe(r))
	}
}

func TestSessionKeepsTheInterpreter(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	_, execute := inSession(t, e, "python")
	wantRun(t, execute(python("import os\nx = 41\nresult = x\nopen('kept', 'w').write('file')")), "")
	r := execute(python("x += 1\nprint(x, open('kept').read())"))
	wantRun(t, r, "42 file\n")
	if r.Value != nil {
		t.Errorf("the result %s is an earlier program's", r.Value)
	}
	if r := execute(python("y = x\nraise ValueError(y)")); *r.ExitCode != 1 || r.Session != execution.SessionKept || !strings.Contains(string(r.Stderr), "ValueError: 42") {
		t.Errorf("a program that fails: session %s, %s", r.Session, describe(r))
	}
	job := python("print(x, y, input(), INPUT_DATA)")
	job.Stdin, job.Input = "line\nmore\n", []byte(`{"a":1}`)
	wantRun(t, execute(job), "42 42 line {'a': 1}\n")
	job = python("import sys\nprint(repr(sys.stdin.read()), INPUT_DATA)")
	wantRun(t, execute(job), "'' None\n")
	job.Stdin = strings.Repeat("x", 1<<20)
	job.Code = "import sys\nprint(len(sys.stdin.read()))"
	wantRun(t, execute(job), "1048576\n")
}

func TestSessionOfCommandsKeepsFiles(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	_, execute := inSession(t, e, "")
	wantRun(t, execute(shell("echo one > kept; echo $$ > /tmp/kept; (sleep 600 &)")), "")
	wantRun(t, execute(shell("cat kept; set -- /proc/[0-9]*; echo $#; ls /proc/self/fd | wc -w")), "one\n2\n4\n") // the agent, and the shell
}

// What a program leaves running ends with its execution, and the interpreter
// itself stands still until the next one.
func TestSessionRunsNothingInBetween(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	s, execute := inSession(t, e, "python")
	wantRun(t, execute(python(`
import subprocess, threading, time
subprocess.Popen(["sleep", "600"])
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.001)
threading.Thread(target=tick, daemon=True).start()
`)), "")
	until(t, "only the agent and the interpreter are left, and that is stopped", func() bool {
		top := docker(t, "top", containers(t, "label=execgate.execution="+s.ID)[0], "-eo", "pid,stat,comm")
		return strings.Count(top, "\n") == 2 && strings.Contains(top, " T")
	})
	wantRun(t, execute(python("before = ticks\nwhile ticks == before: time.sleep(0.001)\nprint(ticks > before)")), "True\n")
}

// A program that heeds its interrupt costs the session nothing, however late it does.
func TestSessionSurvivesLimits(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, withGrace(patience))
	_, execute := inSession(t, e, "python")
	wantRun(t, execute(python("state = 'kept'")), "")
	r := execute(python("while True: pass"), func(l *execution.Limits) { l.TimeoutMS = 300 })
	if r.Outcome != execution.OutcomeTimedOut || r.Session != execution.SessionKept {
		t.Errorf("a program that runs too long: session %s, %s", r.Session, describe(r))
	}
	wantRun(t, execute(python("print(state)")), "kept\n")
	r = execute(python("while True: print('x' * 1000)"), func(l *execution.Limits) { l.OutputKiB = 16 })
	if r.Outcome != execution.OutcomeOutputLimit || r.Session != execution.SessionKept {
		t.Errorf("a flood: session %s, %s", r.Session, describe(r))
	}
	wantRun(t, execute(python("print(state)")), "kept\n")
}

func TestSessionIsResetByItsProgram(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	stubborn := python("import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass")
	var execute func(execution.Job, ...func(*execution.Limits)) execution.Result
	var r execution.Result
	// Where the agent gets no processor to say that it has killed the program, all of the
	// session is lost.
	for tries := 0; tries < 10 && r.Session != execution.SessionReset; tries++ {
		_, execute = inSession(t, e, "python")
		wantRun(t, execute(python("state = 'kept'")), "")
		r = execute(stubborn, timeout(300))
		if r.Outcome != execution.OutcomeTimedOut || r.Session == execution.SessionKept {
			t.Errorf("a program that does not stop: session %s, %s", r.Session, describe(r))
		}
	}
	wantRun(t, execute(python("print('state' in globals())")), "False\n")
	wantRun(t, execute(python("state = 'new'\nopen('file', 'w').write('kept')")), "")
	r = execute(python("import os\nos._exit(7)"))
	if r.Outcome != execution.OutcomeExited || *r.ExitCode != 7 || r.Session != execution.SessionReset {
		t.Errorf("a program that ends its interpreter: session %s, %s", r.Session, describe(r))
	}
	wantRun(t, execute(python("print('state' in globals(), open('file').read())")), "False kept\n")
	r = execute(python("b = []\nwhile True: b.append(bytearray(8 << 20))"))
	if r.Outcome != execution.OutcomeOutOfMemory || r.Session == execution.SessionKept {
		t.Errorf("a memory bomb: session %s, %s", r.Session, describe(r))
	}
}

func TestInterruptKeepsTheState(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, withGrace(patience))
	s, execute := inSession(t, e, "python")
	wantRun(t, execute(python("state = 1")), "")
	ctx, cancel := context.WithCancel(t.Context())
	job := python("state = 2\nimport time\nprint('on', flush=True)\nwhile True: time.sleep(0.01)")
	job.ID, job.Owner, job.Session, job.Grant = "ex_interrupted", s.Owner, s.ID, s.Grant
	job.Events = func(event execution.Event) error {
		if event.Type == execution.EventStdout {
			cancel()
		}
		return nil
	}
	r, err := e.Execute(ctx, job)
	if err != nil || r.Outcome != execution.OutcomeCancelled || r.Session != execution.SessionKept {
		t.Fatalf("interrupted: error %v, session %s, %s", err, r.Session, describe(r))
	}
	wantRun(t, execute(python("print(state)")), "2\n")
}

func TestSessionTakesOneJobAtATime(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	s, execute := inSession(t, e, "python")
	started := make(chan struct{})
	job := python("import time\ntime.sleep(60)")
	job.ID, job.Owner, job.Session, job.Grant = "ex_first", s.Owner, s.ID, s.Grant
	job.Events = func(event execution.Event) error {
		if event.Type == execution.EventStarted {
			close(started)
		}
		return nil
	}
	done := make(chan execution.Result)
	go func() {
		r, _ := e.Execute(context.WithoutCancel(t.Context()), job)
		done <- r
	}()
	<-started
	second := job
	second.ID, second.Events = "ex_second", nil
	if _, err := e.Execute(t.Context(), second); execution.KindOf(err) != execution.KindConflict {
		t.Errorf("a second job at the same time: %v", err)
	}
	if err := e.PutFile(t.Context(), s.ID, "a", nil); execution.KindOf(err) != execution.KindConflict {
		t.Errorf("a file at the same time: %v", err)
	}
	stranger := job
	stranger.ID, stranger.Owner.Subject = "ex_third", "ak_2"
	if _, err := e.Execute(t.Context(), stranger); execution.KindOf(err) != execution.KindGone {
		t.Errorf("somebody else's job: %v", err)
	}
	// Closing ends what runs.
	if err := e.CloseSession(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
	if r := <-done; r.Outcome != execution.OutcomeCancelled || r.Session != execution.SessionEnded {
		t.Errorf("the job of a session that was closed: session %s, %s", r.Session, describe(r))
	}
	if _, err := e.Execute(t.Context(), second); execution.KindOf(err) != execution.KindGone {
		t.Errorf("a job after the end: %v", err)
	}
	_ = execute
}

func TestSessionFiles(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	s, execute := inSession(t, e, "python")
	put := func(path, content string) error { return e.PutFile(t.Context(), s.ID, path, []byte(content)) }
	get := func(path string, most int64) (string, error) {
		content, err := e.GetFile(t.Context(), s.ID, path, most)
		return string(content), err
	}
	if err := put("in/data.csv", "a,b\n"); err != nil {
		t.Fatal(err)
	}
	wantRun(t, execute(python("print(open('in/data.csv').read(), end='')\nopen('in/data.csv', 'a').write('1,2\\n')")), "a,b\n")
	if content, err := get("in/data.csv", 100); err != nil || content != "a,b\n1,2\n" {
		t.Errorf("got %q, %v", content, err)
	}
	if _, err := get("in/data.csv", 3); execution.KindOf(err) != execution.KindTooLarge {
		t.Errorf("a file of 8 bytes where 3 may be: %v", err)
	}
	if _, err := get("missing", 100); execution.KindOf(err) != execution.KindNotFound {
		t.Errorf("a file that is not there: %v", err)
	}
	wantRun(t, execute(python(`
import os
os.symlink('/etc/passwd', 'link'); os.symlink('in', 'folder'); os.mkfifo('pipe')
os.symlink('/tmp/elsewhere', 'dangling'); os.mkdir('dir')
`)), "")
	for _, path := range []string{"link", "folder/data.csv", "pipe", "dangling", "dir", "in/data.csv/x", "in"} {
		if _, err := get(path, 1<<20); execution.KindOf(err) != execution.KindInvalid && path != "in/data.csv/x" {
			t.Errorf("get %s: %v", path, err)
		}
		if err := put(path, "x"); execution.KindOf(err) != execution.KindInvalid {
			t.Errorf("put %s: %v", path, err)
		}
	}
	if err := put("big", strings.Repeat("x", int(s.Grant.Limits.WorkspaceMiB+1)<<20)); execution.KindOf(err) != execution.KindTooLarge {
		t.Errorf("a file that does not fit: %v", err)
	}
	// None of this has hurt the session.
	wantRun(t, execute(python("import os\nprint(os.path.exists('/tmp/elsewhere'))")), "False\n")
}

func TestArtifactsOfASessionAreTheExecutionsOwn(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	_, execute := inSession(t, e, "python")
	names := func(r execution.Result) string {
		var list []string
		for _, a := range r.Artifacts {
			list = append(list, a.Path)
		}
		return strings.Join(list, " ")
	}
	if got := names(execute(python("open('out/a', 'w').write('1'); open('out/b', 'w').write('1')"))); got != "a b" {
		t.Errorf("artifacts %q", got)
	}
	if got := names(execute(python("print(open('out/a').read())"))); got != "" {
		t.Errorf("artifacts of an earlier execution: %q", got)
	}
	if got := names(execute(python("open('out/b', 'w').write('2'); open('out/c', 'w').write('2')"))); got != "b c" {
		t.Errorf("artifacts %q", got)
	}
}

// A claimed sandbox that was parked is as good as a new one.
func TestSessionFromAParkedSandbox(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, warm(1))
	untilParked(t, e, 1)
	began := time.Now()
	_, execute := inSession(t, e, "python")
	t.Logf("opened in %s", time.Since(began))
	wantRun(t, execute(python("x = 1")), "")
	wantRun(t, execute(python("print(x)")), "1\n")
}
