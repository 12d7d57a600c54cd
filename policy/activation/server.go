package activation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// ServerConfig is what a Server is made from.
type ServerConfig struct {
	// URL is where the bundle is: one archive, as OPA's bundle servers give it
	// (https://www.openpolicyagent.org/docs/management-bundles).
	URL string
	// TokenFile holds the bearer token; empty: none is sent. It is read anew for
	// every request, so that it can be replaced.
	TokenFile string
	// Interval is the time between two requests. A tenth of it, more or less, is
	// left to chance, so that many gateways do not come at once.
	Interval time.Duration
	// Unreadable is told, where it is not nil, that the server gives no bundle, once
	// for as long as that is so.
	Unreadable func(ctx context.Context, err error)
	Logger     *slog.Logger
}

// Server is a bundle server over HTTP.
type Server struct {
	cfg  ServerConfig
	http *http.Client
	etag string // of the bundle that was last looked at
	down bool   // it gave none when it was last asked
}

// fetchTimeout bounds one request with its answer.
const fetchTimeout = 60 * time.Second

// NewServer returns a Server that has not been asked yet.
func NewServer(cfg ServerConfig) (*Server, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("policy server: %w", err)
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, fmt.Errorf("policy server: %q is not an address that begins with https:// or http://", cfg.URL)
	case u.User != nil:
		return nil, errors.New("policy server: the address holds a password: put the token into a file instead")
	case cfg.TokenFile != "" && u.Scheme != "https":
		return nil, errors.New("policy server: a token is sent by https only")
	case cfg.Interval < time.Second:
		return nil, fmt.Errorf("policy server: the interval is %v: it must be at least a second", cfg.Interval)
	}
	return &Server{cfg: cfg, http: &http.Client{
		Timeout: fetchTimeout,
		// The token is for the server that was named, and no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Run asks the server again and again, and submits what is new, until ctx ends.
func (s *Server) Run(ctx context.Context, submit func(context.Context, Candidate) error) {
	for {
		if err := s.poll(ctx, submit); err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "the policy server gives no policy; the one in force stays", "url", s.cfg.URL, "error", err)
		}
		spread := time.Duration((rand.Float64() - 0.5) / 5 * float64(s.cfg.Interval))
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.cfg.Interval + spread):
		}
	}
}

// poll asks once. A bundle that was refused is not asked for again until it has
// changed; one that could not be recorded is.
func (s *Server) poll(ctx context.Context, submit func(context.Context, Candidate) error) error {
	c, etag, err := s.fetch(ctx)
	if err != nil && !s.down && ctx.Err() == nil && s.cfg.Unreadable != nil {
		s.cfg.Unreadable(ctx, err)
	}
	s.down = err != nil
	if err != nil || c == nil {
		return err
	}
	err = submit(ctx, *c)
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Kind == execution.KindUnavailable {
		return err
	}
	s.etag = etag
	return nil // a refusal has been logged and recorded
}

// First returns what the server has at a start. Run does not submit that again.
func (s *Server) First(ctx context.Context) (Candidate, error) {
	c, etag, err := s.fetch(ctx)
	s.down = err != nil
	if err != nil {
		return Candidate{Source: s.cfg.URL}, err
	}
	s.etag = etag
	return *c, nil
}

// Again has Run submit what the server has, though First has returned it.
func (s *Server) Again() { s.etag = "" }

// fetch returns the bundle; nil where it is the one that was last looked at.
func (s *Server) fetch(ctx context.Context) (c *Candidate, etag string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.URL, nil)
	if err != nil {
		return nil, "", err
	}
	if s.etag != "" {
		request.Header.Set("If-None-Match", s.etag)
	}
	if s.cfg.TokenFile != "" {
		token, err := os.ReadFile(s.cfg.TokenFile)
		if err != nil {
			return nil, "", fmt.Errorf("read the token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	response, err := s.http.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close() //nolint:errcheck // it was only read
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		if s.etag == "" {
			return nil, "", errors.New("it answers 304, and was not asked whether anything changed")
		}
		return nil, "", nil
	default:
		return nil, "", fmt.Errorf("it answers %s", response.Status)
	}
	files, signature, err := policy.ReadArchive(response.Body)
	if err != nil {
		return nil, "", err
	}
	return &Candidate{Files: files, Signature: signature, Source: s.cfg.URL}, response.Header.Get("ETag"), nil
}
