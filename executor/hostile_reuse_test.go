package executor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// lastings are programs that try to leave something behind for the next one of
// their owner, in the sandbox that both are to have.
var lastings = map[string]string{
	"a thousand folders in one another": `
import os
os.chdir('/tmp')
for _ in range(1000):
    os.mkdir('d' * 200); os.chdir('d' * 200)
`,
	"folders without rights in one another": `
import os
for root in ('/tmp', '/workspace', '/dev/shm'):
    path = root
    for _ in range(20): path += '/d'; os.mkdir(path)
    for _ in range(20): os.chmod(path, 0); path = os.path.dirname(path)
`,
	"as many files as fit": `
import os
try:
    for i in range(1 << 20): os.close(os.open(f'/tmp/{i}', os.O_CREAT))
except OSError: pass
`,
	"names that are not text": `
import os
for n in (b'\xff\xfe', b'\n', b'-rf', b'a' * 255, b'\x1b[2J', b'~', b'*'):
    os.mkdir(b'/tmp/' + n); os.mkfifo(b'/tmp/' + n + b'/p' if len(n) < 250 else b'/tmp/' + n + b'/p'); os.symlink(n, b'/tmp/' + n + b'/l')
`,
	"links to what is not its own": `
import os
for target in ('/etc/passwd', '/execgate/agent', '/proc/1/environ'):
    try: os.link(target, '/tmp/link')
    except OSError: pass
os.symlink('/', '/tmp/root'); os.symlink('/workspace', '/tmp/workspace')
`,
	"leases": `
import fcntl, os
fd = os.open('/workspace/out/leased', os.O_RDWR | os.O_CREAT); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
if os.fork() == 0:
    import time; time.sleep(600)
`,
	"System V objects without number": `
import ctypes
libc = ctypes.CDLL(None)
for make in (lambda: libc.shmget(0, 4096, 0o1600), lambda: libc.msgget(0, 0o1600), lambda: libc.semget(0, 1, 0o1600)):
    for _ in range(2000):
        if make() < 0: break
`,
	"a message queue": `
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mq_open(b'/left', os.O_CREAT | os.O_RDWR, 0o666, None) < 0
`,
	"sockets in flight": `
import array, socket
for _ in range(3):
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try: name.bind('\0left')
    except OSError: pass
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    file = open('/tmp/held', 'wb+', 0)
    held = [a.fileno(), b.fileno(), name.fileno(), file.fileno()]
    file.write(b'x' * 100000)
    a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', held))])
    a.close(); b.close(); name.close()
`,
	"a name in flight": `
import array, socket
name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); name.bind('\0left'); name.listen()
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [a.fileno(), b.fileno(), name.fileno()]))])
a.close(); b.close(); name.close()
`,
	"its output in flight": `
import array, socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [a.fileno(), b.fileno(), 1, 2]))])
`,
	"orphans that reparent to another": `
import ctypes, os, signal, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
for _ in range(10):
    if os.fork() == 0:
        os.setsid(); ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
        for n in range(1, 32):
            if n not in (9, 19): signal.signal(n, signal.SIG_IGN)
        for _ in range(2):
            if os.fork() == 0: break
        while True: time.sleep(1)
time.sleep(0.1)
`,
	"a first thread that has ended": `
import ctypes, os, threading, time
if os.fork() == 0:
    threading.Thread(target=time.sleep, args=(600,)).start()
    ctypes.CDLL(None).syscall(60, 0) # of this thread alone
time.sleep(0.1)
`,
	"threads that become another program": `
import os, threading, time
if os.fork() == 0:
    for _ in range(20): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    threading.Thread(target=lambda: os.execv('/bin/sleep', ['sleep', '600'])).start()
    time.sleep(600)
`,
	"zombies of a parent that is stopped": `
import os, signal, time
if os.fork() == 0:
    for _ in range(10):
        if os.fork() == 0: os._exit(0)
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(0.05)
`,
	"signals to all": "import os, signal\ntry: os.kill(-1, signal.SIGSTOP)\nexcept OSError: pass\ntry: os.killpg(1, signal.SIGKILL)\nexcept OSError: pass",
	"its own end":    "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
	"a word too early": `
import os, time
for fd in range(3, 10):
    try: os.write(fd, b'D\0')
    except OSError: pass
time.sleep(600)
`,
	"many small processes that fill memory": `
import os, time
for _ in range(40):
    if os.fork() == 0:
        b = bytearray(8 << 20)
        for i in range(0, len(b), 4096): b[i] = 1
        time.sleep(600)
time.sleep(1)
`,
}

// The next program of the owner finds nothing, soon, in whichever sandbox.
func TestHostileReuse(t *testing.T) {
	t.Parallel()
	const find = `
import os, socket
left = [f'{place}/{name}' for place in ('/tmp', '/workspace', '/dev/shm', '/workspace/out') for name in os.listdir(place) if (place, name) != ('/workspace', 'out')]
left += [kind for kind in ('shm', 'msg', 'sem') if len(open('/proc/sysvipc/' + kind).readlines()) > 1]
def user(p):
    try: return os.stat(f'/proc/{p}').st_uid
    except FileNotFoundError: return 0 # it has ended
left += [p for p in os.listdir('/proc') if p.isdigit() and user(p) not in (0, os.getuid())]
left += [line for line in open('/proc/net/unix') if 'left' in line]
try: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind('\0left')
except OSError as error: left.append(error)
print(left, open('/proc/1/stat').read().split()[21])
`
	e := newExecutor(t)
	e.CleanWithin(executor.CleanTimeout) // the next one comes soon
	for name, code := range lastings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			execute := reusing(t, e, execution.Owner{Tenant: "default", Subject: name})
			exitedWell(t, execute(python("")))
			began := time.Now()
			r := execute(python(code), timeout(5000))
			t.Logf("%s: %s %.200q", time.Since(began).Round(time.Millisecond), r.Outcome, r.Stderr)
			if took := time.Since(began); took > 5*time.Second+lateAmongOthers {
				t.Errorf("took %s", took)
			}
			began = time.Now()
			r = execute(python(find))
			t.Logf("%s: %s", time.Since(began).Round(time.Millisecond), r.Stdout)
			if out := exitedWell(t, r); !strings.HasPrefix(out, "[] ") {
				t.Errorf("left: %s", out)
			}
			if took := time.Since(began); took > lateAmongOthers {
				t.Errorf("the next one took %s", took)
			}
		})
	}
}
