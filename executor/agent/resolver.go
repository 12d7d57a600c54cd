//go:build linux

package agent

import (
	"encoding/binary"
	"io"
	"net"
	"time"
)

// resolve answers datagrams until the program has ended.
func (n *network) resolve(conn *net.UDPConn) {
	buffer := make([]byte, maxQuery)
	for {
		size, from, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			if !n.wait(acceptPause) {
				return
			}
			continue
		}
		if reply := answer(buffer[:size], n.names); reply != nil {
			conn.WriteToUDPAddrPort(reply, from) // who asked may be gone
		}
	}
}

// answer answers one question after another, each with its length before it
// (RFC 1035, section 4.2.2), until one is none or does not come.
func (n *network) answer(conn *net.TCPConn) {
	inside := reset{conn}
	if !n.add(inside) {
		return
	}
	defer n.remove(inside)
	defer conn.Close()
	for {
		conn.SetDeadline(time.Now().Add(queryTimeout))
		var length [2]byte
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		size := binary.BigEndian.Uint16(length[:])
		if size > maxQuery {
			return
		}
		message := make([]byte, size)
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		reply := answer(message, n.names)
		if reply == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}
