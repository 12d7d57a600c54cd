package egress

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"github.com/execgate/execgate/execution"
)

// tunnel carries TLS that is not read to the one host that the program's hello
// names, which has to be the one of d.
func (b *Broker) tunnel(ctx context.Context, job *execution.Job, a *account, d destination, authority *tls.Certificate, conn net.Conn) {
	whole, code := readHello(ctx, conn, d.host)
	if code == "" {
		if code = a.begin(time.Now()); code == "" {
			defer a.release()
		}
	}
	var addresses []netip.Addr
	if code == "" {
		addresses, code = b.lookUp(ctx, d.host, d.rule.Private)
	}
	switch {
	case code == "":
		b.forward(ctx, job, a, d, addresses, whole)
	case whole == nil || code == codeNotTLS:
		b.refuse(ctx, job, a, d, question{}, code)
	default:
		b.explain(ctx, job, a, d, authority, code, whole)
	}
}
