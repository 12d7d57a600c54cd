package images_test

import (
	"fmt"
	"testing"
)

func TestBashSession(t *testing.T) {
	t.Parallel()
	for _, image := range []string{"python", "node"} {
		t.Run(image, func(t *testing.T) {
			s := newSession(t, image)
			for _, tc := range bashSessions {
				t.Run(tc.name, func(t *testing.T) { s.session(t, "bash", tc.turns) })
			}
		})
	}
}

// asleep has "go" printed once a "sleep" of so many seconds runs, which no other program's is: a command
// that is only being started when it is interrupted may miss that, and bash waits for it.
func asleep(seconds string) string {
	return "(until grep -qsz '^" + seconds + "$' /proc/[0-9]*/cmdline; do sleep 0.02; done; echo go) &"
}

var bashSessions = []struct {
	name  string
	turns []turn
}{
	{"what a shell has stays", []turn{
		said("bound", "x=1\ndeclare -A m=([a]=b)\nf() { echo f $x; }\nexport E=e\nmkdir -p d; cd d"),
		said("read", "f; echo ${m[a]} $PWD $0 ${BASH_SOURCE[0]}; env | grep ^E=").prints("f 1\nb /workspace/d main.sh main.sh\nE=e\n"),
		said("after a failure", "x=2\nno-such-command").fails(127, "main.sh: line 2: no-such-command: command not found\n"),
		said("lines", "echo $LINENO\n\necho $LINENO $x").prints("1\n3 2\n"),
		said("a syntax error", "echo a\nif true; then\nfi fi").fails(2, "main.sh: eval: line 3: syntax error near unexpected token `fi'\nmain.sh: eval: line 3: `fi fi'\n").prints("a\n"),
		said("break", "break; echo no"),
		said("options end", "set -ux; true").fails(0, "++++ true\n"),
		said("with their program", "echo $unbound; false; echo on").prints("\non\n"),
		said("status", "(exit 200)").fails(200, ""),
	}},
	{"nothing is stale", []turn{
		{caseOf: caseOf{name: "first", stdout: "a 1 x /\n", result: "7\n", program: program{input: "1", stdin: "a\nb\n", env: map[string]string{"A": "x", "HOME": "/"},
			code: "read line; echo $line $INPUT_DATA $A $HOME; echo 7 >$EXECGATE_RESULT"}}},
		said("second", "cat; echo $INPUT_DATA ${A-unset} $HOME").prints("null unset /workspace\n"),
		{caseOf: caseOf{name: "stdin", stdout: "c\n", program: program{stdin: "c\n", code: "cat"}}},
		said("descriptors", "ls /proc/self/fd | tr '\\n' ' '").prints("0 1 2 3 "),
	}},
	{"an interrupt ends the program and keeps the rest", []turn{
		{caseOf: caseOf{name: "asleep", program: program{code: "x=7\n" + asleep("61") + "\nsleep 61\necho no"}, exit: 130, stdout: "go\n"}, interruptOn: "\n"},
		{caseOf: caseOf{name: "in a loop", program: program{code: "echo go $x; while :; do :; done; echo no"}, exit: 130, stdout: "go 7\n"}, interruptOn: "\n"},
		{caseOf: caseOf{name: "in loops of functions", program: program{code: "f() { while :; do sleep 62; echo no; done; echo no; }\n" + asleep("62") + " while :; do f; echo no; done; echo no"}, exit: 130, stdout: "go\n"}, interruptOn: "\n"},
		{caseOf: caseOf{name: "in a wait", program: program{code: "sleep 60 & echo go; wait; echo no"}, exit: 130, stdout: "go\n"}, interruptOn: "\n"},
		{caseOf: caseOf{name: "in a pipe", program: program{code: asleep("63") + " sleep 63 | cat; echo no"}, exit: 130, stdout: "go\n"}, interruptOn: "\n"},
		{caseOf: caseOf{name: "while none runs", program: program{code: "sleep 0.05; echo on $x"}, stdout: "on 7\n"}, early: true},
		{caseOf: caseOf{name: "a trap of its own", program: program{code: "trap 'echo mine' INT; " + asleep("64") + " sleep 64; echo on"}, stdout: "go\nmine\non\n"}, interruptOn: "\n"},
		said("which is its own only", "trap | grep -c mine").fails(1, "").prints("0\n"),
	}},
	{"exit ends the interpreter", []turn{
		{caseOf: caseOf{name: "exit", program: program{code: "trap 'echo bye' EXIT; exit 3"}, exit: 3, stdout: "bye\n"}, lost: true},
	}},
}

func TestBashSessionLeaksNothing(t *testing.T) {
	t.Parallel()
	s := newSession(t, "python")
	turns := []turn{said("first", "fds=(/proc/$$/fd/*); before=${#fds[@]}; n=0")}
	for range 200 {
		turns = append(turns, turn{caseOf: caseOf{program: program{code: "echo $((n += 1)) >$EXECGATE_RESULT", stdin: "x", env: map[string]string{"A": "a"}}, result: fmt.Sprintln(len(turns))}})
	}
	turns = append(turns, said("last", "fds=(/proc/$$/fd/*); echo $n $((${#fds[@]} - before))").prints("200 0\n"))
	s.session(t, "bash", turns)
}
