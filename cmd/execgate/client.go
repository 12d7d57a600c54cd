package main

import (
	"bytes"
	"context"
	"encoding/json"
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

// Variables that name a running gateway.
const (
	envURL = "EXECGATE_URL"
	envKey = "EXECGATE_API_KEY"
)

// client talks to a gateway.
type client struct {
	base string
	key  execution.Secret
	http *http.Client
}

// The client waits as long as the program runs, but not for a gateway that is
// not there. One that dies while it runs is noticed by TCP's keep-alive.
const (
	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second
	maxAnswer   = 2 << 30 // bytes: the largest artifacts that can be granted, in base64
)

// newClient returns a client of the gateway that the environment names.
func newClient() (*client, error) {
	base := os.Getenv(envURL)
	if base == "" {
		base = "http://127.0.0.1:8080"
	}
	parsed, err := url.Parse(base)
	if err != nil || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
		return nil, usage("%s must be an http or https address such as http://127.0.0.1:8080", envURL)
	}
	key := os.Getenv(envKey)
	if key == "" {
		return nil, usage("%s is not set: set it to an API key (the first one is in STATE/admin.key), or use --local", envKey)
	}
	return &client{base: strings.TrimSuffix(base, "/"), key: execution.NewSecret(key), http: newHTTPClient()}, nil
}

// answer is what a gateway said.
type answer struct {
	status int
	body   []byte
}

// call sends one request; body is sent as JSON where it is not nil. An error
// means that there was no answer.
func (c *client) call(ctx context.Context, method, path string, body any) (answer, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return answer{}, fmt.Errorf("encode the request: %w", err)
		}
		content = bytes.NewReader(text)
	}
	return c.send(ctx, method, path, "application/json", content)
}

// send sends one request with a body of any type. Its errors are those of call.
func (c *client) send(ctx context.Context, method, path, contentType string, content io.Reader) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return answer{}, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key.Reveal())
	req.Header.Set("Content-Type", contentType)
	resp, err := c.http.Do(req)
	if err != nil && ctx.Err() != nil {
		return answer{}, errInterrupted
	}
	if err != nil {
		return answer{}, coded{exitUnavailable, fmt.Errorf("the gateway is out of reach: %w", err)}
	}
	defer resp.Body.Close()
	if to := resp.Header.Get("Location"); resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return answer{}, usage("%s leads on to %q: name the gateway itself; the key is sent nowhere else", envURL, to)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil && ctx.Err() != nil {
		return answer{}, errInterrupted
	}
	if err != nil {
		return answer{}, coded{exitUnavailable, fmt.Errorf("the gateway's answer broke off: %w", err)}
	}
	if len(text) > maxAnswer {
		return answer{}, errors.New("the gateway's answer is larger than any can be")
	}
	return answer{resp.StatusCode, text}, nil
}

var errInterrupted = coded{exitInterrupted, errors.New("interrupted; a gateway stops what it runs for a caller that is gone")}

func newHTTPClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	transport.TLSHandshakeTimeout = tlsTimeout
	return &http.Client{Transport: transport, CheckRedirect: noRedirect}
}

// noRedirect makes a client hand out a redirect as it came: the key is for the
// address that was named, and no other.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// problem is a refusal (RFC 9457).
type problem struct {
	Title   string                 `json:"title"`
	Detail  string                 `json:"detail"`
	Reasons []execution.Reason     `json:"reasons"`
	Errors  []execution.FieldError `json:"errors"`
}

// err returns the refusal in words, with its exit code; nil for a success.
func (a answer) err() error {
	if a.status < 300 {
		return nil
	}
	var p problem
	json.Unmarshal(a.body, &p) // what cannot be read is shown as its status
	text := fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	for _, r := range p.Reasons {
		text += strings.TrimRight(fmt.Sprintf("\n  %s: %s %s", r.Code, r.Message, r.Remediation), " ")
	}
	for _, e := range p.Errors {
		text += fmt.Sprintf("\n  %s: %s", e.Pointer, e.Detail)
	}
	return coded{codeOfStatus(a.status), errors.New(inText(text))}
}

// print writes the body as it came, indented.
func (a answer) print(w io.Writer) error {
	var indented bytes.Buffer
	if json.Indent(&indented, a.body, "", "  ") != nil {
		indented.Reset()
		indented.Write(a.body)
	}
	_, err := fmt.Fprintln(w, strings.TrimSpace(indented.String()))
	return err
}
