package wire

import (
	"encoding/binary"
	"fmt"
	"io"
)

// guard looks at the headers of yamux that a sandbox sends
// (github.com/hashicorp/yamux/blob/master/spec.md) and ends the stream at the
// first that has no place here. yamux would serve them: a goroutine for each
// ping, which a sandbox that reads nothing keeps alive, and a window for each
// stream that is opened, though a sandbox opens none but those that admission
// lets it.
type guard struct {
	io.ReadWriteCloser
	admission *admission
	header    [muxHeaderSize]byte
	have      int    // bytes of header read so far
	skip      uint32 // bytes of payload still to come
}

// The header of yamux: version, type, flags as 16 bits, stream and length as
// 32 bits.
const (
	muxHeaderSize = 12

	muxVersion      = 0
	muxData         = 0
	muxWindowUpdate = 1
	muxGoAway       = 3
	muxSYN          = 1
)

// Read implements io.Reader.
func (g *guard) Read(p []byte) (int, error) {
	n, err := g.ReadWriteCloser.Read(p)
	if refusal := g.look(p[:n]); refusal != nil {
		return 0, refusal
	}
	return n, err
}

func (g *guard) look(p []byte) error {
	for len(p) > 0 {
		if g.skip > 0 {
			n := min(len(p), int(g.skip))
			g.skip -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(g.header[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have < muxHeaderSize {
			return nil
		}
		g.have = 0
		version, typ := g.header[0], g.header[1]
		flags, length := binary.BigEndian.Uint16(g.header[2:]), binary.BigEndian.Uint32(g.header[8:])
		if version == muxVersion && flags&muxSYN != 0 {
			if err := g.admission.open(typ, binary.BigEndian.Uint32(g.header[4:])); err != nil {
				return err
			}
		}
		switch {
		case version != muxVersion:
			return fmt.Errorf("session of version %d", version)
		case typ == muxData:
			g.skip = length
		case typ != muxWindowUpdate && typ != muxGoAway:
			return fmt.Errorf("session message of type %d", typ)
		}
	}
	return nil
}
