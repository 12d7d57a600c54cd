package egress

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/execgate/execgate/execution"
)

// Codes of ends, where a connection that was allowed did not end by either side's
// end. codeBytesSpent is one too.
const (
	codeDialFailed  = "dial_failed"
	codeDialTimeout = "dial_timeout"
	codeCancelled   = "cancelled" // the execution ended
	codeIdle        = "idle_timeout"
	codeBroken      = "broken" // a side's connection failed

	codeUnrecorded = "audit_unavailable" // of a denial: the decision could not be recorded
)

// forwardTo carries the bytes of a connection to a destination that is open.
func (b *Broker) forwardTo(ctx context.Context, job *execution.Job, a *account, d destination, conn net.Conn) {
	code := a.begin(time.Now())
	if code == "" {
		defer a.release()
		var addresses []netip.Addr
		if addresses, code = b.lookUp(ctx, d.host, d.rule.Private); code == "" {
			b.forward(ctx, job, a, d, addresses, conn)
			return
		}
	}
	b.refuse(ctx, job, a, d, question{}, code)
}

// forward connects to the first of addresses, which are checked, that answers, and
// carries bytes until either side ends. Each address that is tried is recorded
// before, and the end of the attempt after.
func (b *Broker) forward(ctx context.Context, job *execution.Job, a *account, d destination, addresses []netip.Addr, conn net.Conn) {
	deadline := time.Now().Add(b.dialTimeout)
	code := ""
	for i, addr := range addresses {
		to := netip.AddrPortFrom(addr, uint16(d.port))
		seq, err := b.records.allowed(ctx, job, d, question{}, "", to)
		if err != nil {
			b.counts.end(execution.EffectDeny, codeUnrecorded)
			return
		}
		began := time.Now()
		end := execution.EgressEnded{DecidedSeq: seq}
		share := time.Until(deadline) / time.Duration(len(addresses)-i)
		upstream, err := dial(ctx, to, max(share, time.Millisecond))
		if err != nil {
			code = dialCode(ctx, err)
		} else {
			r := relay{conn: conn, upstream: upstream, idle: b.idleTimeout, account: a, counts: &b.counts, began: began}
			code = r.run(ctx)
			end.BytesOut, end.BytesIn = r.out.Load(), r.in.Load()
		}
		end.WallMS, end.Error = time.Since(began).Milliseconds(), code
		b.records.ended(ctx, job, end)
		if err == nil || code == codeCancelled {
			break
		}
	}
	b.counts.end(execution.EffectAllow, code)
}
