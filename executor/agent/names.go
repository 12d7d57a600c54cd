//go:build linux

package agent

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
)

const (
	// maxNames bounds the names that one program may look up.
	maxNames = 4096
	// firstAddress is 127.64.0.1, well away from those that programs use, and
	// lastAddress 127.127.255.255.
	firstAddress = 127<<24 | 64<<16 | 1
	lastAddress  = 127<<24 | 127<<16 | 0xffff
)

// addresses gives out addresses of 127/8, each once in a sandbox's life: what an
// interpreter that stays remembers of an earlier program leads nowhere.
type addresses struct{ given uint32 }

func (a *addresses) next() (netip.Addr, bool) {
	if a.given > lastAddress-firstAddress {
		return netip.Addr{}, false
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], firstAddress+a.given)
	a.given++
	return netip.AddrFrom4(b), true
}

// names are those that one program has looked up, each with its address.
type names struct {
	free *addresses
	// ask asks outside whether a name is to be found; nil: every name is.
	ask func(name string) (bool, error)

	asking sync.Mutex
	asked  map[string]bool // and what was answered

	mu        sync.Mutex
	addresses map[string]netip.Addr
	names     map[netip.Addr]string
}

func newNames(free *addresses) *names {
	return &names{free: free, asked: map[string]bool{}, addresses: map[string]netip.Addr{}, names: map[netip.Addr]string{}}
}

var errNames = errors.New("the program looks too many names up")

// find reports whether a name is to be found. One is asked for at a time, and once
// where there was an answer.
func (n *names) find(name string) (bool, error) {
	if n.ask == nil {
		return true, nil
	}
	n.asking.Lock()
	defer n.asking.Unlock()
	if found, known := n.asked[name]; known {
		return found, nil
	}
	if len(n.asked) >= maxNames {
		return false, errNames
	}
	found, err := n.ask(name)
	if err == nil {
		n.asked[name] = found
	}
	return found, err
}

// address is the name's own, as long as there are some.
func (n *names) address(name string) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if known, ok := n.addresses[name]; ok {
		return known, true
	}
	if len(n.addresses) >= maxNames {
		return netip.Addr{}, false
	}
	address, ok := n.free.next()
	if ok {
		n.addresses[name], n.names[address] = address, name
	}
	return address, ok
}

// name is whose address it is, or empty.
func (n *names) name(address netip.Addr) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.names[address.Unmap()]
}
