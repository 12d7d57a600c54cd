package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// The bounds of what a name may answer, and of how many of its addresses are tried.
const (
	maxAddresses = 64
	maxTries     = 3
)

// Resolver looks names up; *net.Resolver is one.
type Resolver interface {
	// LookupNetIP returns all addresses of host, which ends with a dot, so that no
	// search list is tried. network is "ip".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// lookUp returns all addresses of host, each of which may be connected to, or a
// code. Nothing is kept: what a name answered before counts for nothing.
func (b *Broker) lookUp(ctx context.Context, host string, private bool) ([]netip.Addr, string) {
	within, cancel := context.WithTimeout(ctx, b.resolveTimeout)
	defer cancel()
	found, err := b.resolver.LookupNetIP(within, "ip", host+".")
	switch {
	case ctx.Err() != nil:
		return nil, codeCancelled
	case within.Err() != nil:
		return nil, codeResolveTimeout
	case err != nil:
		if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsTimeout {
			return nil, codeResolveTimeout
		}
		return nil, codeNameUnresolved
	case len(found) == 0:
		return nil, codeNameUnresolved
	case len(found) > maxAddresses:
		return nil, codeTooManyAddresses
	}
	var addresses []netip.Addr
	for _, addr := range found {
		// net.Resolver gives IPv4 of a hosts file as v4-mapped. To connect to one is
		// to connect to the IPv4 address, and so that is what is checked.
		addr = addr.Unmap()
		if refusal(addr, private, b.allowed) != "" {
			return nil, codeAddressRefused
		}
		if !slices.Contains(addresses, addr) {
			addresses = append(addresses, addr)
		}
	}
	return addresses[:min(len(addresses), maxTries)], ""
}

var errOtherAddress = errors.New("the address to connect to is not the one that was checked")

// dial connects to address, which was checked, and verifies once more right
// before it does that this is what is connected to.
func dial(ctx context.Context, address netip.AddrPort, timeout time.Duration) (*net.TCPConn, error) {
	dialer := net.Dialer{
		Timeout: timeout,
		ControlContext: func(_ context.Context, network, text string, _ syscall.RawConn) error {
			return verify(network, text, address)
		},
	}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	return conn.(*net.TCPConn), nil
}

func verify(network, text string, checked netip.AddrPort) error {
	if to, err := netip.ParseAddrPort(text); err != nil || to != checked || network != "tcp4" && network != "tcp6" {
		return errOtherAddress
	}
	return nil
}

// dialCode says why nothing was connected to.
func dialCode(ctx context.Context, err error) string {
	if ctx.Err() != nil {
		return codeCancelled
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return codeDialTimeout
	}
	return codeDialFailed
}
