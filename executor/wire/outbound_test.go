package wire_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/executor/wire"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
)

func TestValidName(t *testing.T) {
	label := strings.Repeat("a", 63)
	for name, want := range map[string]bool{
		"db": true, "api.github.com": true, "xn--bcher-kva.example": true, "_srv._tcp.example": true, "1.2.3.4": true,
		label + "." + label + "." + label + "." + label[:61]: true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "A.example": false, "a b": false, "a/b": false, "a:1": false,
		"a\x00": false, "é": false, "*.example": false, label + "a": false, "a%2e": false, "user@host": false,
		label + "." + label + "." + label + "." + label[:62]: false,
	} {
		if got := wire.ValidName(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

// FuzzOutbound reads headers as a sandbox could write them: what is taken has its
// form, and is written again as it was.
func FuzzOutbound(f *testing.F) {
	f.Add(wire.Outbound{Round: 1, Name: "api.example", Port: 443}.Append(nil))
	f.Add([]byte{0, 0, 0, 1, 0, 0, 1, 'a'})
	f.Add([]byte{0, 0, 0, 1, 1, 187, 255, 'a'})
	f.Fuzz(func(t *testing.T, input []byte) {
		rest := bytes.NewReader(input)
		o, err := wire.ReadOutbound(rest)
		if err != nil {
			return
		}
		if !wire.ValidName(o.Name) {
			t.Fatalf("%+v came through", o)
		}
		if again := o.Append(nil); !bytes.Equal(again, input[:len(input)-rest.Len()]) {
			t.Fatalf("%q became %q", input, again)
		}
	})
}

// outbound joins both sides of a connection that the agent opens.
func outbound(t *testing.T) (theirs, ours *wire.Conn) {
	t.Helper()
	gateway, agent := sessions(t, nil)
	gateway.LetOutbound(true)
	opened := make(chan error, 1)
	go func() {
		var err error
		theirs, err = agent.OpenOutbound(wire.Outbound{Round: 7, Name: "api.example", Port: 443})
		opened <- err
	}()
	ours, err := gateway.AcceptOutbound()
	if err = errors.Join(err, <-opened); err != nil {
		t.Fatal(err)
	}
	o, err := ours.Header(time.Minute)
	if want := (wire.Outbound{Round: 7, Name: "api.example", Port: 443}); err != nil || o != want {
		t.Fatalf("%+v, %v", o, err)
	}
	return theirs, ours
}

// sessions joins the sides of a session; what the agent writes is also written to
// also, where there is one.
func sessions(t *testing.T, also io.Writer) (gateway, agent *wire.Session) {
	t.Helper()
	a, b := net.Pipe()
	gateway, err := wire.Dial(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { gateway.Close() })
	if also != nil {
		b = tee{b, also}
	}
	agent, err = wire.Serve(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close() })
	return gateway, agent
}

type tee struct {
	net.Conn
	also io.Writer
}

func (c tee) Write(p []byte) (int, error) {
	c.also.Write(p)
	return c.Conn.Write(p)
}

// The bytes of an outbound stream are a contract between two binaries.
func TestOutboundIsGolden(t *testing.T) {
	var sent bytes.Buffer
	gateway, agent := sessions(t, &sent)
	gateway.LetOutbound(true)
	accepted := make(chan []byte, 1)
	go func() {
		conn, err := gateway.AcceptOutbound()
		if err != nil {
			return
		}
		conn.Header(time.Minute)
		content, _ := io.ReadAll(conn)
		accepted <- content
	}()
	conn, err := agent.OpenOutbound(wire.Outbound{Round: 2, Name: "db.internal", Port: 5432})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "SELECT 1")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := <-accepted; string(got) != "SELECT 1" {
		t.Errorf("%q came", got)
	}
	path := filepath.Join("testdata", "outbound.stream")
	if *update {
		if err := os.WriteFile(path, sent.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, sent.Bytes()); diff != "" {
		t.Errorf("stream differs from %s (-want +got):\n%s", path, diff)
	}
}

// Either way may end while the other goes on, with flow control.
func TestConnClosesEachWayAlone(t *testing.T) {
	theirs, ours := outbound(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than a window
	go func() {
		theirs.Write(sent)
		theirs.CloseWrite()
	}()
	got, err := io.ReadAll(ours)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d came, error %v", len(got), len(sent), err)
	}
	go func() {
		ours.Write(sent)
		ours.Close()
	}()
	got, err = io.ReadAll(theirs)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d came back, error %v", len(got), len(sent), err)
	}
	if _, err := theirs.Write([]byte("x")); err == nil {
		t.Error("a connection that has ended its way is written to")
	}
	theirs.Close()
	if !ours.Drain(1) {
		t.Error("the end of both ways is not seen")
	}
}

// What was written before a connection is closed arrives though it is read late.
func TestConnCloseLosesNothing(t *testing.T) {
	theirs, ours := outbound(t)
	const size = 300 << 10 // more than a window
	closed := make(chan error, 1)
	go func() {
		ours.Write(make([]byte, size))
		closed <- ours.Close()
	}()
	got, err := io.ReadAll(theirs)
	if len(got) != size || err != nil {
		t.Errorf("%d bytes of %d, %v", len(got), size, err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A connection that one side gives up ends at once for the other, whatever it
// waits for.
func TestConnReset(t *testing.T) {
	reads := func(c *wire.Conn) error { _, err := io.Copy(io.Discard, c); return err }
	writes := func(c *wire.Conn) error {
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				return err
			}
		}
	}
	for name, c := range map[string]struct {
		before func(ours *wire.Conn)
		waits  func(theirs *wire.Conn) error
	}{
		"while the other reads": {func(*wire.Conn) {}, reads},
		"while it writes, and has read the end": {
			func(ours *wire.Conn) { ours.CloseWrite() },
			func(theirs *wire.Conn) error { reads(theirs); return writes(theirs) },
		},
		"while it does both": {func(*wire.Conn) {}, func(theirs *wire.Conn) error {
			go reads(theirs)
			return writes(theirs)
		}},
	} {
		theirs, ours := outbound(t)
		ended := make(chan error, 1)
		c.before(ours)
		go func() { ended <- c.waits(theirs) }()
		ours.Abort()
		if err := <-ended; err == nil {
			t.Errorf("%s: it ends as if all had come", name)
		}
		if _, err := ours.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: it is read after that", name)
		}
	}
}

// Abort frees those of this side who wait, also in Close.
func TestConnAbortFreesItsOwnSide(t *testing.T) {
	_, ours := outbound(t)
	read, written, closed := make(chan error, 1), make(chan error, 1), make(chan error, 1)
	go func() { _, err := ours.Read(make([]byte, 1)); read <- err }()
	go func() { _, err := ours.Write(make([]byte, 1<<20)); written <- err }()
	ours.Abort()
	if err := <-read; err == nil {
		t.Error("a read ends well")
	}
	if err := <-written; err == nil {
		t.Error("a write ends well")
	}
	_, ours = outbound(t)
	ours.Write(make([]byte, 256<<10-2*17)) // the window is full
	go func() { closed <- ours.Close() }()
	ours.Abort()
	<-closed
}

// A deadline that passes within a piece loses nothing.
func TestConnReadDeadline(t *testing.T) {
	theirs, ours := outbound(t)
	ours.SetReadDeadline(time.Unix(1, 0))
	var timeout net.Error
	if _, err := ours.Read(make([]byte, 9)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v", err)
	}
	ours.SetReadDeadline(time.Time{})
	io.WriteString(theirs, "late")
	theirs.CloseWrite()
	if got, err := io.ReadAll(ours); string(got) != "late" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// net/http ends its wait for the next request with a deadline whenever it has answered
// one: a connection must be one of which TLS then goes on, or each request needs its
// own.
func TestConnKeepsRequestsOfTLS(t *testing.T) {
	theirs, ours := outbound(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	server.Listener.Close()
	accepted := make(chan net.Conn, 1)
	accepted <- ours
	server.Listener = handed{accepted}
	server.StartTLS()
	defer server.Close()
	defer close(accepted)
	trusted := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	trusted.ServerName = "example.com"
	client := tls.Client(theirs, trusted)
	answers := bufio.NewReader(client)
	for i := range 500 { // not always does it wait by then
		text := strconv.Itoa(i)
		request, err := http.NewRequest(http.MethodPost, server.URL, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := request.Write(client); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(answers, request)
		if err != nil {
			t.Fatalf("the connection was not kept: %v", err)
		}
		got, err := io.ReadAll(answer.Body)
		if answer.Body.Close(); string(got) != text || err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// handed is a listener of connections that were made otherwise.
type handed struct{ conns chan net.Conn }

func (h handed) Accept() (net.Conn, error) {
	if c, ok := <-h.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (handed) Close() error   { return nil }
func (handed) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

// Neither does one that passes within a write.
func TestConnWriteDeadline(t *testing.T) {
	theirs, ours := outbound(t)
	sent, rest := bytes.Repeat([]byte("0123456789abcdef"), 1<<16), 0
	for timeouts := 0; timeouts < 3; { // more than a window, and nobody reads
		ours.SetWriteDeadline(time.Now().Add(time.Millisecond))
		n, err := ours.Write(sent[rest:])
		rest += n
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("%d bytes written, %v", rest, err)
		}
		timeouts++
	}
	ours.SetWriteDeadline(time.Time{})
	go func() {
		ours.Write(sent[rest:])
		ours.Close()
	}()
	got, err := io.ReadAll(theirs)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d came, %v", len(got), len(sent), err)
	}
}

// A name is found, or not; another answer is none.
func TestFind(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(*wire.Conn) error
		want   string
	}{
		"found":        {func(c *wire.Conn) error { return c.Found(true) }, "true"},
		"not found":    {func(c *wire.Conn) error { return c.Found(false) }, "false"},
		"no answer":    {(*wire.Conn).CloseWrite, "error"},
		"cut off":      {(*wire.Conn).Abort, "error"},
		"another":      {func(c *wire.Conn) error { c.Write([]byte{2}); return c.CloseWrite() }, "error"},
		"more than it": {func(c *wire.Conn) error { c.Write([]byte{1, 1}); return c.CloseWrite() }, "error"},
	} {
		theirs, ours := outbound(t)
		if err := c.answer(ours); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		found, err := theirs.Find(time.Minute)
		got := fmt.Sprint(found)
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	theirs, _ := outbound(t)
	if _, err := theirs.Find(time.Millisecond); err == nil {
		t.Error("what is not answered has an answer")
	}
}

// What a hostile agent sends as a connection ends the connection, or is seen to
// break the protocol.
func TestHostileOutbound(t *testing.T) {
	header := string(wire.Outbound{Round: 1, Name: "a", Port: 1}.Append([]byte{byte(wire.KindOutbound)}))
	for name, c := range map[string]struct {
		text          string
		header, whole bool
	}{
		"fine":                 {header + "\x00\x01x\x00\x00", true, true},
		"another kind":         {"\x01" + header[1:], false, false},
		"no name":              {header[:7] + "\x00", false, false},
		"port 0":               {header[:5] + "\x00\x00\x01a\x00\x00", true, true},
		"a name that is none":  {header[:7] + "\x02..", false, false},
		"a piece too large":    {header + "\xff\xff" + strings.Repeat("x", 1<<16), true, false},
		"cut short in a piece": {header + "\x00\x09x", true, false},
		"cut short in a head":  {header + "\x00", true, false},
		"no end":               {header + "\x00\x01x", true, false},
	} {
		gateway, agent := sessions(t, nil)
		gateway.LetOutbound(true)
		stream, err := agent.Open(wire.Kind(c.text[0]))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.WriteString(stream, c.text[1:])
			stream.Close()
		}()
		conn, err := gateway.AcceptOutbound()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Header(time.Minute); (err == nil) != c.header || err != nil && wire.Late(err) {
			t.Errorf("%s: header %v", name, err)
			continue
		}
		if _, err := io.ReadAll(conn); c.header && (err == nil) != c.whole {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stream without a header is late, which breaks nothing.
func TestOutboundWithoutHeader(t *testing.T) {
	gateway, agent := sessions(t, nil)
	gateway.LetOutbound(true)
	if _, err := agent.Open(wire.KindOutbound); err != nil {
		t.Fatal(err)
	}
	conn, err := gateway.AcceptOutbound()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Header(time.Millisecond); !wire.Late(err) {
		t.Error(err)
	}
}

// A sandbox that opens a stream where it may not loses its session.
func TestOutboundWhereNoneMayBe(t *testing.T) {
	gateway, agent := sessions(t, nil)
	go agent.OpenOutbound(wire.Outbound{Round: 1, Name: "a", Port: 1})
	<-gateway.Done()
}

// A sandbox that opens connections as fast as they are accepted breaks no rule: what
// the gateway has acknowledged may not be counted yet when the next comes.
func TestConnectionsAsFastAsTheyAreAccepted(t *testing.T) {
	gateway, agent := sessions(t, nil)
	gateway.LetOutbound(true)
	const all = 3000
	opened := make(chan error, 1)
	go func() {
		var group errgroup.Group
		group.SetLimit(64)
		for range all {
			group.Go(func() error {
				c, err := agent.OpenOutbound(wire.Outbound{Round: 1, Name: "db.example", Port: 443})
				if err == nil {
					c.Abort()
				}
				return err
			})
		}
		opened <- group.Wait()
	}()
	for n := range all {
		c, err := gateway.AcceptOutbound()
		if err != nil {
			t.Fatalf("after %d: %v", n, err)
		}
		go c.Abort()
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}
