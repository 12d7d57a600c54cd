package executor_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// noArtifacts checks that nothing came back.
func noArtifacts(t testing.TB, r execution.Result) {
	t.Helper()
	for _, a := range r.Artifacts {
		t.Errorf("artifact %q of %d bytes came back", a.Path, a.Size)
	}
}

// onlyArtifact checks that one artifact came back, with this path.
func onlyArtifact(path string) func(testing.TB, execution.Result) {
	return func(t testing.TB, r execution.Result) {
		t.Helper()
		if len(r.Artifacts) != 1 || r.Artifacts[0].Path != path {
			t.Errorf("want the artifact %q alone: %s", path, describe(r))
			noArtifacts(t, r)
		}
	}
}

// outOfMemory is how inodes run out under gVisor, which does not count them.
func outOfMemory(h *hostile) {
	h.want, h.hit = execution.OutcomeOutOfMemory, []string{"memory_mib"}
}

// Programs that fill what they may write to, and try what they may not.
func TestHostileDisk(t *testing.T) {
	t.Parallel()
	var list []hostile
	for path, limit := range map[string]string{"/tmp": "tmp_mib", "/workspace": "workspace_mib", "/dev/shm": "shm_mib"} {
		list = append(list,
			hostile{name: "fill " + path, job: shell("dd if=/dev/zero of=" + path + "/x bs=64k 2>/dev/null; exit 1"), want: execution.OutcomeDiskLimit, hit: []string{limit}},
			hostile{name: "fill and recover " + path, job: shell("dd if=/dev/zero of=" + path + "/x bs=64k 2>/dev/null; sleep 0.1; exit 0"), want: execution.OutcomeExited, hit: []string{limit}},
			hostile{name: "inodes of " + path, job: python("import os\nn=0\nwhile True:\n    os.mkdir('" + path + "/%d' % n)\n    n+=1\n"), want: execution.OutcomeDiskLimit, hit: []string{limit}, gvisor: outOfMemory},
			hostile{name: "unlinked in " + path, job: python("import os,time\nfs=[]\ntry:\n  while True:\n    f=os.open('" + path + "/x',os.O_RDWR|os.O_CREAT)\n    os.unlink('" + path + "/x')\n    fs.append(f)\n    os.write(f,bytes(1<<20))\nexcept OSError: time.sleep(3)\nraise SystemExit(1)"), limits: func(l *execution.Limits) { l.NoFile = 64 }, want: execution.OutcomeDiskLimit, hit: []string{limit}},
		)
	}
	list = append(list,
		hostile{name: "nothing else can be written", want: execution.OutcomeExited, job: python(`
import os
places = []
for root, dirs, files in os.walk('/'):
    if root.startswith(('/proc', '/sys')) or root in ('/tmp', '/workspace', '/dev/shm') or root.startswith(('/tmp/', '/workspace/', '/dev/shm/')):
        dirs[:] = []
        continue
    if os.access(root, os.W_OK): places.append(root)
    for f in files:
        p = os.path.join(root, f)
        if os.path.isfile(p) and not os.path.islink(p) and os.access(p, os.W_OK): places.append(p)
result = places
`), check: func(t testing.TB, r execution.Result) {
			if string(r.Value) != "[]" {
				t.Errorf("can be written: %s", r.Value)
			}
		}},
		hostile{name: "sysctls and the like", want: execution.OutcomeExited, job: python(`
import os
done = []
for root, dirs, files in os.walk('/proc/sys'):
    for f in files:
        try: os.close(os.open(os.path.join(root, f), os.O_WRONLY))
        except OSError: pass
        else: done.append(os.path.join(root, f))
for p in ('/proc/sysrq-trigger', '/sys/kernel/uevent_helper', '/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/pids/pids.max', '/sys/fs/cgroup/memory.max', '/dev/mqueue/x', '/execgate/agent', '/execgate/x', '/etc/x'):
    try: os.close(os.open(p, os.O_WRONLY | os.O_CREAT))
    except OSError: pass
    else: done.append(p)
result = done
`), check: func(t testing.TB, r execution.Result) {
			if string(r.Value) != "[]" {
				t.Errorf("can be written: %s", r.Value)
			}
		}},
		hostile{name: "no setuid file", want: execution.OutcomeExited, job: python(`
import os, stat
found = []
for root, dirs, files in os.walk('/'):
    if root.startswith('/proc'):
        dirs[:] = []
        continue
    for f in files:
        try: s = os.lstat(os.path.join(root, f))
        except OSError: continue
        if stat.S_ISREG(s.st_mode) and s.st_mode & 0o6000: found.append(os.path.join(root, f))
        if stat.S_ISBLK(s.st_mode): found.append(os.path.join(root, f))
open('/tmp/s','w').close()
os.chmod('/tmp/s', 0o4755)
for d in ('/tmp', '/workspace', '/dev/shm'):
    if not os.statvfs(d).f_flag & os.ST_NOSUID: found.append(d)
result = found
`), check: func(t testing.TB, r execution.Result) {
			if string(r.Value) != "[]" {
				t.Errorf("setuid or block device: %s", r.Value)
			}
		}},
		hostile{name: "no devices can be made", want: execution.OutcomeExited, exit: 1, job: python("import os,stat\nos.mknod('/tmp/d', stat.S_IFBLK|0o666, os.makedev(8,0))")},
	)
	attacks(t, list)
}

// What programs leave for the gateway to collect.
func TestHostileArtifacts(t *testing.T) {
	t.Parallel()
	fifo := "import os\n"
	big := func(l *execution.Limits) { l.FilesMiB, l.FilesCount = 1, 4 }
	attacks(t, []hostile{
		{name: "links, pipes and sockets", want: execution.OutcomeExited, check: onlyArtifact("ok.txt"), job: python(fifo + `
import socket
os.chdir('/workspace/out')
os.symlink('/etc/passwd', 'passwd')
os.symlink('/proc/1/environ', 'environ')
os.symlink('..', 'up')
os.symlink('/', 'root')
os.symlink('ok.txt', 'inner')
os.mkfifo('fifo')
socket.socket(socket.AF_UNIX).bind('socket')
open('ok.txt', 'w').write('ok')
`)},
		{name: "a hard link to a file outside", want: execution.OutcomeExited, exit: 1, check: noArtifacts, job: python("import os\nos.link('/etc/passwd', '/workspace/out/x')")},
		{name: "hard links of one file many times", want: execution.OutcomeExited, limits: big, hit: []string{"files_mib"}, job: python("import os\nopen('/workspace/out/a','wb').write(bytes(300<<10))\nfor i in range(9): os.link('/workspace/out/a', '/workspace/out/b%d' % i)\n"), check: func(t testing.TB, r execution.Result) {
			if len(r.Artifacts) != 3 {
				t.Errorf("%d artifacts of 300 KiB within 1 MiB", len(r.Artifacts))
			}
		}},
		{name: "sparse", want: execution.OutcomeExited, limits: big, hit: []string{"files_mib"}, check: onlyArtifact("z"), job: shell("truncate -s 16M /workspace/out/a; echo 1 > /workspace/out/z")},
		{name: "huge", want: execution.OutcomeExited, limits: big, hit: []string{"files_mib"}, check: onlyArtifact("z"), job: shell("dd if=/dev/zero of=/workspace/out/a bs=1M count=8 2>/dev/null; echo 1 > /workspace/out/z")},
		{name: "too many", want: execution.OutcomeExited, limits: big, hit: []string{"files_mib"}, job: shell("for i in $(seq 500); do echo > /workspace/out/$i; done"), check: func(t testing.TB, r execution.Result) {
			if len(r.Artifacts) != 4 {
				t.Errorf("%d artifacts, want 4", len(r.Artifacts))
			}
		}},
		{name: "too deep", want: execution.OutcomeExited, hit: []string{"files_mib"}, check: onlyArtifact("z"), job: python("import os\nos.chdir('/workspace/out')\nopen('z','w').close()\nfor _ in range(600):\n    os.mkdir('d')\n    os.chdir('d')\nopen('deep','w').close()\n")},
		{name: "too wide", want: execution.OutcomeExited, check: onlyArtifact("z"), job: python("import os\nos.chdir('/workspace/out')\nopen('z','w').close()\nfor i in range(2500): os.mkdir('%d' % i)\n")},
		{name: "names that are not text", want: execution.OutcomeExited, check: onlyArtifact("a\nb"), job: python("import os\nos.chdir(b'/workspace/out')\nopen(b'\\xff\\xfe', 'w').close()\nopen('a\\nb', 'w').close()\n")},
		{name: "long names", want: execution.OutcomeExited, check: onlyArtifact(strings.Repeat("n", 255)), job: python("open('/workspace/out/' + 'n'*255, 'w').close()")},
		{name: "dots in names", want: execution.OutcomeExited, check: onlyArtifact("..."), job: python("open('/workspace/out/...', 'w').close()")},
		{name: "out is a link to /proc", want: execution.OutcomeExited, check: noArtifacts, job: shell("rmdir /workspace/out && ln -s /proc /workspace/out")},
		{name: "out is a link to the root", want: execution.OutcomeExited, check: noArtifacts, job: shell("rmdir /workspace/out && ln -s / /workspace/out")},
		{name: "out is a link within", want: execution.OutcomeExited, check: noArtifacts, job: shell("rmdir /workspace/out && mkdir /workspace/a && echo 1 >/workspace/a/a && ln -s a /workspace/out")},
		{name: "out is a file", want: execution.OutcomeExited, check: noArtifacts, job: shell("rmdir /workspace/out && echo 1 > /workspace/out")},
		{name: "out is a pipe", want: execution.OutcomeExited, check: noArtifacts, job: shell("rmdir /workspace/out && mkfifo /workspace/out")},
		{name: "out is gone", want: execution.OutcomeExited, check: noArtifacts, job: shell("rmdir /workspace/out")},
		{name: "out cannot be read", want: execution.OutcomeExited, check: noArtifacts, job: shell("echo > /workspace/out/x; chmod 0 /workspace/out")},
		{name: "a file cannot be read", want: execution.OutcomeExited, check: onlyArtifact("z"), job: shell("cd /workspace/out; echo >a; chmod 0 a; mkdir d; echo > d/e; chmod 0 d; echo >z")},
		{name: "an empty file", want: execution.OutcomeExited, check: onlyArtifact("empty"), job: shell(": > /workspace/out/empty")},
	})
}

// Files of the request that do not fit, or are no files.
func TestHostileRequestFiles(t *testing.T) {
	t.Parallel()
	with := func(job execution.Job, files ...execution.File) execution.Job {
		job.Files = files
		return job
	}
	file := func(path string, size int) execution.File {
		return execution.File{Path: path, Content: bytes.Repeat([]byte("x"), size)}
	}
	unstarted := func(text string) func(testing.TB, execution.Result) {
		return func(t testing.TB, r execution.Result) {
			t.Helper()
			if !strings.Contains(string(r.Stderr), text) || strings.Contains(string(r.Stdout), "ran") {
				t.Errorf("stderr lacks %q, or the program ran: %s", text, describe(r))
			}
		}
	}
	refused := func(name string, files ...execution.File) hostile {
		return hostile{name: name, job: with(shell("echo ran"), files...), want: execution.OutcomeExited, exit: 126, check: unstarted("cannot start the program")}
	}
	attacks(t, []hostile{
		{name: "kept", job: with(shell("cat a/b/c | wc -c"), file("a/b/c", 5)), want: execution.OutcomeExited, stdout: "5"},
		{name: "more than the workspace holds", job: with(shell("echo ran"), file("a", 10<<20), file("b", 10<<20)), want: execution.OutcomeDiskLimit, hit: []string{"workspace_mib"}, check: unstarted("no space left")},
		refused("a file where a folder is needed", file("a", 1), file("a/b", 1)),
		refused("a file named out", file("out", 1)),
		refused("a path that climbs", file("../tmp/x", 1)),
		refused("an absolute path", file("/tmp/x", 1)),
		refused("a path with NUL", file("a\x00b", 1)),
		refused("a name that is too long", file(strings.Repeat("n", 300), 1)),
	})
}
