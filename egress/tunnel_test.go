package egress

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// tunnelled is a sandbox with a tunnel to its destination.
func tunnelled(t testing.TB, handle http.HandlerFunc) (*sandbox, *tls.Config) {
	s := newSandbox(t, Config{}, handle)
	s.rule().Mode = execution.NetworkTunnel
	return s, &tls.Config{RootCAs: s.broker.roots, ServerName: "api.test"}
}

func TestTunnelIsUnread(t *testing.T) {
	s, config := tunnelled(t, nil)
	s.bind("api", execution.Binding{Mode: "bearer"}) // of no account: nothing is set
	c := tls.Client(s.dial(s.to), config)
	write(t, c, "GET /any//path HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n")
	if got := readAll(t, c); !strings.Contains(got, "200 OK") || !strings.Contains(got, "other.test") {
		t.Errorf("answered: %s", got)
	}
	if issuer := c.ConnectionState().PeerCertificates[0].Issuer.CommonName; c.ConnectionState().PeerCertificates[0].CheckSignatureFrom(s.authority.Leaf) == nil {
		t.Errorf("the certificate is %s's, and the sandbox's", issuer)
	}
	c.Close()
	s.carries.Wait()
	// What a client says at its end, where its destination has closed already, may be
	// answered with a reset.
	if codes := s.log.codes(); len(codes) != 2 || codes[0] != "allow" || codes[1] != "end " && codes[1] != "end broken" {
		t.Errorf("the records: %q", codes)
	}
}

func TestTunnelIsForItsNameOnly(t *testing.T) {
	for name, tt := range map[string]struct {
		config *tls.Config
		code   string
	}{
		"another name":           {&tls.Config{ServerName: "evil.test"}, codeSNIMismatch},
		"a name below":           {&tls.Config{ServerName: "x.api.test"}, codeSNIMismatch},
		"no name":                {&tls.Config{}, codeSNIMissing},
		"an encrypted hello":     {&tls.Config{ServerName: "api.test", MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: echConfig(t)}, codeECH},
		"its name in upper case": {&tls.Config{ServerName: "API.test"}, ""},
	} {
		s, _ := tunnelled(t, nil)
		tt.config.InsecureSkipVerify = tt.config.EncryptedClientHelloConfigList == nil // the hello is what counts
		tt.config.RootCAs = s.trust("").RootCAs
		c := tls.Client(s.dial(s.to), tt.config)
		_ = c.Handshake()
		if tt.code != "" && tt.code != codeECH {
			write(t, c, "GET / HTTP/1.1\r\nHost: "+s.authorityOf()+"\r\nConnection: close\r\n\r\n")
			if got := readAll(t, c); !strings.Contains(got, tt.code) {
				t.Errorf("%s: answered %q", name, got)
			}
		}
		c.Close()
		s.carries.Wait()
		want, records := "deny "+tt.code, 1
		if tt.code == "" {
			want, records = "allow", 2 // and its end, of whatever kind
		}
		if codes := s.log.codes(); len(codes) != records || codes[0] != want {
			t.Errorf("%s: recorded %v, want %s", name, codes, want)
		}
	}
}

func TestTunnelOfWhatIsNotTLS(t *testing.T) {
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", "\x00\x01\x02\x03\x04\x05", "\x16\x03\x01\x00\x02ab", "\x16\x03"} {
		s, _ := tunnelled(t, nil)
		c := s.dial(s.to)
		write(t, c, text)
		_ = c.CloseWrite()
		readAll(t, c)
		s.carries.Wait()
		if codes := s.log.codes(); len(codes) != 1 || codes[0] != "deny "+codeNotTLS || len(s.requests()) > 0 {
			t.Errorf("%q: recorded %v", text, codes)
		}
	}
}

// The hello may come a byte at a time.
func TestTunnelOfAHelloInPieces(t *testing.T) {
	s, config := tunnelled(t, nil)
	c := tls.Client(pieces{s.dial(s.to)}, config)
	write(t, c, "GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
	if got, err := io.ReadAll(c); !strings.Contains(string(got), "200 OK") {
		t.Errorf("answered: %s, %v", got, err)
	}
	c.Close()
}

// pieces writes one byte at a time.
type pieces struct{ net.Conn }

func (p pieces) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := p.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}
