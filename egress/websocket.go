package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/execgate/execgate/scrub"
)

// socket carries the bytes of a WebSocket both ways, after the destination has agreed
// to it. Its frames are searched on the way in as they come, best effort: one that has
// a secret cannot be changed without breaking the frames, and ends the connection.
func (x *exchange) socket(res *http.Response, known *scrub.Set) string {
	destination, ok := res.Body.(io.ReadWriteCloser)
	if !ok || !x.q.socket {
		return codeUpstream
	}
	conn, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return codeUpgradeRefused
	}
	defer conn.Close()
	x.begun = true
	if g, ok := conn.(*guard); ok {
		g.upgraded()
	}
	accept, protocol := res.Header.Values("Sec-WebSocket-Accept"), res.Header.Values("Sec-WebSocket-Protocol")
	head := &http.Response{StatusCode: res.StatusCode, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}}
	for _, value := range accept {
		head.Header.Add("Sec-WebSocket-Accept", known.Text(value))
	}
	for _, value := range protocol {
		head.Header.Add("Sec-WebSocket-Protocol", known.Text(value))
	}
	if err := head.Write(conn); err != nil {
		return codeDisconnected
	}
	d := &duplex{x: x, program: conn, destination: destination}
	defer context.AfterFunc(x.ctx, func() { d.stop(x.failure(nil, codeBroken)) })()
	var out sync.WaitGroup
	out.Go(func() { d.copyOut(io.MultiReader(io.LimitReader(buffered, int64(buffered.Reader.Buffered())), conn)) })
	d.copyIn(known)
	out.Wait()
	return d.code
}

// duplex is a WebSocket under way.
type duplex struct {
	x           *exchange
	program     net.Conn
	destination io.ReadWriteCloser

	once sync.Once
	code string
}

// stop ends both ways. The first code counts.
func (d *duplex) stop(code string) {
	d.once.Do(func() {
		d.code = code
		_ = d.program.SetDeadline(time.Unix(1, 0)) // before it is closed: TLS takes leave, which may take long
		_ = d.program.Close()                      // whatever they say, nobody uses them any more
		_ = d.destination.Close()
	})
}

func (d *duplex) copyOut(from io.Reader) {
	d.x.body.from = from
	_, err := io.CopyBuffer(struct{ io.Writer }{d.destination}, struct{ io.Reader }{d.x.body}, make([]byte, 16<<10))
	d.stop(d.ending(err))
}

func (d *duplex) copyIn(known *scrub.Set) {
	wire := &tripwire{to: d.program}
	w := scrub.NewWriter(wire, known)
	buffer := make([]byte, 16<<10)
	for {
		n, err := d.destination.Read(buffer)
		d.x.watch.touch()
		granted := d.x.account.take(int64(n))
		d.x.in += granted
		d.x.broker.counts.bytesIn.Add(granted)
		if granted < int64(n) {
			err = errBytesSpent
		}
		if failed := d.search(w, wire, buffer[:granted], &known); failed != nil {
			err = failed
		}
		if err != nil {
			d.stop(d.ending(err))
			return
		}
	}
}

// search writes p to the program, through w and wire.
func (d *duplex) search(w *scrub.Writer, wire *tripwire, p []byte, known **scrub.Set) error {
	if now := d.x.account.known(); now != *known {
		*known = now
		if err := w.Use(now); err != nil {
			return err
		}
	}
	if _, err := w.Write(p); err != nil {
		return err
	}
	wire.due += int64(len(p))
	if wire.shown.may(w.Held(), len(p)) {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return wire.pass(w.Held())
}

// tripwire is between a scrub.Writer and a program that must get what came, or none
// of it.
type tripwire struct {
	to      io.Writer
	due     int64 // bytes that came
	passed  int64
	pending []byte
	shown   shown
}

// Write implements io.Writer.
func (t *tripwire) Write(p []byte) (int, error) {
	t.pending = append(t.pending, p...)
	return len(p), nil
}

// pass writes what is pending, unless it is not what came: then its length differs.
func (t *tripwire) pass(held int) error {
	if t.due-int64(held) != t.passed+int64(len(t.pending)) {
		return errReflected
	}
	t.passed += int64(len(t.pending))
	_, err := t.to.Write(t.pending)
	t.pending = t.pending[:0]
	return err
}

// ending is the code of what ended one way.
func (d *duplex) ending(err error) string {
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return ""
	case errors.Is(err, errReflected):
		return codeSecretReflected
	}
	return d.x.failure(err, codeBroken)
}

var errReflected = errors.New("a secret came back")
