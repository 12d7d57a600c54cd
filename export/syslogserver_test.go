package export

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"
)

// authority is a file with a certificate that is its own authority, for 127.0.0.1, and
// that certificate.
func authority(t testing.TB) (path, keyPath string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path, keyPath = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, keyPath, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	if pair, err = tls.LoadX509KeyPair(path, keyPath); err != nil {
		t.Fatal(err)
	}
	return path, keyPath, pair
}

// syslogServer is a receiver of RFC 5425.
type syslogServer struct {
	arrivals
	t        testing.TB
	address  string
	caFile   string
	keyFile  string // of the certificate in caFile
	tls      *tls.Config
	deaf     atomic.Bool  // takes connections and does not read
	mortal   atomic.Int64 // messages that a connection reads before it is cut; 0: all
	accepted atomic.Int64

	reserved *reserved

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	messages []message
}

func newSyslogServer(t testing.TB, clients bool) *syslogServer {
	ca, key, pair := authority(t)
	r := reserve(t)
	s := &syslogServer{t: t, reserved: r, address: r.Addr().String(), caFile: ca, keyFile: key, tls: &tls.Config{Certificates: []tls.Certificate{pair}}}
	if clients {
		s.tls.ClientAuth, s.tls.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		s.tls.ClientCAs.AppendCertsFromPEM(mustRead(t, ca))
	}
	s.listen()
	t.Cleanup(s.vanish)
	return s
}

// listen comes up, at the address it had before.
func (s *syslogServer) listen() {
	listener := s.reserved.open()
	s.mu.Lock()
	s.listener = listener
	s.mu.Unlock()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			if s.deaf.Load() {
				conn.(*net.TCPConn).SetReadBuffer(64 << 10)
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go s.serve(conn, tls.Server(conn, s.tls))
		}
	}()
}

// vanish ends the listener and every connection, as a crash does.
func (s *syslogServer) vanish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener.Close()
	for _, c := range s.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	s.conns = nil
}

func (s *syslogServer) serve(raw net.Conn, conn *tls.Conn) {
	defer raw.Close()
	if conn.Handshake() != nil || s.deaf.Load() {
		io.Copy(io.Discard, blocked{s}) // until it is told to go on
		return
	}
	in := bufio.NewReader(conn)
	for n := int64(1); ; n++ {
		text, err := readFrame(in)
		if err != nil {
			return
		}
		m, err := parseMessage(text)
		if err != nil {
			s.t.Errorf("%v: %q", err, text)
			return
		}
		s.mu.Lock()
		s.messages = append(s.messages, m)
		s.mu.Unlock()
		s.add(s.t, m.text)
		if most := s.mortal.Load(); most > 0 && n >= most {
			raw.(*net.TCPConn).SetLinger(0) // what it has not read is lost
			return
		}
	}
}

// blocked gives nothing while the server is deaf.
type blocked struct{ s *syslogServer }

func (b blocked) Read([]byte) (int, error) {
	for b.s.deaf.Load() {
		time.Sleep(time.Millisecond)
	}
	return 0, io.EOF
}

// waitRead waits until the last record that was read is seq.
func (s *syslogServer) waitRead(seq uint64) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("record %d is read", seq), func() bool {
		s.arrivals.mu.Lock()
		defer s.arrivals.mu.Unlock()
		return len(s.all) > 0 && s.all[len(s.all)-1].Seq == seq
	})
}

func (s *syslogServer) sink() Sink {
	return Sink{Name: "syslog", Type: TypeSyslog, Address: s.address, CAFile: s.caFile}
}

// message is a message of RFC 5424.
type message struct {
	priority                        int
	time, host, app, process, event string
	id                              string // of the structured data
	params                          map[string]string
	text                            []byte
}

// readFrame reads one message behind its octet count (RFC 5425, section 4.3).
func readFrame(in *bufio.Reader) ([]byte, error) {
	digits, err := in.ReadString(' ')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(digits, " "))
	if err != nil || n <= 0 || n > 8<<20 || digits[0] == '0' {
		return nil, fmt.Errorf("%q is no octet count", digits)
	}
	text := make([]byte, n)
	_, err = io.ReadFull(in, text)
	return text, err
}

var headerForm = regexp.MustCompile(`^<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) ([!-~]{1,48}) ([!-~]{1,128}) ([!-~]{1,32}) \[([!-~]{1,32})`)

// parseMessage is strict where receivers are not.
func parseMessage(text []byte) (message, error) {
	head := headerForm.FindSubmatch(text)
	if head == nil {
		return message{}, errors.New("no header of RFC 5424")
	}
	priority, _ := strconv.Atoi(string(head[1]))
	m := message{priority, string(head[2]), string(head[3]), string(head[4]), string(head[5]), string(head[6]), string(head[7]), map[string]string{}, nil}
	rest := text[len(head[0]):]
	for len(rest) > 0 && rest[0] == ' ' {
		name, after, ok := bytes.Cut(rest[1:], []byte(`="`))
		if !ok {
			return m, errors.New("a parameter has no value")
		}
		var value []byte
		for rest = after; ; rest = rest[1:] {
			if len(rest) == 0 || rest[0] == ']' {
				return m, errors.New("a parameter has no end")
			}
			if rest[0] == '"' {
				break
			}
			if rest[0] == '\\' && len(rest) > 1 && bytes.IndexByte([]byte(`"\]`), rest[1]) >= 0 {
				rest = rest[1:]
			}
			value = append(value, rest[0])
		}
		if !utf8.Valid(value) {
			return m, errors.New("a value is no UTF-8")
		}
		if _, again := m.params[string(name)]; again {
			return m, fmt.Errorf("the parameter %s stands twice", name)
		}
		m.params[string(name)] = string(value)
		rest = rest[1:]
	}
	if !bytes.HasPrefix(rest, []byte("] {")) {
		return m, errors.New("no text after the structured data")
	}
	m.text = rest[2:]
	for _, b := range m.text {
		if b < ' ' || b > '~' {
			return m, fmt.Errorf("the text has the byte %#x", b)
		}
	}
	return m, nil
}
