package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// MaxConnections is the most outbound connections of one sandbox at once, since
// each may fill a window of yamux in the gateway (256 KiB). It bounds what a
// grant says.
const MaxConnections = 128

// Outbound is where an outbound connection is to go, and what its stream begins
// with: the round as 32 bits, the port as 16, the length of the name as 8, all
// big endian, and the name.
type Outbound struct {
	Round uint32 // of the program that connects, as in Start
	Name  string // see ValidName
	Port  uint16 // 0: nothing is carried, the program looks the name up (see Find)
}

const outboundHeader = 4 + 2 + 1

// maxName is the most that a name has as text (RFC 1035, section 2.3.4), and
// maxLabel the most of each part of it.
const (
	maxName  = 253
	maxLabel = 63
)

// ValidName reports whether name has the form of a host's: labels of lower case
// letters, digits, hyphens and underscores, without a dot at the end.
func ValidName(name string) bool {
	if len(name) > maxName {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || strings.ContainsFunc(label, notInLabel) {
			return false
		}
	}
	return true
}

func notInLabel(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// Append appends the header of o.
func (o Outbound) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, o.Round)
	b = binary.BigEndian.AppendUint16(b, o.Port)
	return append(append(b, byte(len(o.Name))), o.Name...)
}

func (o Outbound) valid() error {
	if !ValidName(o.Name) {
		return fmt.Errorf("outbound connection to port %d of %.300q", o.Port, o.Name)
	}
	return nil
}

// ReadOutbound reads the header of an outbound connection and nothing after it.
func ReadOutbound(r io.Reader) (Outbound, error) {
	var head [outboundHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Outbound{}, fmt.Errorf("header of an outbound connection: %w", err)
	}
	name := make([]byte, head[6])
	if _, err := io.ReadFull(r, name); err != nil {
		return Outbound{}, fmt.Errorf("header of an outbound connection: %w", err)
	}
	o := Outbound{Round: binary.BigEndian.Uint32(head[:]), Port: binary.BigEndian.Uint16(head[4:]), Name: string(name)}
	if err := o.valid(); err != nil {
		return Outbound{}, err
	}
	return o, nil
}

// OpenOutbound opens an outbound connection, from the agent's side. It may wait
// for the gateway to take others first.
func (s *Session) OpenOutbound(o Outbound) (*Conn, error) {
	if err := o.valid(); err != nil {
		return nil, err
	}
	stream, err := s.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("open outbound connection: %w", err)
	}
	c := newConn(stream, s.burst.flush)
	if _, err := stream.Write(o.Append([]byte{byte(KindOutbound)})); err != nil {
		c.Abort()
		return nil, fmt.Errorf("open outbound connection: %w", err)
	}
	return c, s.burst.flush()
}

// Find asks the gateway whether a name is to be found, from the agent's side, on a
// connection of port 0: by one byte, after which it ends.
func (c *Conn) Find(limit time.Duration) (bool, error) {
	c.SetReadDeadline(time.Now().Add(limit))
	answer, err := io.ReadAll(io.LimitReader(c, 2))
	if err != nil {
		return false, fmt.Errorf("look a name up: %w", err)
	}
	if len(answer) != 1 || answer[0] > 1 {
		return false, fmt.Errorf("look a name up: the gateway answers %q", answer)
	}
	return answer[0] == 1, nil
}

// Found answers Find.
func (c *Conn) Found(found bool) error {
	answer := []byte{0}
	if found {
		answer[0] = 1
	}
	if _, err := c.Write(answer); err != nil {
		return err
	}
	return c.CloseWrite()
}

// LetOutbound says whether the sandbox may open outbound connections from now
// on. At first it may not. One that does all the same loses the session.
func (s *Session) LetOutbound(may bool) {
	s.admission.mu.Lock()
	defer s.admission.mu.Unlock()
	s.admission.may = may
}

// AcceptOutbound waits for the next stream that the sandbox opens. It holds back
// the sandbox, which must not open more than a few that were not accepted.
func (s *Session) AcceptOutbound() (*Conn, error) {
	stream, err := s.mux.AcceptStream()
	if err != nil {
		return nil, fmt.Errorf("accept outbound connection: %w", err)
	}
	s.admission.accepted()
	return newConn(stream, s.burst.flush), nil
}

// Header reads what an accepted connection begins with, within limit. After an
// error that is no timeout the sandbox has broken the protocol.
func (c *Conn) Header(limit time.Duration) (Outbound, error) {
	c.stream.SetReadDeadline(time.Now().Add(limit))
	defer c.SetReadDeadline(time.Time{})
	kind, err := c.in.ReadByte()
	if err != nil {
		return Outbound{}, fmt.Errorf("header of an outbound connection: %w", err)
	}
	if Kind(kind) != KindOutbound {
		return Outbound{}, fmt.Errorf("the sandbox opens a stream of kind %d", kind)
	}
	return ReadOutbound(c.in)
}

// Late reports whether err is that nothing came in time, or no more comes.
func Late(err error) bool {
	return errors.Is(err, yamux.ErrTimeout) || errors.Is(err, yamux.ErrSessionShutdown) || errors.Is(err, io.EOF)
}

// acceptBacklog is how many streams either side may open before the other has
// accepted any of them. yamux opens no more either.
const acceptBacklog = 16

// admission says which streams a sandbox may open.
type admission struct {
	mu      sync.Mutex
	may     bool
	waiting int // to be accepted
}

// open refuses a stream that the sandbox opens where it may not.
func (a *admission) open(typ byte, id uint32) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting++
	switch {
	case !a.may:
		return errors.New("the sandbox opens a stream")
	case typ != muxWindowUpdate || id == 0 || id%2 != 0: // even numbers are its own
		return errors.New("the sandbox opens a stream as it must not")
	case a.waiting > acceptBacklog+1: // one may be acknowledged and not counted yet
		return fmt.Errorf("the sandbox opens more than %d streams at once", acceptBacklog)
	}
	return nil
}

func (a *admission) accepted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting--
}
