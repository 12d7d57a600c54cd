package wire

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/yamux"
)

// Kind is what a stream of the session carries. It is the stream's first byte.
type Kind byte

// The kinds. The numbers are part of the protocol.
const (
	KindControl Kind = 1
	KindStdin   Kind = 2
	KindStdout  Kind = 3
	KindStderr  Kind = 4
	// KindOutbound is the one that the agent opens: a connection that the program
	// has made, see Outbound and Conn.
	KindOutbound Kind = 5
)

// writeTimeout ends a session whose other side reads nothing at all. It is not
// a deadline of the execution: those are the gateway's, kept through the engine.
const writeTimeout = 30 * time.Second

// Session is one side of the stream between the gateway and a sandbox.
type Session struct {
	mux       *yamux.Session
	burst     *burst
	admission *admission // of the gateway's side
}

// Dial starts the gateway's side over conn and owns conn from then on. The
// other side may do nothing but answer on the streams that this one opens, until
// LetOutbound lets it open some too.
func Dial(conn io.ReadWriteCloser) (*Session, error) {
	b := newBurst(conn)
	admission := &admission{}
	mux, err := yamux.Client(&guard{ReadWriteCloser: b, admission: admission}, config())
	return wrap(mux, b, admission, err)
}

// Serve starts the agent's side over conn and owns conn from then on.
func Serve(conn io.ReadWriteCloser) (*Session, error) {
	b := newBurst(conn)
	mux, err := yamux.Server(b, config())
	return wrap(mux, b, &admission{}, err)
}

func wrap(mux *yamux.Session, b *burst, admission *admission, err error) (*Session, error) {
	if err != nil {
		return nil, fmt.Errorf("start session: %w", err)
	}
	return &Session{mux, b, admission}, nil
}

func config() *yamux.Config {
	c := yamux.DefaultConfig()
	// Keepalive is off: silence is judged by the gateway's own deadlines, and a
	// program may starve the agent of CPU for longer than any keepalive waits.
	c.EnableKeepAlive = false
	c.StreamOpenTimeout = 0
	c.ConnectionWriteTimeout = writeTimeout
	c.AcceptBacklog = acceptBacklog
	c.LogOutput = io.Discard
	return c
}

// Open opens a stream of the given kind.
func (s *Session) Open(kind Kind) (net.Conn, error) {
	stream, err := s.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open stream %d: %w", kind, err)
	}
	if _, err := stream.Write([]byte{byte(kind)}); err != nil {
		stream.Close()
		return nil, fmt.Errorf("open stream %d: %w", kind, err)
	}
	return s.conn(kind, stream), nil
}

// Accept waits for the next stream that the other side opens.
func (s *Session) Accept() (Kind, net.Conn, error) {
	stream, err := s.mux.AcceptStream()
	if err != nil {
		return 0, nil, fmt.Errorf("accept stream: %w", err)
	}
	var kind [1]byte
	if _, err := io.ReadFull(stream, kind[:]); err != nil {
		stream.Close()
		return 0, nil, fmt.Errorf("accept stream: %w", err)
	}
	return Kind(kind[0]), s.conn(Kind(kind[0]), stream), nil
}

// conn is stream as its users see it.
func (s *Session) conn(kind Kind, stream net.Conn) net.Conn {
	if kind != KindControl {
		return stream
	}
	return &prompt{Conn: stream, flush: s.burst.flush}
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends the session and everything on it.
func (s *Session) Close() error { return s.mux.Close() }
