package activation

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// bundleServer serves one bundle under an ETag, to who has the token.
type bundleServer struct {
	text, etag, token string
	status            int
	asked, sent       int
}

func (b *bundleServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.asked++
	switch {
	case b.token != "" && r.Header.Get("Authorization") != "Bearer "+b.token:
		w.WriteHeader(http.StatusUnauthorized)
	case b.status != 0:
		w.Header().Set("Location", "https://elsewhere.example/")
		w.WriteHeader(b.status)
	case r.Header.Get("If-None-Match") == b.etag:
		w.WriteHeader(http.StatusNotModified)
	default:
		b.sent++
		w.Header().Set("ETag", b.etag)
		w.Write([]byte(b.text))
	}
}

func archived(t *testing.T, rego string) string {
	t.Helper()
	var b bytes.Buffer
	if err := policy.WriteArchive(&b, policy.Files{"p.rego": []byte(rego)}, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestBundleServer(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &bundleServer{text: archived(t, "one"), etag: `"1"`, token: "s3cret"}
	site := httptest.NewTLSServer(b)
	defer site.Close()
	s, err := NewServer(ServerConfig{URL: site.URL, TokenFile: token, Interval: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.http.Transport = site.Client().Transport
	var got []string
	var answer error
	poll := func() error {
		return s.poll(t.Context(), func(_ context.Context, c Candidate) error {
			got = append(got, string(c.Files["p.rego"])+" from "+c.Source)
			return answer
		})
	}
	for range 2 {
		if err := poll(); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 1 || got[0] != "one from "+site.URL || b.sent != 1 || b.asked != 2 {
		t.Errorf("%q, asked %d times, sent %d times", got, b.asked, b.sent)
	}

	// A refused one is not asked for again, one that was not recorded is.
	b.text, b.etag, answer = archived(t, "two"), `"2"`, &execution.Error{Kind: execution.KindInvalid, Code: CodeBroken}
	for range 2 {
		if err := poll(); err != nil {
			t.Error(err)
		}
	}
	b.text, b.etag, answer = archived(t, "three"), `"3"`, &execution.Error{Kind: execution.KindUnavailable}
	for range 2 {
		if err := poll(); err == nil {
			t.Error("what was not recorded is forgotten")
		}
	}
	if len(got) != 4 {
		t.Errorf("%q", got)
	}

	got = nil
	for name, change := range map[string]func(){
		"redirect": func() { b.status = http.StatusFound },
		"error":    func() { b.status = http.StatusInternalServerError },
		"no token": func() { b.status, b.token = 0, "another" },
		"garbage":  func() { b.token, b.text, b.etag = "s3cret", "garbage", `"4"` },
		"endless":  func() { b.text = archived(t, strings.Repeat("x", 1<<20)) + strings.Repeat("y", 17<<20) },
	} {
		change()
		if err := poll(); err == nil || len(got) != 0 {
			t.Errorf("%s: %v, %q", name, err, got)
		}
		b.status, b.token, b.text, b.etag = 0, "s3cret", "garbage", `"5"`
	}
}

// A server that hangs costs nothing but its own policy.
func TestBundleServerThatIsGone(t *testing.T) {
	hang := make(chan struct{})
	site := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer site.Close()
	defer close(hang)
	s, err := NewServer(ServerConfig{URL: site.URL, Interval: time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s.Run(ctx, func(context.Context, Candidate) error { return errors.New("there is none") })
}

func TestServersThatAreNone(t *testing.T) {
	for name, cfg := range map[string]ServerConfig{
		"no address":     {Interval: time.Minute},
		"a file":         {URL: "file:///etc/passwd", Interval: time.Minute},
		"a password":     {URL: "https://user:secret@bundles.example", Interval: time.Minute},
		"token in clear": {URL: "http://bundles.example", TokenFile: "token", Interval: time.Minute},
		"all the time":   {URL: "https://bundles.example"},
	} {
		if _, err := NewServer(cfg); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
