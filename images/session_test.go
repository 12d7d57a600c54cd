package images_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/images"
)

// The shapes of testdata/agent, which has the comments.
type (
	agentOrder struct {
		Command, Env []string
		Steps        []step
		Fork         bool
	}
	step struct {
		Job, Stdin, InterruptOn string
		Early                   bool

		UID     int
		Env     [][2]string
		Message string
	}
	stepReport struct {
		report
		Lost  bool
		Ready string
	}
)

var buildAgent = sync.OnceValues(func() ([]byte, error) {
	folder, err := os.MkdirTemp("", "execgate-images")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "agent")
	build := exec.Command("go", "build", "-o", file, "./testdata/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := build.Output(); err != nil {
		return nil, withStderr(err)
	}
	return os.ReadFile(file)
})

// withAgent puts testdata/agent into the sandbox, which startSandbox was given agentMount for.
func (s sandbox) withAgent(t *testing.T) {
	t.Helper()
	binary, err := buildAgent()
	if err != nil {
		t.Fatalf("building testdata/agent: %v", err)
	}
	cmd := exec.Command("docker", "exec", "--interactive", s.id, "sh", "-c", "cat >/agent/agent && chmod 755 /agent/agent")
	cmd.Stdin = bytes.NewReader(binary)
	if _, err := cmd.Output(); err != nil {
		t.Fatal(withStderr(err))
	}
}

const agentMount = "/agent:exec,mode=1777"

func (s sandbox) agent(t *testing.T, o agentOrder, command ...string) []stepReport {
	t.Helper()
	in, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if command == nil {
		command = []string{"docker", "exec", "--interactive", s.id, "/agent/agent"}
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running the agent: %v", withStderr(err))
	}
	var reports []stepReport
	if err := json.Unmarshal(out, &reports); err != nil {
		t.Fatalf("reading the agent's reports %q: %v", out, err)
	}
	return reports
}

// A turn is one program of a session, and what must come of it.
type turn struct {
	caseOf
	interruptOn string
	early       bool
	// anyOutput says that what it prints until it is interrupted is a matter of time.
	anyOutput bool
	// lost says that the interpreter ends with this program, with the exit status of the case.
	lost bool
}

// said is the turn that runs code.
func said(name, code string) turn {
	return turn{caseOf: caseOf{name: name, program: program{code: code}}}
}

func (c turn) prints(stdout string) turn { c.stdout = stdout; return c }

func (c turn) fails(exit int, stderr string) turn { c.exit, c.stderr = exit, stderr; return c }

func (c turn) gives(result string) turn { c.result = result; return c }

func newSession(t *testing.T, image string) sandbox {
	t.Helper()
	s := startSandbox(t, imageNamed(t, image), "--memory", "512m", "--pids-limit", "100", "--ulimit", "nofile=256", "--tmpfs", agentMount)
	s.withAgent(t)
	return s
}

// session runs programs in one interpreter, and then ends it. It returns the reports.
func (s sandbox) session(t *testing.T, language string, turns []turn) {
	t.Helper()
	entry := s.languages[language]
	o := agentOrder{Command: entry.Command, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/workspace", "EXECGATE_SESSION=1"}}
	for _, turn := range turns {
		o.Steps = append(o.Steps, step{Job: sessionJob(t, entry.Job, turn.program), Stdin: turn.program.stdin, InterruptOn: turn.interruptOn, Early: turn.early})
	}
	reports := s.agent(t, o)
	for i, turn := range turns {
		if i >= len(reports) {
			t.Fatalf("the interpreter was lost before turn %d", i+1)
		}
		t.Run(turn.name, func(t *testing.T) {
			if reports[i].Lost != turn.lost {
				t.Errorf("the interpreter is lost: %v, want %v", reports[i].Lost, turn.lost)
			}
			if turn.anyOutput {
				turn.stdout = reports[i].Stdout
			}
			turn.check(t, reports[i].report)
		})
		if turn.lost {
			return
		}
	}
	if last := reports[len(reports)-1]; len(reports) != len(turns)+1 || last.Exit != 0 || last.Stderr != "" {
		t.Errorf("the interpreter ended as %+v", last)
	}
}

func sessionJob(t *testing.T, form images.JobForm, p program) string {
	t.Helper()
	const result = "/tmp/session-result"
	if p.job != "" {
		return p.job
	}
	if form == images.JobText {
		env := map[string]string{"INPUT_DATA": "null", "EXECGATE_RESULT": result}
		if p.input != "" {
			env["INPUT_DATA"] = p.input
		}
		maps.Copy(env, p.env)
		var job strings.Builder
		for _, name := range slices.Sorted(maps.Keys(env)) {
			job.WriteString(name + "=" + env[name] + "\x00")
		}
		return job.String() + "\x00" + p.code + "\x00"
	}
	fields := map[string]any{"code": p.code, "env": p.env, "result": result, "session": true}
	if p.input != "" {
		fields["input"] = json.RawMessage(p.input)
	}
	text, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}
