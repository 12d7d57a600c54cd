package witness

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// HTTPConfig says where a server is that keeps checkpoints.
type HTTPConfig struct {
	// URL takes a POST with the checkpoint and answers a GET with the latest one.
	URL string
	// TokenFile holds the bearer token; empty: none is sent. It is read anew for
	// each request, and sent by https only, or to this machine.
	TokenFile string
	// CAFile holds authorities (PEM) in the place of the system's; empty: those.
	CAFile string
}

// HTTP keeps checkpoints by sending them to a server.
type HTTP struct {
	cfg    HTTPConfig
	client *http.Client
}

// NewHTTP returns the witness that a server is. It sends nothing yet.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the witness's address must be an http or https URL") // not repeated: it may hold a password
	case u.User != nil:
		return nil, errors.New("the witness's address holds a password: put a token into a file instead")
	case cfg.TokenFile != "" && u.Scheme != "https" && !loopback(u.Hostname()):
		return nil, errors.New("a token is sent to a witness by https only")
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConns: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if cfg.CAFile != "" {
		text, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the witness's authorities: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", cfg.CAFile)
		}
	}
	return &HTTP{cfg: cfg, client: &http.Client{
		Transport: transport,
		// The token is for the server that was named, and no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Name implements audit.Witness.
func (*HTTP) Name() string { return "http" }

// Keep implements audit.Witness.
func (h *HTTP) Keep(ctx context.Context, checkpoint []byte) error {
	status, _, err := h.do(ctx, http.MethodPost, checkpoint)
	switch {
	case err != nil:
		return err
	case status == http.StatusConflict:
		return errors.New("the witness has a checkpoint that this one does not follow (409): the log was rolled back or forked, or somebody else holds its key: compare what it has with execgate audit verify --witness")
	case status < 200 || status > 299:
		return fmt.Errorf("the witness answers %d", status)
	}
	return nil
}

// Kept implements audit.Witness.
func (h *HTTP) Kept(ctx context.Context) ([]byte, error) {
	status, body, err := h.do(ctx, http.MethodGet, nil)
	switch {
	case err != nil:
		return nil, err
	case status == http.StatusNotFound || status == http.StatusNoContent:
		return nil, nil
	case status != http.StatusOK:
		return nil, fmt.Errorf("the witness answers %d", status)
	}
	return body, nil
}

// do sends one request and returns the status and the body of the answer.
func (h *HTTP) do(ctx context.Context, method string, body []byte) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, h.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return 0, nil, errors.New("make a request to the witness: its address is malformed")
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	if h.cfg.TokenFile != "" {
		token, err := readToken(h.cfg.TokenFile)
		if err != nil {
			return 0, nil, err
		}
		request.Header.Set("Authorization", "Bearer "+token.Reveal())
	}
	answer, err := h.client.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("reach the witness: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("read the witness's answer: %w", err)
	}
	return answer.StatusCode, text, nil
}

func readToken(path string) (execution.Secret, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return execution.Secret{}, fmt.Errorf("read the witness's token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, "\r\n\x00") {
		return execution.Secret{}, fmt.Errorf("%s does not hold one token", path)
	}
	return execution.NewSecret(token), nil
}
