package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
)

// gate stands between a gateway and an engine, and stops at one request or at
// its answer, so that a fault lands there and nowhere else.
type gate struct {
	path   string // of its own socket
	engine string // of the engine's

	mu   sync.Mutex
	trap *trap
	deaf bool // what is said to sandboxes does not arrive
	cue  []byte
}

// trap is one place in the talk with the engine: a request whose first line
// matches, on its way there, or its answer on the way back.
type trap struct {
	request *regexp.Regexp
	answer  bool
	// sprung is called once, with the request or the answer held back until it
	// returns. It reports whether what was held may go on.
	sprung func() bool
}

func newGate(t testing.TB, engine string) *gate {
	t.Helper()
	dir, err := os.MkdirTemp("", "eggate") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{path: filepath.Join(dir, "engine.sock"), engine: engine}
	listener, err := net.Listen("unix", g.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			front, err := listener.Accept()
			if err != nil {
				return
			}
			go g.carry(front)
		}
	}()
	return g
}

func (g *gate) address() string { return "unix://" + g.path }

// set lays a trap, for one time, in the place of the one that was; an empty request lays
// none.
func (g *gate) set(request string, answer bool, sprung func() bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trap = nil; request != "" {
		g.trap = &trap{regexp.MustCompile(request), answer, sprung}
	}
}

// deafen has every agent hear nothing any more once one of them has said cue;
// an empty one has them hear again.
func (g *gate) deafen(cue string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deaf, g.cue = false, []byte(cue)
}

// overhear looks for the cue in what sandboxes say.
func (g *gate) overhear(piece []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.cue) > 0 && bytes.Contains(piece, g.cue) {
		g.deaf = true
	}
}

func (g *gate) isDeaf() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deaf
}

// spring takes the trap if what passes is what it waits for.
func (g *gate) spring(line []byte) *trap {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.trap; t != nil && t.request.Match(line) {
		g.trap = nil
		return t
	}
	return nil
}

// carry serves one connection until one side ends it. A request's first line
// comes in one piece: net/http writes a request's header at once.
func (g *gate) carry(front net.Conn) {
	defer front.Close()
	back, err := net.Dial("unix", g.engine)
	if err != nil {
		return
	}
	defer back.Close()
	held := make(chan *trap, 1) // whose answer is to be held
	go func() {
		attached := false
		pass(back, front, func(piece []byte) (forward, goOn bool) {
			if attached {
				return !g.isDeaf(), true
			}
			line, _, _ := bytes.Cut(piece, []byte("\r\n"))
			attached = bytes.Contains(line, []byte("/attach?"))
			t := g.spring(line)
			if t == nil {
				return true, true
			}
			if t.answer {
				held <- t
				return true, true
			}
			goOn = t.sprung()
			return goOn, goOn
		})
	}()
	pass(front, back, func(piece []byte) (forward, goOn bool) {
		g.overhear(piece)
		select {
		case t := <-held:
			goOn = t.sprung()
			return goOn, goOn
		default:
			return true, true
		}
	})
}

// pass copies one way, each piece as look says, for as long as that goes on.
func pass(to, from net.Conn, look func([]byte) (forward, goOn bool)) {
	defer to.(*net.UnixConn).CloseWrite()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			forward, goOn := look(buffer[:n])
			if !goOn {
				return
			}
			if forward {
				if _, err := to.Write(buffer[:n]); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}
