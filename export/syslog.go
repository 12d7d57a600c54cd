package export

import (
	"context"
	"crypto/tls"
	"net"
	"strconv"
	"time"
)

// maxOverlap bounds the bytes that are kept to be sent again. It is more than Linux by itself
// buffers of one connection (tcp(7), tcp_rmem).
const maxOverlap = 16 << 20

// syslog sends messages over TLS, each behind the count of its octets (RFC 5425). The
// protocol has no acknowledgement. A message counts as delivered once the machine of the
// receiver has it, which TCP tells; the receiver itself may die before it has read it. So
// what was sent in the last ten seconds, up to 16 MiB, is kept, and sent again first
// thing after a connection broke; and the cursor does not pass it while it is kept.
type syslog struct {
	address string
	tls     *tls.Config
	pace    pace

	conn    *connection
	overlap []sent // in their order
	kept    int    // bytes of overlap
}

// sent is a batch that was delivered.
type sent struct {
	b  batch
	at time.Time
}

func newSyslog(s Sink, p pace) (*syslog, error) {
	cfg, err := tlsOf(s)
	if err != nil {
		return nil, err
	}
	if cfg.ServerName, _, err = net.SplitHostPort(s.Address); err != nil {
		return nil, err
	}
	return &syslog{address: s.Address, tls: cfg, pace: p}, nil
}

// send implements outlet. Without a record it sends again what may be lost.
func (s *syslog) send(ctx context.Context, b batch) error {
	if s.conn != nil && s.conn.broken() {
		s.drop()
	}
	if s.conn == nil {
		conn, err := dial(ctx, s.address, s.tls, s.pace.attempt)
		if err != nil {
			return err
		}
		s.conn = conn
		for i := range s.overlap {
			if err := s.write(ctx, s.overlap[i].b); err != nil {
				return err
			}
			s.overlap[i].at = time.Now()
		}
	}
	if err := s.write(ctx, b); err != nil {
		return err
	}
	if err := s.conn.taken(ctx); err != nil {
		s.drop()
		return err
	}
	if len(b.items) == 0 {
		return nil
	}
	s.overlap = append(s.overlap, sent{b, time.Now()})
	s.kept += b.bytes
	for s.kept > maxOverlap && len(s.overlap) > 1 {
		s.forget()
	}
	return nil
}

// lost reports whether something that was sent may not have been read, and is not sent
// again by itself.
func (s *syslog) lost() bool { return len(s.overlap) > 0 && (s.conn == nil || s.conn.broken()) }

func (s *syslog) write(ctx context.Context, b batch) error {
	text := make([]byte, 0, b.bytes+8*len(b.items))
	for _, i := range b.items {
		text = append(strconv.AppendInt(text, int64(len(i.text)), 10), ' ')
		text = append(text, i.text...)
	}
	err := s.conn.write(ctx, text)
	if err != nil {
		s.drop()
	}
	return err
}

func (s *syslog) drop() {
	s.conn.close()
	s.conn = nil
}

func (s *syslog) forget() {
	s.kept -= s.overlap[0].b.bytes
	s.overlap = s.overlap[1:]
}

// settled implements outlet. What was sent long enough ago, by a connection that is well
// still, was read.
func (s *syslog) settled(next uint64) uint64 {
	if s.conn != nil && !s.conn.broken() {
		for len(s.overlap) > 0 && time.Since(s.overlap[0].at) >= s.pace.settle {
			s.forget()
		}
	}
	if len(s.overlap) > 0 {
		return min(next, s.overlap[0].b.items[0].seq)
	}
	return next
}

func (s *syslog) close() {
	if s.conn != nil {
		s.drop()
	}
}
