//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// network is what one program may connect to: the sandbox's resolver, and a
// listener on each port that some name is granted at. The sandbox itself has
// nothing but its loopback.
type network struct {
	session *wire.Session
	round   uint32
	names   *names
	free    chan struct{} // holds one token for each connection there may be more
	queries chan struct{} // and for each connection to the resolver

	tasks sync.WaitGroup
	stop  chan struct{} // closed when nothing more is to be accepted

	mu     sync.Mutex
	closed bool
	open   map[aborter]struct{}
}

// aborter is what is cut off when the program has ended.
type aborter interface{ Abort() error }

const (
	resolverPort = 53
	// maxQueries is the most connections to the resolver at once, and queryTimeout
	// how long one may take for a question.
	maxQueries   = 16
	queryTimeout = 10 * time.Second
	// acceptPause is how long accepting waits where there are no descriptors.
	acceptPause = 10 * time.Millisecond
)

// resolverAddress is where the engine tells programs to look up names.
var resolverAddress = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// connect starts the resolver and the listeners. They are there when it returns,
// or none is: a port that something in the sandbox has taken is never shared.
func (a *agent) connect(round uint32, given wire.Network) (_ *network, err error) {
	n := &network{
		session: a.session, round: round, names: newNames(&a.addresses),
		free: make(chan struct{}, given.Connections), queries: make(chan struct{}, maxQueries),
		stop: make(chan struct{}), open: map[aborter]struct{}{},
	}
	if given.Hidden {
		n.names.ask = n.ask
	}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	resolver, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(resolverAddress, resolverPort)))
	if err != nil {
		return nil, taken(resolverPort, err)
	}
	n.add(closer{resolver})
	n.tasks.Go(func() { n.resolve(resolver) })
	if !slices.Contains(given.Ports, resolverPort) {
		if err := n.listen(resolverAddress, resolverPort); err != nil {
			return nil, err
		}
	}
	for _, port := range given.Ports {
		if err := n.listen(netip.IPv4Unspecified(), port); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// taken says why a port cannot be listened on.
func taken(port uint16, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("port %d, at which names are to be reached, is taken by what an earlier program left in this session: open another", port)
	}
	return fmt.Errorf("listen on port %d: %w", port, err)
}

// listen accepts what comes to a port.
func (n *network) listen(at netip.Addr, port uint16) error {
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, port)))
	if err != nil {
		return taken(port, err)
	}
	n.add(closer{listener})
	n.tasks.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			switch {
			case err == nil:
				n.accept(conn, port)
			case !n.wait(acceptPause):
				return
			}
		}
	})
	return nil
}

// wait waits for a while, and reports whether the program goes on.
func (n *network) wait(pause time.Duration) bool {
	late := time.NewTimer(pause)
	defer late.Stop()
	select {
	case <-n.stop:
		return false
	case <-late.C:
		return true
	}
}

// accept sees to a connection by where it was made to. One to an address that no
// name has, or past the most there may be, is refused.
func (n *network) accept(conn *net.TCPConn, port uint16) {
	to := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	serve, tokens := func() {}, n.free
	if name := n.names.name(to); name != "" {
		serve = func() { n.carry(conn, wire.Outbound{Round: n.round, Name: name, Port: port}) }
	} else if to == resolverAddress && port == resolverPort {
		serve, tokens = func() { n.answer(conn) }, n.queries
	} else {
		reset{conn}.Abort()
		return
	}
	select {
	case tokens <- struct{}{}:
	default:
		reset{conn}.Abort()
		return
	}
	n.tasks.Go(func() {
		defer func() { <-tokens }()
		serve()
	})
}

// carry carries a connection to the gateway until both ways have ended, or one is
// cut.
func (n *network) carry(conn *net.TCPConn, to wire.Outbound) {
	inside := reset{conn}
	if !n.add(inside) {
		return
	}
	defer n.remove(inside)
	stream, err := n.session.OpenOutbound(to)
	if err != nil {
		inside.Abort()
		return
	}
	if !n.add(stream) {
		inside.Abort()
		return
	}
	defer n.remove(stream)
	cut := func() {
		inside.Abort()
		stream.Abort()
	}
	var out sync.WaitGroup
	out.Go(func() {
		if pass(stream, conn) != nil || stream.CloseWrite() != nil {
			cut()
		}
	})
	if pass(conn, stream) != nil || conn.CloseWrite() != nil {
		cut()
	}
	out.Wait()
	conn.Close()
	stream.Abort() // both ways have ended
}

// ask asks the gateway whether a name is to be found.
func (n *network) ask(name string) (bool, error) {
	stream, err := n.session.OpenOutbound(wire.Outbound{Round: n.round, Name: name})
	if err != nil {
		return false, err
	}
	if !n.add(stream) {
		return false, net.ErrClosed
	}
	defer n.remove(stream)
	defer stream.Abort() // both ways have ended, or nobody waits for an answer
	return stream.Find(queryTimeout)
}

// passSize is how much is passed on at once, in bytes. It is the sandbox's memory.
const passSize = 16 << 10

// pass copies until the end of from.
func pass(to io.Writer, from io.Reader) error {
	// Neither side's own way of copying, which would take more memory.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, passSize))
	return err
}

// add keeps what is cut off with the program, or cuts it off where that was.
func (n *network) add(one aborter) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		one.Abort()
		return false
	}
	n.open[one] = struct{}{}
	return true
}

func (n *network) remove(one aborter) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, one)
}

// close cuts everything off, and returns when nothing listens any more and the
// gateway has been told of every end.
func (n *network) close() {
	n.mu.Lock()
	if !n.closed {
		close(n.stop)
	}
	n.closed = true
	for one := range n.open {
		one.Abort()
	}
	n.mu.Unlock()
	n.tasks.Wait()
}

// closer is cut off by closing it.
type closer struct{ io.Closer }

func (c closer) Abort() error { return c.Close() }

// reset is a connection of the program's that is cut off so that it notices, and
// so that nothing is left of it in the kernel.
type reset struct{ *net.TCPConn }

func (r reset) Abort() error {
	r.SetLinger(0)
	return r.Close()
}
