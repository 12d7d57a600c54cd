package egress

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
)

// maxTrailer bounds the trailer of a body in chunks, and maxChunkLine the line that
// says how long a chunk is; in bytes.
const (
	maxTrailer   = 8 << 10
	maxChunkLine = 18
)

var errChunks = errors.New("the body's chunks are malformed")

// place is where a guard is in what the program sends.
type place int

const (
	atHead place = iota
	inBody
	atChunk    // the line of a chunk
	inChunk    // its bytes
	afterChunk // its line end
	atTrailer
	passing // a protocol that was agreed upon: nothing is looked at
	ended
)

// guard reads requests of HTTP/1 before net/http does, which is lenient: it passes on
// whole heads that have one reading. One that has not is replaced by a request
// that says so in refusedHeader, and is the last.
type guard struct {
	net.Conn
	in      []byte // read, not looked at
	out     []byte // looked at
	scanned int    // of in
	at      place
	left    int64 // of the body or chunk
	err     error
	broken  atomic.Bool // a body's chunks are malformed
	scratch [1 << 10]byte
}

// Read implements net.Conn. A timeout changes nothing.
func (g *guard) Read(p []byte) (int, error) {
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case len(g.out) > 0:
			n := copy(p, g.out)
			if g.out = g.out[n:]; len(g.out) == 0 {
				g.out = nil
			}
			return n, nil
		case g.at == ended:
			return 0, g.err
		case len(g.in) == 0 && (g.at == inBody || g.at == inChunk):
			n, err := g.Conn.Read(p[:min(int64(len(p)), g.left)])
			g.pass(int64(n))
			return n, err
		case len(g.in) == 0 && g.at == passing:
			return g.Conn.Read(p)
		case len(g.in) > 0 && g.step():
			continue
		}
		n, err := g.Conn.Read(g.scratch[:])
		g.in = append(g.in, g.scratch[:n]...)
		if n == 0 && err != nil {
			return 0, err
		}
	}
}

// CloseWrite ends this way of the connection where that can be.
func (g *guard) CloseWrite() error {
	if half, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// upgraded ends the looking, for a protocol that was agreed upon.
func (g *guard) upgraded() { g.at = passing }

// step looks at some of what was read, and reports whether that was enough to get
// anywhere.
func (g *guard) step() bool {
	switch g.at {
	case atHead:
		return g.head()
	case inBody, inChunk:
		n := min(int64(len(g.in)), g.left)
		g.give(int(n))
		g.pass(n)
	case passing:
		g.give(len(g.in))
	case atChunk:
		return g.chunk()
	case afterChunk:
		if len(g.in) < 2 {
			return false
		}
		if string(g.in[:2]) != "\r\n" {
			return g.fail()
		}
		g.give(2)
		g.at = atChunk
	case atTrailer:
		return g.trailer()
	}
	return true
}

// give hands the next n bytes out.
func (g *guard) give(n int) {
	g.out = append(g.out, g.in[:n]...)
	g.in, g.scanned = g.in[n:], 0
	if len(g.in) == 0 {
		g.in = nil
	}
}

// pass notes that n bytes of a body or chunk went by.
func (g *guard) pass(n int64) {
	if g.left -= n; g.left > 0 {
		return
	}
	if g.at == inChunk {
		g.at = afterChunk
	} else {
		g.at = atHead
	}
}

// fail ends a body that is malformed.
func (g *guard) fail() bool {
	g.in, g.at, g.err = nil, ended, errChunks
	g.broken.Store(true)
	return true
}

// lines scans for the empty line that ends a block, and returns the block's length,
// -1 where more has to be read. ok is false where a line ends otherwise than in CRLF.
func (g *guard) lines() (n int, ok bool) {
	for i := g.scanned; i < len(g.in); i++ {
		if g.in[i] == '\r' && i+1 < len(g.in) && g.in[i+1] != '\n' || g.in[i] == '\n' && (i == 0 || g.in[i-1] != '\r') {
			return -1, false
		}
		if g.in[i] == '\n' && (i == 1 || i >= 3 && g.in[i-2] == '\n') {
			return i + 1, true
		}
	}
	g.scanned = max(0, len(g.in)-1) // a CR at the end is looked at again
	return -1, true
}

func (g *guard) head() bool {
	n, ok := g.lines()
	code := ""
	var f framing
	switch {
	case !ok:
		code = codeLineEnd
	case n > maxHead || n < 0 && len(g.in) > maxHead:
		code = codeHeadTooLarge
	case n < 0:
		return false
	default:
		f, code = checkHead(g.in[:n])
	}
	if code != "" {
		g.out = []byte("GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n" + refusedHeader + ": " + code + "\r\n\r\n")
		g.in, g.at, g.err = nil, ended, io.EOF
		return true
	}
	g.give(n)
	switch {
	case f.chunked:
		g.at = atChunk
	case f.length > 0:
		g.at, g.left = inBody, f.length
	}
	return true
}

// chunk reads the line of a chunk. Extensions, which nobody uses and servers read
// differently, are refused.
func (g *guard) chunk() bool {
	end := bytes.IndexByte(g.in, '\n')
	if end < 0 {
		if len(g.in) > maxChunkLine {
			return g.fail()
		}
		return false
	}
	digits, ok := strings.CutSuffix(string(g.in[:end]), "\r")
	n, err := strconv.ParseInt(digits, 16, 64)
	if !ok || err != nil || strings.Trim(digits, "0123456789abcdefABCDEF") != "" {
		return g.fail()
	}
	g.give(end + 1)
	if g.at, g.left = inChunk, n; n == 0 {
		g.at = atTrailer
	}
	return true
}

func (g *guard) trailer() bool {
	n, ok := g.lines()
	switch {
	case !ok || n > maxTrailer || n < 0 && len(g.in) > maxTrailer:
		return g.fail()
	case n < 0:
		return false
	case n > 2:
		for _, line := range strings.Split(string(g.in[:n-4]), "\r\n") {
			if _, _, code := checkField(line); code != "" {
				return g.fail()
			}
		}
	}
	g.give(n)
	g.at = atHead
	return true
}
