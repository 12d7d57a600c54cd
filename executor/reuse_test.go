package executor_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// reusing returns what runs a job whose grant lets the owner's next one have the
// sandbox.
func reusing(t testing.TB, e *executor.Executor, owner execution.Owner) func(execution.Job, ...func(*execution.Limits)) execution.Result {
	t.Helper()
	image := resolve(t, e, "python")
	var n int
	return func(job execution.Job, change ...func(*execution.Limits)) execution.Result {
		t.Helper()
		n++
		job.ID, job.Owner = fmt.Sprintf("ex_%s_%s_%d", t.Name(), owner.Subject, n), owner
		job.Grant = execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted(), Reuse: execution.ReusePrincipal}
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

// container prints what tells one sandbox from another: when its process 1 began.
const container = "print(open('/proc/1/stat').read().split()[21])"

func exitedWell(t testing.TB, r execution.Result) string {
	t.Helper()
	if r.Outcome != execution.OutcomeExited || *r.ExitCode != 0 {
		t.Errorf("%s", describe(r))
	}
	return strings.TrimSpace(string(r.Stdout))
}

func TestSandboxIsReusedByItsOwnerAlone(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	mine, another := reusing(t, e, somebody), reusing(t, e, execution.Owner{Tenant: somebody.Tenant, Subject: "ak_2"})
	elsewhere := reusing(t, e, execution.Owner{Tenant: "other", Subject: somebody.Subject})
	first := mine(python(container))
	if first.Usage.Warm {
		t.Error("the first is said to be warm")
	}
	second := mine(python(container))
	if !second.Usage.Warm || exitedWell(t, first) != exitedWell(t, second) {
		t.Errorf("the second is not in the sandbox of the first: %s", describe(second))
	}
	t.Logf("first %d ms, second %d ms of the program's own", first.Usage.WallMS, second.Usage.WallMS)
	for _, stranger := range []execution.Result{
		another(python(container)), elsewhere(python(container)),
		run(t, e, python(container)), // not granted
		mine(python(container), func(l *execution.Limits) { l.MemoryMiB++ }),
		mine(command("/usr/bin/python3", "-c", container)), // of another language
	} {
		if stranger.Usage.Warm || exitedWell(t, stranger) == exitedWell(t, first) {
			t.Errorf("somebody else was in the sandbox: %s", describe(stranger))
		}
	}
}

// Nothing of a program survives it where the next one of the same owner runs.
func TestNothingSurvivesBetweenReuses(t *testing.T) {
	t.Parallel()
	const leave = `
import ctypes, os, resource, signal, socket, subprocess, sys, threading, time
open('/workspace/left', 'w').write('x'); open('/tmp/left', 'w').write('x'); open('/dev/shm/left', 'w').write('x')
os.makedirs('/tmp/deep/' + '/'.join('d' * 20 for _ in range(60))); os.chmod('/tmp/deep', 0)
os.makedirs('/workspace/out/a'); os.chmod('/workspace/out/a', 0); os.symlink('/etc/passwd', '/tmp/link'); os.mkfifo('/tmp/pipe')
unlinked = open('/tmp/unlinked', 'w'); unlinked.write('x' * 100000); unlinked.flush(); os.unlink('/tmp/unlinked')
os.environ['LEFT'] = 'x'; os.chdir('/tmp'); os.umask(0o777); sys.left = 'x'; import json; json.left = 'x'
sys.path.append('/left'); sys.modules['left'] = sys
libc = ctypes.CDLL(None)
assert libc.shmget(0x1234, 4096, 0o1666) >= 0 and libc.msgget(0x1234, 0o1666) >= 0 and libc.semget(0x1234, 1, 0o1666) >= 0
os.nice(5); os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server(('127.0.0.1', 4321)); datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); datagrams.bind(('127.0.0.1', 4321))
abstract = socket.socket(socket.AF_UNIX); abstract.bind('\0left'); abstract.listen()
memory = ctypes.create_string_buffer(b'find' + b'-me-in-memory' * 1000)
for i in range(3):
    if os.fork() == 0:
        os.setsid(); signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print(open('/proc/1/stat').read().split()[21])
`
	const find = `
import os, resource, signal, socket, sys
left = []
def check(what, fine):
    if not fine: left.append(what)
for place in ('/workspace', '/tmp', '/dev/shm'):
    names = [n for n in os.listdir(place) if (place, n) not in (('/workspace', 'out'),) and not n.startswith('.execgate')]
    check(f'{place}: {names}', not names)
check('out', os.listdir('/workspace/out') == [])
check('environment', 'LEFT' not in os.environ); check('folder', os.getcwd() == '/workspace'); check('umask', os.umask(0o022) == 0o022)
import json
check('interpreter', not hasattr(sys, 'left') and not hasattr(json, 'left') and '/left' not in sys.path and 'left' not in sys.modules)
for kind in ('shm', 'msg', 'sem'):
    check(kind, len(open('/proc/sysvipc/' + kind).readlines()) == 1)
check('nice', os.getpriority(os.PRIO_PROCESS, 0) == 0); check('affinity', len(os.sched_getaffinity(0)) == os.cpu_count())
check('nofile', resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 64); check('handler', signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
check('mask', signal.pthread_sigmask(signal.SIG_BLOCK, []) == set())
socket.create_server(('127.0.0.1', 4321)).close()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 4321))
abstract = socket.socket(socket.AF_UNIX); abstract.bind('\0left')
for pid in filter(str.isdigit, os.listdir('/proc')):
    try: uid = int(open(f'/proc/{pid}/status').read().split('Uid:')[1].split()[0])
    except (FileNotFoundError, ProcessLookupError): continue # it has ended
    check(f'process {pid} of {uid}', uid in (0, os.getuid()))
    check(f'process {pid} is mine', uid == 0 or int(pid) == os.getpid())
for line in open('/proc/self/maps'):
    area, rights, *rest = line.split()
    if 'r' not in rights or rest[-1:] in (['[vvar]'], ['[vsyscall]']): continue
    start, end = (int(x, 16) for x in area.split('-'))
    with open('/proc/self/mem', 'rb', 0) as memory:
        memory.seek(start)
        try: text = memory.read(end - start)
        except OSError: continue
        at = text.find(b'find')
        while at >= 0: # the whole is nowhere in this program
            check('memory of ' + area, text[at+4:at+8] != b'-me-')
            at = text.find(b'find', at + 1)
try: os.kill(1, 0); check('may signal the agent', False)
except PermissionError: pass
print(open('/proc/1/stat').read().split()[21])
print('; '.join(left), file=sys.stderr)
`
	e := newExecutor(t)
	execute := reusing(t, e, somebody)
	before := exitedWell(t, execute(python(leave)))
	for range 2 {
		r := execute(python(find))
		if after := exitedWell(t, r); after != before || len(strings.TrimSpace(string(r.Stderr))) > 0 {
			t.Errorf("in the same sandbox: %t; left: %s", after == before, describe(r))
		}
		exitedWell(t, execute(python(leave)))
	}
}

// Two programs of one interpreter are as independent as two interpreters.
func TestReusedProgramsDifferInWhatIsRandom(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	execute := reusing(t, e, somebody)
	seen := map[string]bool{}
	for range 4 {
		out := exitedWell(t, execute(python("import os, random, uuid\nprint(os.getuid(), random.random(), uuid.uuid4())")))
		for field := range strings.FieldsSeq(out) {
			if seen[field] {
				t.Errorf("%s was there before", field)
			}
			seen[field] = true
		}
	}
}

// What runs in a sandbox that is reused cannot harm what makes it so.
func TestReusedSandboxHoldsAgainstItsProgram(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	execute := reusing(t, e, somebody)
	first := exitedWell(t, execute(python(container)))
	r := execute(python(`
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
status = open('/proc/self/status').read()
for field in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'):
    assert int(status.split(field + ':')[1].split()[0], 16) == 0, field
assert os.getresuid() == (os.getuid(),) * 3 and os.getuid() > 1 << 20 and os.getresgid() == (os.getuid(),) * 3 and os.getgroups() == []
others = [int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]
assert 1 in others and len(others) > 1, others
for pid in others:
    for attempt in (
        lambda: os.kill(pid, signal.SIGKILL), lambda: os.kill(pid, signal.SIGSTOP), lambda: open(f'/proc/{pid}/mem'),
        lambda: os.listdir(f'/proc/{pid}/fd'), lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, 1)),
        lambda: os.setpriority(os.PRIO_PROCESS, pid, 19), lambda: os.sched_setaffinity(pid, {0}),
        lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: open('/workspace/../dev/left', 'w'),
    ):
        try: attempt()
        except OSError: continue
        raise SystemExit(f'an attempt on process {pid} succeeded')
assert len(os.listdir('/proc/self/fd')) <= 5 # the streams, the one that lists, and the driver's own word
`))
	exitedWell(t, r)
	if exitedWell(t, execute(python(container))) != first {
		t.Error("the sandbox was lost")
	}
	bombs := map[string]struct {
		job   execution.Job
		limit func(*execution.Limits)
	}{
		"fork bomb":    {python("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"), func(l *execution.Limits) { l.TimeoutMS = 1000 }},
		"memory bomb":  {python("b = []\nwhile True: b.append(bytearray(8 << 20))"), nil},
		"disk fill":    {python("f = open('/workspace/f', 'wb')\nwhile True: f.write(bytes(1 << 20))"), nil},
		"inode fill":   {python("i = 0\nwhile True: open(f'/tmp/{i}', 'x'); i += 1"), nil},
		"output flood": {python("while True: print('x' * 1000)"), nil},
	}
	e = newExecutor(t)
	e.CleanWithin(executor.CleanTimeout) // what cannot be cleaned is not waited for
	execute = reusing(t, e, somebody)
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			limits := []func(*execution.Limits){func(*execution.Limits) {}}
			if bomb.limit != nil {
				limits[0] = bomb.limit
			}
			r := execute(bomb.job, limits...)
			if r.Outcome == execution.OutcomeExited && *r.ExitCode == 0 {
				t.Error(describe(r))
			}
			// In the same sandbox, or in another if it could not be cleaned.
			exitedWell(t, execute(python("open('/workspace/x', 'wb').write(bytes(1 << 20))\nopen('/tmp/y', 'x')")))
		})
	}
}

func TestReuseOfOtherLanguages(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	execute := reusing(t, e, somebody)
	bash := execution.Job{Language: "bash", Code: "id -u; cut -d' ' -f22 /proc/1/stat; ls -A /tmp; touch /tmp/left; sleep 600 &"}
	first, second := execute(bash), execute(bash)
	a, b := strings.Fields(exitedWell(t, first)), strings.Fields(exitedWell(t, second))
	if len(a) != 2 || len(b) != 2 || a[0] == b[0] || a[1] != b[1] || !second.Usage.Warm {
		t.Errorf("%s and then %s", describe(first), describe(second))
	}
}

// A caller that runs many at once gets many sandboxes, and no two jobs share one
// at the same time.
func TestReuseByManyAtOnce(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, func(c *executor.Config) { c.ReusedMax = 3 })
	const others = `
import os
def user(p):
    try: return os.stat(f'/proc/{p}').st_uid
    except FileNotFoundError: return 0 # it has ended
print([p for p in os.listdir('/proc') if p.isdigit() and user(p) not in (0, os.getuid())])
`
	var wg sync.WaitGroup
	for i := range 5 {
		execute := reusing(t, e, execution.Owner{Tenant: "default", Subject: fmt.Sprintf("ak_%d", i%2)})
		wg.Go(func() {
			for range 4 {
				out := exitedWell(t, execute(python(others)))
				if out != "[]" {
					t.Errorf("others run beside: %s", out)
				}
			}
		})
	}
	wg.Wait()
}

func TestWhatIsReusedGoesWhenNobodyComes(t *testing.T) {
	t.Parallel()
	gateway := ""
	e := newExecutor(t, func(c *executor.Config) { c.ReusedMax, gateway = 1, c.Gateway })
	mine, another := reusing(t, e, somebody), reusing(t, e, execution.Owner{Tenant: "default", Subject: "ak_2"})
	exitedWell(t, mine(python("")))
	exitedWell(t, another(python(""))) // takes the only place
	until(t, "one sandbox is left", func() bool {
		return len(containers(t, "label=execgate.gateway="+gateway)) == 1
	})
}
