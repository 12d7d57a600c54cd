package export

import (
	"net"

	"golang.org/x/sys/unix"
)

// outstanding is how many bytes the other side's machine has not acknowledged yet
// (tcp(7), SIOCOUTQ).
func outstanding(conn *net.TCPConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var ioctlErr error
	err = raw.Control(func(fd uintptr) { n, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	if err == nil {
		err = ioctlErr
	}
	return n, err
}
