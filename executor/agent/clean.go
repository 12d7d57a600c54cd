//go:build linux

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// leftover is what is in the sandbox besides processes: what the next program
// must find as the first one did.
type leftover struct {
	files []string // paths in the writable mounts
	space []string // what each of these mounts has used
	ipc   []string // System V objects
	ports []string // sockets that others could reach
}

// reapTimeout bounds the wait for what is dead to be gone.
const reapTimeout = 3 * time.Second

// unseen stands for what could not be looked at. It is like nothing before.
func unseen(err error) string { return fmt.Sprintf("unknown at %d: %v", time.Now().UnixNano(), err) }

// look finds out what is there now. What cannot be looked at is there under the
// name of the error, so that two looks that fail differ from one that does not.
func look() leftover {
	var now leftover
	for _, mount := range writable {
		now.files = append(now.files, pathsIn(mount)...)
		now.space = append(now.space, spaceOf(mount))
	}
	for _, kind := range ipcKinds {
		for _, id := range kind.ids() {
			now.ipc = append(now.ipc, fmt.Sprintf("%s %s", kind.name, id))
		}
	}
	now.ports = ports()
	return now
}

// clean removes all that a program of uid has left, and says what it could not
// remove.
func (a *agent) clean(uid int) wire.Cleaned {
	alive := a.settle()
	as(uid, func() error {
		for _, mount := range writable {
			emptyFolder(mount)
		}
		for _, kind := range ipcKinds {
			kind.remove()
		}
		return nil
	})
	parked := ""
	if a.zygote != nil {
		if err := a.zygote.await(alive, zygoteTimeout); err != nil {
			parked = err.Error()
		}
	}
	now := look()
	// The kernel takes apart later what only a message held that nobody read.
	for deadline := time.Now().Add(reapTimeout); !now.within(a.before) && time.Now().Before(deadline); now = look() {
		a.children.await()
	}
	return wire.Cleaned{Checks: map[string]string{
		wire.CheckProcesses: strangers(alive),
		wire.CheckFiles:     beyond(a.before.files, now.files),
		wire.CheckSpace:     beyond(a.before.space, now.space),
		wire.CheckIPC:       beyond(a.before.ipc, now.ipc),
		wire.CheckPorts:     beyond(a.before.ports, now.ports),
		wire.CheckParked:    parked,
	}}
}

// within reports whether all of this was there before.
func (l leftover) within(before leftover) bool {
	return beyond(before.files, l.files) == "" && beyond(before.space, l.space) == "" &&
		beyond(before.ipc, l.ipc) == "" && beyond(before.ports, l.ports) == ""
}

// beyond says what is there now and was not before.
func beyond(before, now []string) string {
	now = slices.DeleteFunc(slices.Clone(now), func(s string) bool { return slices.Contains(before, s) })
	const most = 5
	if len(now) > most {
		now = append(now[:most], fmt.Sprintf("and %d more", len(now)-most))
	}
	return strings.Join(now, ", ")
}

// settle ends what is left of programs, also what was on its way out until now,
// and returns what is there when nothing of them is, or after reapTimeout.
func (a *agent) settle() []status {
	deadline := time.Now().Add(reapTimeout)
	for {
		alive := processes()
		if !slices.ContainsFunc(alive, isProgram) || time.Now().After(deadline) {
			return alive
		}
		killEach(a.children, isProgram)
		a.children.await()
	}
}

// strangers names the processes that are neither the agent nor wait to fork.
func strangers(alive []status) string {
	var list []string
	for _, s := range alive {
		if isProgram(s) {
			list = append(list, fmt.Sprintf("process %d of user %d", s.pid, s.uid))
		}
	}
	return beyond(nil, list)
}

// pathsIn lists everything below a mount that this process may see.
func pathsIn(mount string) (paths []string) {
	if names, err := readNames(mount); err == nil && len(names) == 0 {
		return nil
	}
	filepath.WalkDir(mount, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			paths = append(paths, path+" "+unseen(err))
			return filepath.SkipDir
		}
		if path != mount {
			paths = append(paths, path)
		}
		return nil
	})
	return paths
}

// spaceOf is what a mount has used, also of files that have no name any more.
func spaceOf(mount string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(mount, &fs); err != nil {
		return mount + " " + unseen(err)
	}
	return fmt.Sprintf("%s: %d blocks and %d inodes", mount, fs.Blocks-fs.Bfree, fs.Files-fs.Ffree)
}

// emptyFolder removes what it can of a folder's content. Folders whose owner has
// taken its own rights get them back first.
func emptyFolder(folder string) {
	if names, err := readNames(folder); err == nil && len(names) == 0 {
		return
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return
	}
	defer root.Close()
	emptyRoot(root)
}

func emptyRoot(root *os.Root) {
	dir, err := root.Open(".")
	if err != nil {
		return
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return
	}
	for _, name := range names {
		if root.Remove(name) == nil {
			continue
		}
		root.Chmod(name, 0o700)
		if inner, err := root.OpenRoot(name); err == nil {
			emptyRoot(inner)
			inner.Close()
		}
		root.Remove(name)
	}
}

// ipcKind is one kind of System V object (sysvipc(7)).
type ipcKind struct {
	name     string
	file     string // in /proc/sysvipc
	removing func(id int) (trap, a1, a2, a3 uintptr)
}

var ipcKinds = []ipcKind{
	{"shared memory segment", "shm", func(id int) (_, _, _, _ uintptr) { return unix.SYS_SHMCTL, uintptr(id), ipcRemove, 0 }},
	{"message queue", "msg", func(id int) (_, _, _, _ uintptr) { return unix.SYS_MSGCTL, uintptr(id), ipcRemove, 0 }},
	{"semaphore set", "sem", func(id int) (_, _, _, _ uintptr) { return unix.SYS_SEMCTL, uintptr(id), 0, ipcRemove }},
}

const ipcRemove = 0 // IPC_RMID

// ids lists the objects there are: the second column after a line of headings.
// A kernel without that list, as gVisor's, is asked for its summary, which a
// program that leaves any changes: those cannot be removed one by one.
func (k ipcKind) ids() (ids []string) {
	content, err := readFile("/proc/sysvipc/" + k.file)
	if err != nil {
		return []string{k.summary()}
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	for _, line := range lines[1:] {
		if fields := strings.Fields(line); len(fields) > 1 {
			ids = append(ids, fields[1])
		}
	}
	return ids
}

// summary is what the kernel counts of this kind (SHM_INFO of shmctl(2) and its
// like). One that cannot be had is never like another.
func (k ipcKind) summary() string {
	const shmInfo, msgInfo, semInfo = 14, 12, 19
	var info [128]byte // more than any of the structures
	var errno unix.Errno
	switch k.file {
	case "shm":
		_, _, errno = unix.Syscall(unix.SYS_SHMCTL, 0, shmInfo, uintptr(unsafe.Pointer(&info)))
	case "msg":
		_, _, errno = unix.Syscall(unix.SYS_MSGCTL, 0, msgInfo, uintptr(unsafe.Pointer(&info)))
	case "sem":
		_, _, errno = unix.Syscall6(unix.SYS_SEMCTL, 0, 0, semInfo, uintptr(unsafe.Pointer(&info)), 0, 0)
	}
	if errno != 0 {
		return unseen(errno)
	}
	return fmt.Sprintf("in the count %x", info)
}

// remove removes those of the present user.
func (k ipcKind) remove() {
	for _, id := range k.ids() {
		var n int
		if _, err := fmt.Sscan(id, &n); err == nil {
			trap, a1, a2, a3 := k.removing(n)
			unix.Syscall(trap, a1, a2, a3)
		}
	}
}

// ports lists what another program could reach: how many sockets there are, where
// the kernel counts them, and else those that stand in its tables. (Linux looks
// through the sockets of the whole host for its tables, which takes milliseconds.)
func ports() (list []string) {
	counted := false
	for _, name := range []string{"sockstat", "sockstat6"} {
		content, err := readFile("/proc/net/" + name)
		if err != nil {
			continue // gVisor does not count, and a kernel may have no IPv6
		}
		counted = true
		for line := range strings.Lines(string(content)) {
			// Such as "TCP: inuse 1 orphan 0 tw 2 alloc 1 mem 0".
			if fields := strings.Fields(line); len(fields) > 2 && fields[1] == "inuse" && fields[2] != "0" {
				list = append(list, fields[2]+" sockets of "+strings.TrimSuffix(fields[0], ":"))
			}
		}
	}
	if !counted {
		for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
			list = append(list, portsIn(table)...)
		}
	}
	return append(list, socketNames()...)
}

// socketNames lists the names that sockets of this host have for others: column 8
// of /proc/net/unix. Files of that kind are in a folder too; others are nowhere else.
func socketNames() (list []string) {
	content, err := readFile("/proc/net/unix")
	if err != nil {
		return []string{unseen(err)}
	}
	const name = 8 - 1
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > name && fields[0] != "Num" {
			list = append(list, "a socket named "+fields[name])
		}
	}
	return list
}

// portsIn lists the sockets of a table that listen, and all of UDP
// (proc_pid_net(5): column 2 is the address, column 4 the state).
func portsIn(table string) (list []string) {
	const listen = "0A"
	content, err := readFile("/proc/net/" + table)
	if err != nil {
		return []string{unseen(err)}
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) > 3 && (fields[3] == listen || strings.HasPrefix(table, "udp")) {
			list = append(list, table+" "+fields[1])
		}
	}
	return list
}
