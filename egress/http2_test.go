package egress

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames speaks HTTP/2 without a client's care for what it says.
type frames struct {
	*http2.Framer
	t    *testing.T
	conn net.Conn
}

// http2Of opens a connection of HTTP/2 whose frames are the caller's.
func (s *sandbox) http2Of(t *testing.T) frames {
	t.Helper()
	c := tls.Client(s.dial(s.to), s.trust("api.test", "h2"))
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	write(t, c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return frames{f, t, c}
}

// ask opens a stream with these fields, in their order.
func (f frames) ask(stream uint32, end bool, fields ...hpack.HeaderField) {
	f.t.Helper()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, field := range fields {
		if err := e.WriteField(field); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: true}); err != nil {
		f.t.Fatal(err)
	}
}

// answered reads until the stream is answered, and returns its status with the code of a
// refusal, or that it was reset, or that the connection ended.
func (f frames) answered(stream uint32) (status, code string) {
	f.t.Helper()
	var body bytes.Buffer
	for {
		frame, err := f.ReadFrame()
		if isTimeout(err) {
			f.t.Fatal(err)
		}
		if err != nil { // closed, or reset with what it has not read
			return "ended", ""
		}
		ended := false
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo { // with none what is under way is answered still
				return "ended", ""
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				return "reset", ""
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamID == stream {
				status, ended = frame.PseudoValue("status"), frame.StreamEnded()
			}
		case *http2.DataFrame:
			if frame.StreamID == stream {
				body.Write(frame.Data())
				ended = frame.StreamEnded()
			}
		}
		if ended {
			var p problem
			_ = json.Unmarshal(body.Bytes(), &p) // an answer that is no refusal has no code
			return status, p.Code
		}
	}
}

// What HTTP/2 can say of a request in more than one way is refused, by its framing or in
// words, and leaves in none of them.
func TestPseudoHeadersThatDisagree(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	s.rule().Paths, s.rule().Methods = []string{"/v1/*"}, []string{"GET", "POST"}
	field := func(name, value string) hpack.HeaderField { return hpack.HeaderField{Name: name, Value: value} }
	get, tls, path, here := field(":method", "GET"), field(":scheme", "https"), field(":path", "/v1/x"), field(":authority", s.authorityOf())
	const broken = "" // of its framing: there is nobody to tell
	for name, tt := range map[string]struct {
		code   string
		fields []hpack.HeaderField
	}{
		"another authority":               {codeHostMismatch, []hpack.HeaderField{get, tls, path, field(":authority", "evil.test")}},
		"another port":                    {codeHostMismatch, []hpack.HeaderField{get, tls, path, field(":authority", "api.test:1")}},
		"userinfo":                        {broken, []hpack.HeaderField{get, tls, path, field(":authority", "evil.test@"+s.authorityOf())}},
		"another Host beside":             {codeHostMismatch, []hpack.HeaderField{get, tls, path, here, field("host", "evil.test")}},
		"Host in the place of it":         {codeHostMismatch, []hpack.HeaderField{get, tls, path, field("host", "evil.test")}},
		"no authority":                    {codeHostMismatch, []hpack.HeaderField{get, tls, path}},
		"two authorities":                 {broken, []hpack.HeaderField{get, tls, path, here, field(":authority", "evil.test")}},
		"two paths":                       {broken, []hpack.HeaderField{get, tls, path, field(":path", "/v2"), here}},
		"two methods":                     {broken, []hpack.HeaderField{get, field(":method", "DELETE"), tls, path, here}},
		"a path after a header":           {broken, []hpack.HeaderField{get, tls, here, field("x-a", "b"), field(":path", "/v2")}},
		"an unknown pseudo-header":        {broken, []hpack.HeaderField{get, tls, path, here, field(":host", "evil.test")}},
		"of an answer":                    {broken, []hpack.HeaderField{get, tls, path, here, field(":status", "200")}},
		"no path":                         {broken, []hpack.HeaderField{get, tls, here}},
		"an absolute path":                {codePathAmbiguous, []hpack.HeaderField{get, tls, field(":path", "//evil.test/v1/x"), here}},
		"a path of another host":          {broken, []hpack.HeaderField{get, tls, field(":path", "evil.test/v1/x"), here}},
		"a path that climbs":              {codePathAmbiguous, []hpack.HeaderField{get, tls, field(":path", "/v1/%2e%2e/v2"), here}},
		"a path with a space":             {broken, []hpack.HeaderField{get, tls, field(":path", "/v1/x HTTP/1.1\r\nHost: evil.test"), here}},
		"a fragment":                      {codePathInvalid, []hpack.HeaderField{get, tls, field(":path", "/v1/x#y"), here}},
		"an asterisk":                     {codePathInvalid, []hpack.HeaderField{field(":method", "OPTIONS"), tls, field(":path", "*"), here}},
		"CONNECT":                         {codeMethodRefused, []hpack.HeaderField{field(":method", "CONNECT"), here}},
		"CONNECT, extended":               {broken, []hpack.HeaderField{field(":method", "CONNECT"), field(":protocol", "websocket"), tls, path, here}},
		"TRACE":                           {codeMethodRefused, []hpack.HeaderField{field(":method", "TRACE"), tls, path, here}},
		"a method that is a line":         {broken, []hpack.HeaderField{field(":method", "GET /v2 HTTP/1.1\r\nA:"), tls, path, here}},
		"a method that is not open":       {codeMethodNotOpen, []hpack.HeaderField{field(":method", "DELETE"), tls, path, here}},
		"a header of one connection":      {broken, []hpack.HeaderField{get, tls, path, here, field("connection", "x-a")}},
		"an upgrade":                      {broken, []hpack.HeaderField{get, tls, path, here, field("upgrade", "websocket")}},
		"chunks":                          {broken, []hpack.HeaderField{field(":method", "POST"), tls, path, here, field("transfer-encoding", "chunked")}},
		"a header in upper case":          {broken, []hpack.HeaderField{get, tls, path, here, field("X-A", "b")}},
		"a header with a line end":        {broken, []hpack.HeaderField{get, tls, path, here, field("x-a", "b\r\nHost: evil.test")}},
		"a header with a NUL":             {broken, []hpack.HeaderField{get, tls, path, here, field("x-a", "b\x00")}},
		"a header whose name has a colon": {broken, []hpack.HeaderField{get, tls, path, here, field("x-a:b", "c")}},
		"method override":                 {codeMethodOverride, []hpack.HeaderField{get, tls, path, here, field("x-http-method-override", "DELETE")}},
		"another path by a header":        {codeTargetOverride, []hpack.HeaderField{get, tls, path, here, field("x-original-url", "/v2")}},
	} {
		t.Run(name, func(t *testing.T) {
			f := s.http2Of(t)
			f.ask(1, true, tt.fields...)
			status, code := f.answered(1)
			if code != tt.code || code == broken && status != "reset" && status != "ended" && status != "400" && status != "431" {
				t.Errorf("answered %s %q, want %q", status, code, tt.code)
			}
		})
	}
	if got := s.requests(); len(got) > 0 {
		t.Errorf("%d requests have left: %+v", len(got), got[0])
	}
}

// A body in HTTP/2 has the length that was said, or the request is not whole.
func TestLengthThatLies(t *testing.T) {
	const body = "GET / HTTP/1.1\r\n\r\n"
	for _, said := range []string{"2", "50", "-1", "5, 5", "+18", "0x12", ""} {
		s := newSandbox(t, Config{}, nil)
		f := s.http2Of(t)
		f.ask(1, false,
			hpack.HeaderField{Name: ":method", Value: "POST"}, hpack.HeaderField{Name: ":scheme", Value: "https"},
			hpack.HeaderField{Name: ":path", Value: "/"}, hpack.HeaderField{Name: ":authority", Value: s.authorityOf()},
			hpack.HeaderField{Name: "content-length", Value: said},
		)
		_ = f.WriteData(1, true, []byte(body)) // which it may have refused already
		if status, code := f.answered(1); status == "200" {
			t.Errorf("%s: answered %s %s", said, status, code)
		}
		f.conn.Close()
		s.carries.Wait()
		if codes := s.log.codes(); slices.Contains(codes, "end ") {
			t.Errorf("%s: recorded %v", said, codes)
		}
	}
}

// A status that is none ends the request, with its record.
func TestStatusThatIsNone(t *testing.T) {
	for _, status := range []string{"099", "000", "101"} {
		l, _ := listen(t)
		s := newSandbox(t, Config{}, nil)
		serve(t, l, func(c *net.TCPConn) {
			secured := tls.Server(c, &tls.Config{Certificates: s.upstream.TLS.Certificates})
			if _, err := secured.Read(make([]byte, 4<<10)); err == nil {
				fmt.Fprintf(secured, "HTTP/1.1 %s Odd\r\nContent-Length: 2\r\n\r\nok", status)
			}
			secured.Close()
		})
		s.to.Port = l.Addr().(*net.TCPAddr).Port
		s.rule().Ports = []int{s.to.Port}
		res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
		if p := problemIn(t, res, body); p.Code != codeUpstream || p.Status != 502 {
			t.Errorf("%s: %+v", status, p)
		}
		if diff := cmp.Diff([]string{"allow", "end " + codeUpstream}, s.log.codes()); diff != "" {
			t.Errorf("%s: %s", status, diff)
		}
	}
}

// Whatever a program asks for at once, and does not read: the gateway has told the
// destination how little of it to send.
func TestWindowsOfAnswers(t *testing.T) {
	l, _ := listen(t)
	s := newSandbox(t, Config{}, nil)
	var stream, connection uint32
	serve(t, l, func(c *net.TCPConn) {
		secured := tls.Server(c, &tls.Config{Certificates: s.upstream.TLS.Certificates, NextProtos: []string{"h2"}})
		if _, err := io.ReadFull(secured, make([]byte, len(http2.ClientPreface))); err != nil {
			t.Errorf("no preface: %v", err)
			return
		}
		f := http2.NewFramer(secured, secured)
		if err := f.WriteSettings(); err != nil {
			t.Error(err)
		}
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if n, ok := frame.Value(http2.SettingInitialWindowSize); ok {
					stream = n
				}
			case *http2.WindowUpdateFrame:
				connection += frame.Increment
			case *http2.HeadersFrame:
				var block bytes.Buffer
				if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "204"}); err != nil {
					t.Error(err)
				}
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	s.to.Port = l.Addr().(*net.TCPAddr).Port
	s.rule().Ports = []int{s.to.Port}
	if res, body := s.do(s.client(true), request(t, "GET", s.url("/"), "")); res.StatusCode != 204 {
		t.Errorf("answered: %s %s", res.Status, body)
	}
	if stream == 0 || stream > maxAnswerHeld || connection > maxConnectionHeld {
		t.Errorf("%d bytes of an answer may be sent, and %d of a connection", stream, connection)
	}
}

// A program whose destination does not read has the gateway hold little of what it sends.
func TestWindowsOfRequests(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	f := s.http2Of(t)
	f.ask(1, true,
		hpack.HeaderField{Name: ":method", Value: "GET"}, hpack.HeaderField{Name: ":scheme", Value: "https"},
		hpack.HeaderField{Name: ":path", Value: "/"}, hpack.HeaderField{Name: ":authority", Value: s.authorityOf()})
	const initial = 64<<10 - 1 // RFC 9113, 6.9.2
	stream, connection := uint32(0), uint32(initial)
	for answered := false; !answered; {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if n, ok := frame.Value(http2.SettingInitialWindowSize); ok {
				stream = n
			}
		case *http2.WindowUpdateFrame:
			connection += frame.Increment
		case *http2.MetaHeadersFrame:
			answered = true
		}
	}
	if stream == 0 || stream > maxBodyHeld || connection > maxBodyHeld {
		t.Errorf("%d bytes of a request may be sent, and %d of a connection", stream, connection)
	}
}

// Addresses that are tried again and again, and answer nothing, leave nothing behind.
func TestTransportsAreOneForEachAddress(t *testing.T) {
	closed := []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.3")}
	u := &upstream{broker: newBroker(t, Config{Recorder: &memory{}}), host: "api.test", addresses: closed}
	for range 100 {
		for _, addr := range closed {
			u.to(netip.AddrPortFrom(addr, 443))
		}
	}
	if len(u.transports) != len(closed) {
		t.Errorf("%d transports for %d addresses", len(u.transports), len(closed))
	}
}
