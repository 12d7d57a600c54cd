package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/execgate/execgate/execution"
)

// Bounds of a connection.
const (
	maxAnswer    = 16 << 20 // bytes; the longest is the list of all accessors
	maxRefusal   = 64 << 10 // bytes, of an answer that is not kept
	idleKept     = 64       // connections, so that a burst does not dial anew each time
	idleTimeout  = 90 * time.Second
	maxHeaders   = 64 << 10 // bytes
	dialKeepLive = 30 * time.Second
)

// client speaks to one Vault.
type client struct {
	api     *api.Client
	headers http.Header
	breaker *breaker
}

// newClient makes the library's client from cfg alone. The library reads the
// environment whenever it makes one, and offers no way around that: so everything
// that it may have taken from there is replaced, here and again in each request.
func newClient(cfg Config) (*client, error) {
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	c := &client{
		headers: http.Header{api.RequestHeaderName: {"true"}},
		breaker: &breaker{after: cfg.BreakerFailures, rest: cfg.BreakerOpen},
	}
	if cfg.Namespace != "" {
		c.headers.Set(api.NamespaceHeaderName, cfg.Namespace)
	}
	c.api, err = api.NewClient(&api.Config{
		Address: cfg.Address,
		HttpClient: &http.Client{
			Transport:     &trip{transport, c.breaker, cfg.Timeout},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Timeout:          cfg.Timeout,
		CheckRetry:       func(context.Context, *http.Response, error) (bool, error) { return false, nil },
		DisableRedirects: true,
	})
	if err != nil {
		// The library's text may repeat a variable's value.
		return nil, errors.New("the library refuses a VAULT_ variable of the environment, of which nothing is used: start without them")
	}
	c.api.ClearToken()
	c.api.ClearNamespace()
	return c, nil
}

// as returns the library's client for calls as the holder of token. The copy that
// the library makes for this is of the client as it was made: that one is never
// used itself.
func (c *client) as(token execution.Secret) *api.Client {
	return c.api.WithRequestCallbacks(func(r *api.Request) {
		r.ClientToken = token.Reveal()
		r.Headers = c.headers.Clone()
		r.WrapTTL, r.MFAHeaderVals, r.PolicyOverride, r.HCPCookie = "", nil, false, nil
	})
}

func newTransport(cfg Config) (*http.Transport, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName}
	if cfg.CAFile != "" {
		text, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the authorities: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read the authorities: %s holds no certificate", cfg.CAFile)
		}
	}
	if cfg.ClientCert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.ClientCert, cfg.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
		settings.Certificates = []tls.Certificate{pair}
	}
	dialer := &net.Dialer{Timeout: cfg.Timeout, KeepAlive: dialKeepLive}
	return &http.Transport{
		Proxy:                  nil, // whatever HTTP_PROXY says
		DialContext:            dialer.DialContext,
		TLSClientConfig:        settings,
		TLSHandshakeTimeout:    cfg.Timeout,
		MaxIdleConns:           idleKept,
		MaxIdleConnsPerHost:    idleKept,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaders,
	}, nil
}

// trip carries out one call: not while the breaker is open, with an answer that is
// bounded, and with errors that hold neither URL nor text of an answer.
type trip struct {
	next    http.RoundTripper
	breaker *breaker
	timeout time.Duration
}

// RoundTrip implements http.RoundTripper. It fails, too, where the answer is none
// of 200 to 299.
func (t *trip) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.breaker.enter(); err != nil {
		return nil, err
	}
	how := unknown
	defer func() { t.breaker.leave(how) }()
	started := time.Now()
	response, err := t.next.RoundTrip(r)
	if err != nil {
		// A caller's own deadline, shorter than ours, says nothing about Vault.
		if r.Context().Err() == nil || errors.Is(r.Context().Err(), context.DeadlineExceeded) && time.Since(started) >= t.timeout*9/10 {
			how = failed
		}
		return nil, unreachableBy(err)
	}
	how = answered
	if response.StatusCode < 200 || response.StatusCode > 299 {
		body, _ := io.ReadAll(io.LimitReader(response.Body, maxRefusal)) // what cannot be read is not needed
		_ = response.Body.Close()                                        // the answer is complete without
		return nil, refusalOf(response.StatusCode, response.Header, body)
	}
	response.Body = http.MaxBytesReader(nil, response.Body, maxAnswer)
	return response, nil
}
