package executor_test

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

const (
	eperm  = 1
	enosys = 38
	// unknown calls are newer than the profile: EPERM, or ENOSYS from a runtime
	// that tells those apart (runc since 1.0).
	unknown = -1
)

// forbidden are the system calls that no program may make, by number on amd64.
// docs/seccomp.md names each with its reason.
var forbidden = []struct {
	name   string
	number int
	args   []int
	want   int
}{
	{"unshare", 272, []int{0x10000000}, eperm}, // CLONE_NEWUSER
	{"setns", 308, []int{0, 0}, eperm},
	{"clone", 56, []int{0x10000000 | 17}, eperm}, // CLONE_NEWUSER | SIGCHLD
	{"clone", 56, []int{0x20000000 | 17}, eperm}, // CLONE_NEWPID
	{"clone", 56, []int{0x02000000 | 17}, eperm}, // CLONE_NEWCGROUP
	{"clone3", 435, []int{0, 0}, enosys},
	{"keyctl", 250, []int{0, -3 & 0xffffffff, 1}, eperm},
	{"add_key", 248, nil, eperm},
	{"request_key", 249, nil, eperm},
	{"bpf", 321, nil, eperm},
	{"perf_event_open", 298, nil, eperm},
	{"io_uring_setup", 425, []int{8, 0}, eperm},
	{"io_uring_enter", 426, nil, eperm},
	{"io_uring_register", 427, nil, eperm},
	{"io_setup", 206, []int{1, 0}, eperm},
	{"io_submit", 209, nil, eperm},
	{"io_getevents", 208, nil, eperm},
	{"io_pgetevents", 333, nil, eperm},
	{"io_cancel", 210, nil, eperm},
	{"io_destroy", 207, nil, eperm},
	{"userfaultfd", 323, []int{1}, eperm},
	{"ptrace", 101, []int{0}, eperm},
	{"process_vm_readv", 310, []int{1}, eperm},
	{"process_vm_writev", 311, []int{1}, eperm},
	{"process_madvise", 440, nil, eperm},
	{"process_mrelease", 448, nil, eperm},
	{"pidfd_getfd", 438, nil, eperm},
	{"kcmp", 312, []int{1, 1}, eperm},
	{"prlimit64", 302, []int{1, 7, 0, 0}, eperm},
	{"mount", 165, nil, eperm},
	{"umount2", 166, nil, eperm},
	{"pivot_root", 155, nil, eperm},
	{"chroot", 161, nil, eperm},
	{"fsopen", 430, nil, eperm},
	{"fsconfig", 431, nil, eperm},
	{"fsmount", 432, nil, eperm},
	{"fspick", 433, nil, eperm},
	{"open_tree", 428, nil, eperm},
	{"move_mount", 429, nil, eperm},
	{"mount_setattr", 442, nil, eperm},
	{"listmount", 458, nil, unknown},
	{"statmount", 457, nil, unknown},
	{"name_to_handle_at", 303, nil, eperm},
	{"open_by_handle_at", 304, nil, eperm},
	{"quotactl", 179, nil, eperm},
	{"quotactl_fd", 443, nil, eperm},
	{"fanotify_init", 300, nil, eperm},
	{"fanotify_mark", 301, nil, eperm},
	{"mq_open", 240, nil, eperm},
	{"mq_unlink", 241, nil, eperm},
	{"mq_timedsend", 242, nil, eperm},
	{"mq_timedreceive", 243, nil, eperm},
	{"mq_notify", 244, nil, eperm},
	{"mq_getsetattr", 245, nil, eperm},
	{"modify_ldt", 154, []int{0, 0, 0}, eperm},
	{"vmsplice", 278, nil, eperm},
	{"move_pages", 279, nil, eperm},
	{"migrate_pages", 256, nil, eperm},
	{"mbind", 237, nil, eperm},
	{"set_mempolicy", 238, nil, eperm},
	{"set_mempolicy_home_node", 450, nil, eperm},
	{"memfd_secret", 447, nil, eperm},
	{"init_module", 175, nil, eperm},
	{"finit_module", 313, nil, eperm},
	{"delete_module", 176, nil, eperm},
	{"kexec_load", 246, nil, eperm},
	{"kexec_file_load", 320, nil, eperm},
	{"reboot", 169, nil, eperm},
	{"swapon", 167, nil, eperm},
	{"swapoff", 168, nil, eperm},
	{"acct", 163, nil, eperm},
	{"iopl", 172, []int{3}, eperm},
	{"ioperm", 173, nil, eperm},
	{"syslog", 103, []int{3, 0, 0}, eperm},
	{"sethostname", 170, nil, eperm},
	{"setdomainname", 171, nil, eperm},
	{"settimeofday", 164, nil, eperm},
	{"clock_settime", 227, nil, eperm},
	{"clock_adjtime", 305, nil, eperm},
	{"adjtimex", 159, nil, eperm},
	{"vhangup", 153, nil, eperm},
	{"lookup_dcookie", 212, nil, eperm},
	{"uselib", 134, nil, eperm},
	{"ustat", 136, nil, eperm},
	{"sysfs", 139, nil, eperm},
	{"_sysctl", 156, nil, eperm},
	{"create_module", 174, nil, eperm},
	{"get_kernel_syms", 177, nil, eperm},
	{"query_module", 178, nil, eperm},
	{"nfsservctl", 180, nil, eperm},
	{"getpmsg", 181, nil, eperm},
	{"putpmsg", 182, nil, eperm},
	{"afs_syscall", 183, nil, eperm},
	{"tuxcall", 184, nil, eperm},
	{"security", 185, nil, eperm},
	{"vserver", 236, nil, eperm},
	{"setxattrat", 463, nil, unknown},
	{"getxattrat", 464, nil, unknown},
	{"listxattrat", 465, nil, unknown},
	{"removexattrat", 466, nil, unknown},
	{"sync", 162, nil, eperm},
	{"syncfs", 306, nil, eperm},
	{"personality", 135, []int{0x0040000}, eperm}, // ADDR_NO_RANDOMIZE
	{"lsm_set_self_attr", 460, nil, unknown},
	{"a call that does not exist", 1000, nil, unknown},
	// Families and kinds of sockets.
	{"socket AF_VSOCK", 41, []int{40, 1, 0}, eperm},
	{"socket AF_ALG", 41, []int{38, 5, 0}, eperm},
	{"socket AF_PACKET", 41, []int{17, 3, 0}, eperm},
	{"socket AF_NETLINK NETLINK_NETFILTER", 41, []int{16, 3, 12}, eperm},
	{"socket AF_NETLINK NETLINK_AUDIT", 41, []int{16, 3, 9}, eperm},
	{"socket AF_NETLINK NETLINK_CRYPTO", 41, []int{16, 3, 21}, eperm},
	{"socket AF_KEY", 41, []int{15, 3, 2}, eperm},
	{"socket AF_BLUETOOTH", 41, []int{31, 3, 1}, eperm},
	{"socket AF_CAN", 41, []int{29, 3, 1}, eperm},
	{"socket AF_TIPC", 41, []int{30, 1, 0}, eperm},
	{"socket AF_RDS", 41, []int{21, 5, 0}, eperm},
	{"socket AF_XDP", 41, []int{44, 3, 0}, eperm},
	{"socket AF_SMC", 41, []int{43, 1, 0}, eperm},
	{"socket AF_X25", 41, []int{9, 5, 0}, eperm},
	{"socket AF_INET SOCK_RAW", 41, []int{2, 3, 1}, eperm},
	{"socket AF_INET6 SOCK_RAW", 41, []int{10, 3, 58}, eperm},
	{"socketpair AF_TIPC", 53, []int{30, 1, 0}, eperm},
}

// carriedOut are the forbidden calls that gVisor's own kernel carries out, since
// the engine's filter is around it and not in it. None reaches the host's.
var carriedOut = []string{
	"unshare", "clone", "keyctl", "io_submit", "ptrace", "process_vm_readv", "process_vm_writev", "prlimit64",
	"mbind", "set_mempolicy", "syslog", "sync", "syncfs",
}

// Every forbidden call fails with its error, and the program goes on. Under
// gVisor all fail but those that are carriedOut, each with an error of its own.
func TestForbiddenSystemCalls(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	job := python(`
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
me = os.getpid()
result = []
for number, args in INPUT_DATA:
    ctypes.set_errno(0)
    r = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args + [0] * (6 - len(args))])
    error = ctypes.get_errno() if r == -1 else 0
    if number == 56 and r == 0 or os.getpid() != me: os._exit(99)
    if number == 56 and r > 0: os.waitpid(r, 0) # its end must not be a signal to a traced program
    result.append(error)
`)
	calls := [][]any{}
	for _, c := range forbidden {
		if c.args == nil {
			c.args = []int{}
		}
		calls = append(calls, []any{c.number, c.args})
	}
	job.Input, _ = json.Marshal(calls)
	underEach(t, func(t *testing.T, runtime string) {
		r := hostile{job: job, want: execution.OutcomeExited}.under(runtime).attack(t, e)
		var got []int
		if err := json.Unmarshal(r.Value, &got); err != nil || len(got) != len(forbidden) {
			t.Fatalf("%v: %s", err, describe(r))
		}
		for i, c := range forbidden {
			ok := got[i] == c.want || c.want == unknown && (got[i] == eperm || got[i] == enosys)
			if runtime == "runsc" {
				ok = got[i] != 0 || slices.Contains(carriedOut, c.name)
			}
			if !ok {
				t.Errorf("%s (%d%v): errno %d, want %d", c.name, c.number, c.args, got[i], c.want)
			}
		}
	})
}

// Each forbidden call stands in the documentation with its reason.
func TestForbiddenCallsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/seccomp.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range forbidden {
		for _, word := range strings.Fields(c.name) {
			switch {
			case c.number == 1000, slices.Contains([]string{"socket", "socketpair", "SOCK_RAW", "AF_INET", "AF_INET6"}, word):
			case strings.HasPrefix(word, "AF_") || strings.HasPrefix(word, "NETLINK_"):
				if !strings.Contains(string(page), word) {
					t.Errorf("docs/seccomp.md does not name %s", word)
				}
			case !strings.Contains(string(page), "`"+word+"`"):
				t.Errorf("docs/seccomp.md does not name %s", word)
			}
		}
	}
}

// What programs do need, works.
func TestProfileLetsProgramsWork(t *testing.T) {
	t.Parallel()
	attacks(t, []hostile{
		{name: "the libraries of the image", want: execution.OutcomeExited, limits: func(l *execution.Limits) { l.MemoryMiB = 512 }, job: python(`
import numpy, pandas, requests
import matplotlib.pyplot as plt
plt.plot([1, 2, 3])
plt.show()
assert numpy.linalg.inv(numpy.eye(50)).sum() == 50
assert pandas.DataFrame({'a': [1, 2]}).a.sum() == 3
try: requests.get('http://example.com', timeout=2)
except requests.exceptions.ConnectionError: pass
`), check: func(t testing.TB, r execution.Result) {
			if len(r.Artifacts) != 1 || len(r.Stderr) > 0 {
				t.Errorf("a figure and no complaint wanted: %s", describe(r))
			}
		}},
		{name: "threads, processes and sockets", want: execution.OutcomeExited, job: python(`
import asyncio, multiprocessing, os, socket, subprocess, threading, tempfile, sqlite3
assert subprocess.run(['/bin/echo', 'x'], capture_output=True).stdout == b'x\n'
with multiprocessing.get_context('fork').Pool(2) as p: assert p.map(abs, [-1, -2]) == [1, 2]
a, b = socket.socketpair()
a.send(b'x'); assert b.recv(1) == b'x'
s = socket.create_server(('127.0.0.1', 0))
c = socket.create_connection(s.getsockname())
assert [n for _, n in socket.if_nameindex()] == ['lo']
socket.create_server(('127.0.0.1', 80)).close()
async def main(): await asyncio.gather(*[asyncio.sleep(0.001) for _ in range(10)])
asyncio.run(main())
tempfile.TemporaryFile().write(b'x')
sqlite3.connect('/workspace/x.db').execute('create table t (a)')
`)},
	})
}

// What a program can find out about, and do to, process 1 and the host.
func TestHostileReads(t *testing.T) {
	t.Parallel()
	nothing := func(t testing.TB, r execution.Result) {
		t.Helper()
		if string(r.Value) != "[]" {
			t.Errorf("succeeded: %s", describe(r))
		}
	}
	attacks(t, []hostile{
		// gVisor names the descriptors and namespaces of others of the same user, and opens none of the former.
		{name: "process 1", want: execution.OutcomeExited, check: nothing, gvisor: func(h *hostile) {
			h.check = value(`["fd","fdinfo","task/1/fd","/proc/1/ns/net","/proc/1/ns/mnt"]`)
		}, job: python(`
import os, ctypes
result = []
def try_(name, f):
    try: f()
    except OSError: pass
    else: result.append(name)
for f in ('mem', 'environ', 'maps', 'smaps', 'auxv', 'syscall', 'stack', 'pagemap', 'io', 'personality'):
    try_(f, lambda: open('/proc/1/' + f, 'rb').read(16))
for f in ('root', 'cwd', 'exe'):
    try_(f, lambda: os.readlink('/proc/1/' + f))
for f in ('fd', 'fdinfo', 'map_files', 'task/1/fd'):
    try_(f, lambda: os.listdir('/proc/1/' + f))
for fd in range(64):
    try_('write fd %d' % fd, lambda: os.write(os.open('/proc/1/fd/%d' % fd, os.O_WRONLY), b'\x08\0\0\0\2{}'))
    try_('read fd %d' % fd, lambda: os.open('/proc/1/fd/%d' % fd, os.O_RDONLY))
for f in ('oom_score_adj', 'oom_adj', 'comm', 'coredump_filter', 'clear_refs', 'timerslack_ns', 'autogroup'):
    try_('write ' + f, lambda: os.write(os.open('/proc/1/' + f, os.O_WRONLY), b'1'))
for s in ('/proc/1/ns/net', '/proc/1/ns/mnt'):
    try_(s, lambda: os.open(s, os.O_RDONLY))
`)},
		{name: "descriptors that are not its own", want: execution.OutcomeExited, check: nothing, job: python(`
import os
result = []
for fd in range(3, 1024):
    try: link = os.readlink('/proc/self/fd/%d' % fd)
    except OSError: continue
    try: os.fstat(fd)
    except OSError: continue
    result.append(link)
`)},
		{name: "kernel files", want: execution.OutcomeExited, check: nothing, job: python(`
import os
result = []
for p in ('/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/latency_stats', '/proc/sched_debug', '/proc/kmsg',
          '/proc/acpi', '/proc/scsi', '/proc/asound', '/sys/firmware', '/sys/devices/virtual/powercap', '/dev/mqueue', '/proc/interrupts',
          '/proc/vmallocinfo', '/proc/slabinfo', '/proc/kpagecount', '/proc/kpageflags', '/dev/mem', '/dev/kmsg', '/dev/kvm', '/dev/fuse', '/dev/net/tun',
          '/sys/kernel/debug', '/sys/kernel/security', '/sys/kernel/tracing', '/sys/fs/bpf', '/sys/fs/pstore', '/boot', '/lib/modules'):
    try:
        if os.path.isdir(p):
            if os.listdir(p): result.append(p)
        elif open(p, 'rb').read(16): result.append(p)
    except OSError: pass
for line in open('/proc/kallsyms') if os.path.exists('/proc/kallsyms') else []:
    if int(line.split()[0], 16): result.append('kallsyms'); break
`)},
		{name: "the engine and the host", want: execution.OutcomeExited, check: nothing, job: python(`
import os, socket
result = []
for p in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '/run/podman/podman.sock', '/var/lib/docker', '/host', '/.dockerenv.sock'):
    if os.path.exists(p): result.append(p)
for address in (('169.254.169.254', 80), ('172.17.0.1', 22), ('10.0.0.1', 53), ('8.8.8.8', 53), ('::1', 2375), ('127.0.0.1', 2375)):
    try: socket.create_connection(address, 1)
    except OSError: pass
    else: result.append(address)
if os.path.exists('/sys/class/net') and os.listdir('/sys/class/net') != ['lo']: result.append(os.listdir('/sys/class/net'))
if [n for _, n in socket.if_nameindex()] != ['lo']: result.append(socket.if_nameindex())
routes = [r for r in open('/proc/net/route').read().splitlines()[1:] if r.split()[0] != 'lo']
if routes: result.append(routes)
for name in ('\0/containerd-shim', '\0docker'):
    try: socket.socket(socket.AF_UNIX).connect(name)
    except OSError: pass
    else: result.append(name)
if len(open('/proc/net/unix').readlines()) > 1: result.append('abstract sockets of others')
`)},
		{name: "other processes", want: execution.OutcomeExited, job: python("import os\nresult=sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid())"), check: func(t testing.TB, r execution.Result) {
			if string(r.Value) != "[1]" {
				t.Errorf("sees processes %s", r.Value)
			}
		}},
		{name: "identity", want: execution.OutcomeExited, check: nothing, gvisor: func(h *hostile) { h.check = value(`["seccomp"]`) }, job: python(`
import os
result = []
status = dict(l.rstrip().split(':', 1) for l in open('/proc/self/status'))
for k in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'):
    if int(status[k], 16): result.append(k)
if status['Seccomp'].strip() != '2' or status['NoNewPrivs'].strip() != '1': result.append('seccomp')
if 0 in os.getresuid() + os.getresgid() + tuple(os.getgroups()): result.append('root')
for f in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setuid(65534), lambda: os.chown('/tmp', 0, 0)):
    try: f()
    except OSError: pass
    else: result.append('became another')
`)},
	})
}

// 32-bit calls do not reach the kernel: filters on arguments do not see them.
func TestHostile32Bit(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	job := python(`
import ctypes, mmap, os
# mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
code = b'\xb8\x14\x00\x00\x00\xcd\x80\xc3'
m = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
m.write(code)
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))
print('called', call() == os.getpid(), flush=True)
`)
	underEach(t, func(t *testing.T, runtime string) {
		job.Grant.Runtime = runtime
		r := run(t, e, job)
		if strings.Contains(string(r.Stdout), "True") {
			t.Errorf("a 32-bit system call was carried out: %s", describe(r))
		}
		if r.Outcome != execution.OutcomeKilled && r.Outcome != execution.OutcomeExited {
			t.Errorf("%s", describe(r))
		}
	})
}

// No filter sees uretprobe from Linux 6.14 on; the kernel ends a program that
// calls it.
func TestHostileUretprobe(t *testing.T) {
	t.Parallel()
	attacks(t, []hostile{{name: "uretprobe", want: execution.OutcomeExited, check: value("true"), job: python(`
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if pid == 0: os._exit(0 if libc.syscall(335) == -1 else 9)
result = os.waitstatus_to_exitcode(os.wait()[1]) in (0, -4)
`)}})
}
