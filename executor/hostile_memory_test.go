package executor_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// Programs that take memory, in every way that counts as such. Under gVisor the
// host's kernel sees one process, and ends all of the sandbox.
func TestHostileMemory(t *testing.T) {
	t.Parallel()
	small := func(l *execution.Limits) {
		l.MemoryMiB = 64
		l.TmpMiB, l.WorkspaceMiB, l.ShmMiB = 16, 16, 16
	}
	memory := []string{"memory_mib"}
	attacks(t, []hostile{
		{name: "resident", job: python("b=[]\nwhile True: b.append(bytearray(1<<20))"), limits: small, want: execution.OutcomeOutOfMemory, hit: memory},
		{name: "at once", job: python("b=b'x'*(1<<30)"), limits: small, want: execution.OutcomeOutOfMemory, hit: memory},
		{name: "mmap", job: python("import mmap\nm=mmap.mmap(-1, 1<<30)\nfor i in range(0, 1<<30, 4096): m[i]=1\n"), limits: small, want: execution.OutcomeOutOfMemory, hit: memory},
		{name: "mlock", job: python("import ctypes,mmap\nl=ctypes.CDLL(None)\nl.mlockall(3)\nb=bytearray(1<<30)\n"), limits: small, want: execution.OutcomeOutOfMemory, hit: memory},
		{name: "memfd", job: python("import os\nfd=os.memfd_create('x')\nimport resource\nresource.setrlimit(resource.RLIMIT_FSIZE,(resource.getrlimit(resource.RLIMIT_FSIZE)[1],)*2)\nfds=[os.memfd_create('x') for _ in range(60)]\nfor f in fds:\n    for _ in range(16): os.write(f, bytes(1<<20))\n"), limits: small, want: execution.OutcomeOutOfMemory, hit: memory},
		{name: "tmpfs and heap together", job: python("for p in ('/tmp/x','/dev/shm/x','/workspace/x'):\n    f=open(p,'wb',buffering=0)\n    try:\n        while True: f.write(bytes(1<<20))\n    except OSError: pass\nb=bytearray(64<<20)\n"), limits: small, want: execution.OutcomeOutOfMemory},
		{name: "shared memory", job: python("import ctypes\nl=ctypes.CDLL(None)\nl.shmat.restype=ctypes.c_void_p\nfor i in range(100):\n    n=l.shmget(0, 16<<20, 0o1600)\n    if n<0: raise SystemExit(5)\n    p=l.shmat(n, None, 0)\n    ctypes.memset(p, 1, 16<<20)\n"), limits: small, want: execution.OutcomeOutOfMemory, hit: memory},
		{name: "pipes", job: python("import os,fcntl\nps=[]\nwhile True:\n    r,w=os.pipe()\n    os.set_blocking(w,False)\n    try:\n        while True: os.write(w, bytes(65536))\n    except BlockingIOError: pass\n    ps.append((r,w))\n"), limits: small, want: execution.OutcomeExited, exit: 1},
		{name: "many processes", job: python("import os,time\nfor _ in range(20):\n    if os.fork()==0:\n        b=bytearray(16<<20)\n        time.sleep(60)\nos.wait() # for the first that is killed\nraise SystemExit(9)"), limits: small, want: execution.OutcomeOutOfMemory, hit: memory},
		{name: "a child is killed and the program ends well", gvisor: func(h *hostile) { h.want, h.stdout = execution.OutcomeOutOfMemory, "" }, job: python("import os\nif os.fork()==0:\n    b=bytearray(1<<30)\n    os._exit(0)\nprint(os.wait()[1])\n"), limits: small, want: execution.OutcomeExited, hit: memory, stdout: "9"},
		{name: "the program first, not the agent", job: python("import os\nopen('/proc/self/oom_score_adj','w').write('1000')\nb=bytearray(1<<30)"), limits: small, want: execution.OutcomeOutOfMemory, hit: memory},
		{name: "137 is not taken for it", job: shell("exit 137"), want: execution.OutcomeExited, exit: 137, hit: []string{}},
	})
}

// The least memory that a grant can have is enough to be told about it.
func TestLeastMemory(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	least := func(l *execution.Limits) {
		l.MemoryMiB, l.TmpMiB, l.WorkspaceMiB, l.ShmMiB, l.FilesMiB = 16, 4, 4, 4, 1
	}
	hostile{job: shell("echo fits"), limits: least, want: execution.OutcomeExited, stdout: "fits"}.attack(t, e)
	hostile{job: python("b=bytearray(64<<20)"), limits: least, want: execution.OutcomeOutOfMemory}.attack(t, e)
	big := shell("true")
	for _, name := range []string{"a", "b", "c"} {
		big.Files = append(big.Files, execution.File{Path: name, Content: bytes.Repeat([]byte(name), 1<<20)})
	}
	hostile{job: big, limits: least, want: execution.OutcomeExited}.attack(t, e)
	code := python("x='" + strings.Repeat("y", 8<<20) + "'")
	hostile{job: code, limits: least, want: execution.OutcomeOutOfMemory}.attack(t, e)
}
