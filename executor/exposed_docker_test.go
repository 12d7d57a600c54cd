package executor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

const (
	secretUser     = "v-approle-readonly-8Kq2"
	secretPassword = "A1a-\"<&>\\ZsXwq7\u00fcLk0"
)

// lentTo are a file and variables that a program is given.
func lentTo(path string) []execution.Exposed {
	fields := map[string]execution.Secret{"username": execution.NewSecret(secretUser), "pass-word": execution.NewSecret(secretPassword)}
	credential := execution.Credential{Tool: "db", Mount: "database", Engine: execution.EngineDatabase, Role: "app", VaultPolicies: []string{"app"}}
	file, env := credential, credential
	file.Inject, file.FilePath = execution.InjectFile, path
	env.Inject, env.EnvName = execution.InjectEnv, "DB"
	return []execution.Exposed{{Credential: file, Fields: fields}, {Credential: env, Fields: fields}}
}

// held fails where a value is in text.
func held(t testing.TB, where, text string) {
	t.Helper()
	for _, secret := range []string{secretUser, secretPassword, "ZsXwq7"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s has a value", where)
		}
	}
}

// show is python that prints all that a program can see of its credentials.
const show = `
import json, os, stat
path = %q
info = os.stat(path)
print(oct(info.st_mode), info.st_uid == os.getuid(), info.st_gid == os.getgid(), os.environ['DB_USERNAME'], os.environ['DB_PASS_WORD'])
print(open(path).read(), end='')
print(sorted(json.load(open(path))))
`

var shown = fmt.Sprintf("0o100400 True True %s %s\n%s\n['pass-word', 'username']",
	secretUser, secretPassword, `{"pass-word":"A1a-\"<&>\\ZsXwq7`+"\u00fc"+`Lk0","username":"`+secretUser+`"}`)

// A program finds its credentials as a file of its own and as variables, under
// each driver, and nothing else has them: not the engine, and not the agent.
func TestCredentialsOfAProgram(t *testing.T) {
	t.Parallel()
	const path = "/tmp/creds/db.json"
	e := newExecutor(t)
	underEach(t, func(t *testing.T, runtime string) {
		for name, job := range map[string]execution.Job{
			"python":  python(fmt.Sprintf(show, path)),
			"command": command("/usr/bin/python3", "-c", fmt.Sprintf(show, path)),
			"bash":    {Language: "bash", Code: "python3 - <<'PY'\n" + fmt.Sprintf(show, path) + "\nPY\n"},
		} {
			job.Exposed = lentTo(path)
			r := run(t, e, under(runtime, job))
			if out := exitedWell(t, r); out != shown {
				t.Errorf("%s: got %q, want %q", name, out, shown)
			}
			if len(r.Artifacts) > 0 {
				t.Errorf("%s: artifacts %v", name, r.Artifacts)
			}
		}
		job := python(`
import os
seen = ''
for name in ('environ', 'cmdline', 'maps', 'auxv', 'mem', 'fd', 'cwd', 'status', 'stat', 'mountinfo'):
    path = f'/proc/1/{name}'
    try:
        if name == 'fd': seen += str([os.readlink(f'{path}/{fd}') for fd in os.listdir(path)]); seen += open(f'{path}/10').read()
        else: seen += open(path, errors='replace').read(1 << 20)
    except OSError as e: seen += f'{name}: {e.strerror}\n'
print([word for word in ('ZsXwq7', '8Kq2', 'creds') if word in seen], 'environ: ' in seen, 'fd: ' in seen)`)
		job.Exposed = lentTo(path)
		r := run(t, e, under(runtime, job))
		if out := exitedWell(t, r); out != "[] True True" {
			t.Errorf("the agent: %s", describe(r))
		}
	})
}

// The engine is told nothing of them.
func TestEngineKnowsNoCredential(t *testing.T) {
	t.Parallel()
	var inspected string
	e := newExecutor(t)
	job := command("/bin/sh", "-c", "test -s /tmp/db.json && echo ready && sleep 600")
	job.Exposed = lentTo("/tmp/db.json")
	job.Events = func(event execution.Event) error {
		if event.Type != execution.EventStdout {
			return nil
		}
		id := containers(t, "label=execgate.execution=ex_test_"+t.Name())
		inspected = docker(t, append([]string{"inspect"}, id...)...) + docker(t, append([]string{"top"}, append(id, "-eo", "pid,args")...)...)
		return fmt.Errorf("seen")
	}
	if r := run(t, e, job); r.Outcome != execution.OutcomeCancelled || !strings.Contains(inspected, "execgate.execution") {
		t.Errorf("%s, inspected %.200s", describe(r), inspected)
	}
	held(t, "the engine", inspected)
}

// Nothing of a file is left for who comes next, wherever the program has put it.
func TestCredentialsEndWithTheirProgram(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	const path = "/workspace/private/db.json"
	t.Run("session", func(t *testing.T) {
		s, execute := inSession(t, e, "python")
		job := python(`
import os
os.link('/workspace/private/db.json', '/workspace/linked')
os.symlink('/workspace/private/db.json', '/workspace/out/link')
print(len(os.environ['DB_USERNAME']))`)
		job.Exposed = lentTo(path)
		wantRun(t, execute(job), fmt.Sprintln(len(secretUser)))
		for _, name := range []string{"private/db.json", "linked"} {
			if content, err := e.GetFile(t.Context(), s.ID, name, 1<<20); len(content) > 0 || err == nil && name != "linked" {
				t.Errorf("%s is %q, %v", name, content, err)
			}
		}
		wantRun(t, execute(python(`
import os
print(os.path.exists('/workspace/private/db.json'), os.stat('/workspace/linked').st_size, [n for n in os.environ if n.startswith('DB_')])
os.remove('/workspace/linked')`)), "False 0 []\n")

		job = python(`
os.rename('/workspace/private', '/workspace/moved')
os.symlink('/tmp', '/workspace/private')
open('/tmp/db.json', 'w').write('mine')
print('done')`)
		job.Exposed = lentTo(path)
		wantRun(t, execute(job), "done\n")
		wantRun(t, execute(python("print(os.stat('/workspace/moved/db.json').st_size)\nos.remove('/workspace/private')")), "0\n")

		// What stands in the way is not written through, and it is said.
		for _, way := range []string{
			"os.makedirs('/workspace/private', exist_ok=True); open('/workspace/private/db.json', 'w').write('mine')",
			"os.remove('/workspace/private/db.json'); os.symlink('/workspace/out/x', '/workspace/private/db.json')",
			"os.remove('/workspace/private/db.json'); os.rmdir('/workspace/private'); os.symlink('/workspace/out', '/workspace/private')",
			"os.remove('/workspace/private'); open('/workspace/private', 'w').write('x')",
		} {
			wantRun(t, execute(python(way)), "")
			job = python("print('not this')")
			job.Exposed = lentTo(path)
			if r := execute(job); *r.ExitCode != 126 || !strings.Contains(string(r.Stderr), path) || r.Session != execution.SessionKept || len(r.Artifacts) > 0 {
				t.Errorf("%s: session %s, %s", way, r.Session, describe(r))
			} else {
				held(t, "stderr", string(r.Stderr))
			}
		}
		wantRun(t, execute(python("print(os.listdir('/workspace/out'))")), "['link']\n")
	})
	t.Run("reuse", func(t *testing.T) {
		execute := reusing(t, e, somebody)
		for i := range 3 {
			job := python(fmt.Sprintf(show, path))
			job.Exposed = lentTo(path)
			r := execute(job)
			if out := exitedWell(t, r); out != shown || r.Usage.Warm != (i > 0) {
				t.Errorf("%s", describe(r))
			}
		}
		r := execute(python("import os\nprint(os.listdir('/workspace'), os.listdir('/tmp'), [n for n in os.environ if n.startswith('DB_')])"))
		if out := exitedWell(t, r); out != "['out'] [] []" || !r.Usage.Warm {
			t.Errorf("%s", describe(r))
		}
	})
	t.Run("warm", func(t *testing.T) {
		e := newExecutor(t, warm(1))
		untilParked(t, e, 1)
		job := python(fmt.Sprintf(show, path))
		job.Exposed = lentTo(path)
		if r := run(t, e, job); exitedWell(t, r) != shown || !r.Usage.Warm {
			t.Errorf("%s", describe(r))
		}
	})
	t.Run("a program that is killed", func(t *testing.T) {
		e := newExecutor(t, withGrace(patience)) // the session is to last
		_, execute := inSession(t, e, "")
		job := shell("cat /tmp/db.json | wc -l; exec 3</tmp/db.json; sleep 600")
		job.Exposed = lentTo("/tmp/db.json")
		if r := execute(job, brief); r.Outcome != execution.OutcomeTimedOut {
			t.Errorf("%s", describe(r))
		}
		wantRun(t, execute(shell("ls /tmp; echo $DB_USERNAME")), "\n")
	})
}

// A credential that cannot be given to a program is refused before anything is
// started, and no error has its value.
func TestCredentialsThatCannotBeGiven(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	image := resolve(t, e, "python")
	for name, change := range map[string]func(file, env *execution.Exposed){
		"a path outside":           func(f, _ *execution.Exposed) { f.Credential.FilePath = "/etc/db.json" },
		"a path that climbs":       func(f, _ *execution.Exposed) { f.Credential.FilePath = "/tmp/../workspace/x" },
		"an artifact":              func(f, _ *execution.Exposed) { f.Credential.FilePath = "/workspace/out/x" },
		"the result":               func(f, _ *execution.Exposed) { f.Credential.FilePath = "/tmp/.execgate-result" },
		"one that is for requests": func(f, _ *execution.Exposed) { f.Credential.Inject = execution.InjectEgress },
		"no way":                   func(f, _ *execution.Exposed) { f.Credential.Inject = "" },
		"a variable of the linker": func(_, v *execution.Exposed) { v.Credential.EnvName = "LD" },
		"a file twice":             func(f, v *execution.Exposed) { v.Credential = f.Credential },
		"a variable twice": func(_, v *execution.Exposed) {
			v.Fields = map[string]execution.Secret{"a-b": execution.NewSecret(secretUser), "a_b": execution.NewSecret(secretPassword)}
		},
		"a NUL in a variable": func(_, v *execution.Exposed) {
			v.Fields = map[string]execution.Secret{"a": execution.NewSecret(secretPassword + "\x00X=1")}
		},
	} {
		list := lentTo("/tmp/db.json")
		change(&list[0], &list[1])
		_, err := e.Execute(t.Context(), execution.Job{
			ID: execution.NewID("ex_", time.Now()), Command: []string{"true"}, Exposed: list,
			Grant: execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted()},
		})
		if err == nil {
			t.Errorf("%s: it runs", name)
			continue
		}
		held(t, name, err.Error())
	}
}
