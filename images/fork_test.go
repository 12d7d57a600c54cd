package images_test

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// forkServer is a container in which testdata/agent is process 1 to a fork server, as the agent
// of a sandbox that is used again is: user 0 with four capabilities.
func forkServer(t *testing.T, preload []string, steps []step) []stepReport {
	t.Helper()
	image := pythonImage(t)
	binary, err := buildAgent()
	if err != nil {
		t.Fatalf("building testdata/agent: %v", err)
	}
	in, err := json.Marshal(agentOrder{Fork: true, Steps: steps,
		Command: slices.Concat(image.Languages["python"].Command, preload), Env: []string{"PATH=/usr/bin:/bin", "SECRET=of-the-server"}})
	if err != nil {
		t.Fatal(err)
	}
	// The length of the agent's binary, in bytes, is what head takes of the input.
	script := `chmod 1777 /workspace && head -c "$1" >/agent/agent && chmod 755 /agent/agent && exec /agent/agent`
	cmd := exec.Command("docker", "run", "--rm", "--interactive", "--network", "none", "--read-only", "--user", "0:0",
		"--cap-drop", "ALL", "--cap-add", "SETUID", "--cap-add", "SETGID", "--cap-add", "KILL", "--cap-add", "SETPCAP",
		"--security-opt", "no-new-privileges", "--tmpfs", agentMount, "--tmpfs", "/tmp:size=64m,mode=1777", "--tmpfs", "/workspace:size=64m,mode=1777",
		"--memory", "1g", "--pids-limit", "200", "--ulimit", "nofile=256",
		image.Reference, "bash", "-c", script, "bash", lengthOf(binary))
	cmd.Stdin = bytes.NewReader(slices.Concat(binary, in))
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

func lengthOf(b []byte) string { text, _ := json.Marshal(len(b)); return string(text) }

// A forked is one program of a fork server, and what must come of it.
type forked struct {
	caseOf
	message string
	refused bool // never began
	any     bool // what it prints is the caller's to judge
}

func TestPythonForkServer(t *testing.T) {
	t.Parallel()
	const nothing = "0000000000000000"
	cases := []forked{
		{caseOf: caseOf{name: "matplotlib", program: program{code: "import matplotlib, matplotlib.pyplot as plt, os\nplt.plot([1]); plt.show()\nprint(os.listdir('out'), os.stat(matplotlib.get_configdir()).st_uid)"}, stdout: "['figure-1.png'] 300000\n"}},
		{caseOf: caseOf{name: "prints", program: program{code: "import sys\nprint(input(), 'numpy' in sys.modules, 'random' in sys.modules)\nresult = 1", stdin: "in\n"}, stdout: "in True True\n", result: "1"}},
		{caseOf: caseOf{name: "user and groups", program: program{code: "import os\nprint(os.getresuid(), os.getresgid(), os.getgroups())"}, stdout: "(300002, 300002, 300002) (300002, 300002, 300002) []\n"}},
		{caseOf: caseOf{name: "capabilities", program: program{code: "print(*[l.split()[1] for l in open('/proc/self/status') if l[:3] == 'Cap' or l[:10] == 'NoNewPrivs'])"},
			stdout: strings.Repeat(nothing+" ", 5) + "1\n"}},
		{caseOf: caseOf{name: "after an exec too", program: program{code: "import subprocess\nsubprocess.run(['grep', '-c', '^Cap[A-Z][a-z]*:.0*$', '/proc/self/status'])"}, stdout: "5\n"}},
		{caseOf: caseOf{name: "descriptors", program: program{code: "import os\nprint(sorted(map(int, os.listdir('/proc/self/fd')))[:-1], [int(n) for n in os.listdir('/proc/self/fd') if int(n) > 3])"}, stdout: "[0, 1, 2, 3] [4]\n"}},
		{caseOf: caseOf{name: "its own files in /proc", program: program{code: "import os\nprint(os.stat('/proc/self/environ').st_uid, open('/proc/self/oom_score_adj').read().strip())"}, stdout: "300006 1000\n"}},
		{caseOf: caseOf{name: "limits and mask", program: program{code: "import os, resource\nprint(resource.getrlimit(resource.RLIMIT_NPROC), oct(os.umask(0)), os.getsid(0) == os.getpid() == os.getpgid(0))"}, stdout: "(64, 64) 0o22 True\n"}},
		{caseOf: caseOf{name: "environment", program: program{code: "import os, subprocess\nenv = {k: v for k, v in os.environ.items() if k[:3] != 'MPL'}\nprint(env, subprocess.run('env | grep -vc ^MPL', shell=True, capture_output=True, text=True).stdout.strip())"}, stdout: "{'PATH': '/bin', 'MODE': 'x y'} 3\n"}},
		{caseOf: caseOf{name: "may not act on the server", program: program{code: `import os, signal
seen = []
for pid in filter(str.isdigit, os.listdir('/proc')):
    if int(pid) == os.getpid(): continue
    for act in (lambda: os.kill(int(pid), 9), lambda: open(f'/proc/{pid}/mem', 'r+b'), lambda: os.listdir(f'/proc/{pid}/fd'), lambda: open(f'/proc/{pid}/environ').read()):
        try: act(); seen.append(pid)
        except (PermissionError, ProcessLookupError, FileNotFoundError): pass
for act in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try: act(); seen.append(act)
    except PermissionError: pass
try: os.kill(-1, 9)
except (PermissionError, ProcessLookupError): pass
result = [seen, os.getppid()]`}, result: "[[], 1]"}},
		{caseOf: caseOf{name: "has no child that is not its own", program: program{code: "import os\ntry: os.wait()\nexcept ChildProcessError: print('none')"}, stdout: "none\n"}},
		{caseOf: caseOf{name: "takes all processes it may", program: program{code: "import os, time\nchildren = []\ntry:\n    while True:\n        child = os.fork()\n        if child == 0: time.sleep(60)\n        children.append(child)\nexcept BlockingIOError: pass\nprint(len(children))\nfor child in children: os.kill(child, 9); os.waitpid(child, 0)"}, stdout: "63\n"}},
		{caseOf: caseOf{name: "fails", program: program{code: "import sys\nsys.exit(3)"}, exit: 3}},
		{caseOf: caseOf{name: "threads and children", program: program{code: "import threading, multiprocessing as m\nresult = []\nt = threading.Thread(target=result.append, args=(1,)); t.start(); t.join()\nwith m.get_context('fork').Pool(2) as p: result += p.map(abs, [-2])"}, result: "[1, 2]"}},
		{caseOf: caseOf{name: "user 0", exit: 70}, message: `{"uid": 0, "pids": 64, "env": []}`, refused: true},
		{caseOf: caseOf{name: "no user", exit: 70}, message: `{"pids": 64, "env": []}`, refused: true},
		{caseOf: caseOf{name: "not a message", exit: 70}, message: "[", refused: true},
		{caseOf: caseOf{name: "random"}, any: true},
		{caseOf: caseOf{name: "random again"}, any: true},
	}
	const random = "import random, numpy, uuid\nprint(random.random(), numpy.random.random(), numpy.random.default_rng().random(), uuid.uuid4())"
	var steps []step
	for i, tc := range cases {
		if tc.any {
			tc.program.code = random
		}
		fields, err := json.Marshal(map[string]any{"code": tc.program.code, "result": "/tmp/session-result"})
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step{Job: string(fields) + "\n", Stdin: tc.program.stdin, UID: 300000 + i, Message: tc.message,
			Env: [][2]string{{"PATH", "/bin"}, {"MODE", "x y"}}})
	}
	reports := forkServer(t, []string{"random", "numpy.random", "matplotlib.pyplot"}, steps)
	var drawn []string
	for i, tc := range cases {
		if i >= len(reports)-1 {
			t.Fatalf("the server was lost before %s: %+v", tc.name, reports)
		}
		t.Run(tc.name, func(t *testing.T) {
			got := reports[i]
			if want := "TD" + string(rune(tc.exit)); got.Lost != tc.refused || (!tc.refused && got.Ready != want) {
				t.Errorf("wrote %q to its ready descriptor", got.Ready)
			}
			if tc.any {
				drawn = append(drawn, strings.Fields(got.Stdout)...)
				tc.stdout = got.Stdout
			}
			if tc.refused {
				tc.stderr = got.Stderr
			}
			tc.check(t, got.report)
		})
	}
	slices.Sort(drawn)
	if len(drawn) != 8 || len(slices.Compact(drawn)) != 8 {
		t.Errorf("two programs drew the same numbers: %v", drawn)
	}
	if last := reports[len(reports)-1]; last.Lost {
		t.Error("the server was lost in the end")
	}
}
