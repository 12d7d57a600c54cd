package executor_test

import (
	"cmp"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// granted are limits that every program of these tests fits in, also in time on a
// machine that does a lot beside.
func granted() execution.Limits {
	return execution.Limits{
		TimeoutMS: 60_000, MemoryMiB: 128, CPUMillis: 1000, CPUShares: 256, PIDs: 50, NoFile: 256,
		TmpMiB: 16, WorkspaceMiB: 16, ShmMiB: 8, OutputKiB: 1024, ResultKiB: 256, FilesMiB: 8, FilesCount: 16,
	}
}

// run executes one job with the limits changed as asked.
func run(t testing.TB, e *executor.Executor, job execution.Job, change ...func(*execution.Limits)) execution.Result {
	t.Helper()
	image := resolve(t, e, "python")
	job.ID = "ex_test_" + t.Name()
	job.Grant.Image, job.Grant.Runtime = image.Digest, cmp.Or(job.Grant.Runtime, "runc")
	job.Grant.Limits = granted()
	for _, f := range change {
		f(&job.Grant.Limits)
	}
	result, err := e.Execute(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func python(code string) execution.Job { return execution.Job{Language: "python", Code: code} }

func command(argv ...string) execution.Job { return execution.Job{Command: argv} }

func TestRunsPython(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	r := run(t, e, python("import sys\nprint('out')\nprint('err', file=sys.stderr)\nresult = {'sum': 2 + 2}\n"))
	if r.Outcome != execution.OutcomeExited || *r.ExitCode != 0 {
		t.Fatalf("outcome %s, stderr %s", r.Outcome, r.Stderr)
	}
	if string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || string(r.Value) != `{"sum":4}` {
		t.Errorf("stdout %q, stderr %q, result %s", r.Stdout, r.Stderr, r.Value)
	}
}

func TestRunsCommand(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	r := run(t, e, command("/bin/sh", "-c", "id -un; exit 3"))
	if r.Outcome != execution.OutcomeExited || *r.ExitCode != 3 || string(r.Stdout) != "sandbox\n" {
		t.Fatalf("outcome %s, stdout %q, stderr %q", r.Outcome, r.Stdout, r.Stderr)
	}
}

// A driver that takes the code as it is finds the input in its environment, and
// nothing that the caller says gets in its way.
func TestRunsBash(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	job := execution.Job{
		Language: "bash", Code: "echo \"$INPUT_DATA\"\necho '{\"n\":1}' >\"$EXECGATE_RESULT\"\nnosuchcommand\nexit 4\n",
		Input: []byte(`{"a":[1,2]}`), Env: map[string]string{"INPUT_DATA": "forged", "EXECGATE_RESULT": "/dev/null"},
	}
	r := run(t, e, job)
	if r.Outcome != execution.OutcomeExited || *r.ExitCode != 4 {
		t.Fatalf("outcome %s, stderr %s", r.Outcome, r.Stderr)
	}
	if string(r.Stdout) != "{\"a\":[1,2]}\n" || string(r.Value) != `{"n":1}` {
		t.Errorf("stdout %q, result %s", r.Stdout, r.Value)
	}
	if !strings.Contains(string(r.Stderr), "main.sh: line 3: nosuchcommand") {
		t.Errorf("stderr %q does not name the user's line", r.Stderr)
	}
}
