package images_test

import (
	"strings"
	"testing"
)

func TestBashDriver(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("# "+strings.Repeat("x", 1000)+"\n", 1000) + "echo $LINENO"
	for _, image := range []string{"python", "node"} {
		t.Run(image, func(t *testing.T) {
			s := startSandbox(t, imageNamed(t, image), "--memory", "128m", "--memory-swap", "128m", "--pids-limit", "74")
			s.checkAll(t, "bash", []caseOf{
				{name: "prints", program: program{code: "echo Hello from sandbox!\necho $((2 + 2))"}, stdout: "Hello from sandbox!\n4\n"},
				{name: "nothing", program: program{code: ""}},
				{name: "input", program: program{input: `{"numbers": [1, 2], "a": "$(id) 'é'"}`, code: `printf %s "$INPUT_DATA"`}, stdout: `{"numbers": [1, 2], "a": "$(id) 'é'"}`},
				{name: "no input", program: program{code: `echo "$INPUT_DATA"`}, stdout: "null\n"},
				{name: "result", program: program{code: `echo '{"sum": 15}' >"$EXECGATE_RESULT"`}, result: "{\"sum\": 15}\n"},
				{name: "stdin", program: program{code: "read x\necho \"got $x\"\ncat", stdin: "a\nb\n"}, stdout: "got a\nb\n"},
				{name: "environment", program: program{env: map[string]string{"MODE": "a b"}, code: `echo "$MODE"`}, stdout: "a b\n"},
				{name: "where it runs", program: program{code: `echo "$PWD $0 $# ${BASH_SOURCE[0]} ${OLDPWD-none}"; [[ $0 == "${BASH_SOURCE[0]}" ]] && echo main; cd "$(dirname "${BASH_SOURCE[0]}")" && pwd`},
					stdout: "/workspace main.sh 0 main.sh none\nmain\n/workspace\n"},
				{name: "nothing of the driver", program: program{code: "echo ${EXECGATE_CODE-none}\n[[ -e /proc/$$/fd/3 ]]"}, exit: 1, stdout: "none\n"},
				{name: "line of a missing command", program: program{code: "#!/bin/bash\necho a\nno-such-command\necho $LINENO"}, stdout: "a\n4\n", stderr: "main.sh: line 3: no-such-command: command not found\n"},
				{name: "line in a function", program: program{code: "set -u\nf() {\n  echo $unset\n}\nf"}, exit: 1, stderr: "main.sh: line 3: unset: unbound variable\n"},
				{name: "call stack", program: program{code: "f() { caller 0; }\n\nf"}, stdout: "3 main main.sh\n"},
				{name: "syntax error", program: program{code: "echo a\nif true; then\n  echo b\nfi fi"}, exit: 2, stdout: "a\n",
					stderr: "main.sh: eval: line 4: syntax error near unexpected token `fi'\nmain.sh: eval: line 4: `fi fi'\n"},
				{name: "exit status", program: program{code: "(exit 7)"}, exit: 7},
				{name: "set -e", program: program{code: "set -euo pipefail\nfalse | true\necho no"}, exit: 1},
				{name: "trap", program: program{code: "trap 'echo bye' EXIT\nexit 3"}, exit: 3, stdout: "bye\n"},
				{name: "trap of errors", program: program{code: "trap 'echo line $LINENO' ERR\n\nfalse\ntrue"}, stdout: "line 3\n"},
				{name: "here-document", program: program{code: "cat <<E\na\nE"}, stdout: "a\n"},
				{name: "comment and no newline", program: program{code: "# nothing"}},
				{name: "pieces of itself", program: program{code: "echo 'echo in \"${BASH_SOURCE[0]}\"; nope' >lib.sh\n. ./lib.sh\necho $LINENO"}, stdout: "in ./lib.sh\n3\n", stderr: "./lib.sh: line 1: nope: command not found\n"},
				{name: "killed", program: program{code: "echo a; kill -9 $$"}, exit: 128 + 9, stdout: "a\n"},
				{name: "background", program: program{code: "(until [[ -e said ]]; do sleep 0.01; done; echo b) &\necho a\n: >said\nwait"}, stdout: "a\nb\n"},
				{name: "NUL", program: program{code: "echo a\x00b"}, exit: 2, stderr: "main.sh: the code holds a NUL byte, which bash cannot read\n"},
				{name: "a megabyte of code", program: program{code: long}, stdout: "1001\n"},
				{name: "much output", program: program{code: "head -c 1048576 /dev/zero | tr '\\0' x; exit 3"}, exit: 3, stdout: strings.Repeat("x", 1<<20)},
			})
		})
	}
}
