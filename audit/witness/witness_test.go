package witness

import (
	"bytes"
	"context"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// checkpoint is a text of the form that the gateway sends; what it says is nothing
// to this package.
func checkpoint(n string) []byte { return []byte("origin\n" + n + "\nroot\n\n— origin signature\n") }

func TestFileOnlyGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "witness")
	f, err := NewFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := f.Kept(t.Context()); err != nil || len(kept) > 0 {
		t.Errorf("before the first: %q %v", kept, err)
	}
	var want []byte
	for _, n := range []string{"1", "2", "3"} {
		if err := f.Keep(t.Context(), checkpoint(n)); err != nil {
			t.Fatal(err)
		}
		want = append(append(want, '\n'), checkpoint(n)...)
	}
	if kept, err := f.Kept(t.Context()); err != nil || !bytes.Equal(kept, want) {
		t.Errorf("kept %q, want %q, %v", kept, want, err)
	}
	for range 2000 { // what is there before is not touched, and not all of it is read
		if err := f.Keep(t.Context(), checkpoint("4")); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(whole, want) {
		t.Errorf("the beginning changed: %v", err)
	}
	kept, err := f.Kept(t.Context())
	if err != nil || len(kept) > tailBytes || len(kept) < tailBytes/2 || !bytes.HasSuffix(whole, kept) {
		t.Errorf("%d bytes of the end were read: %v", len(kept), err)
	}
}

func TestFileThatCannotBe(t *testing.T) {
	if _, err := NewFile("witness"); err == nil {
		t.Error("a relative path was taken")
	}
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "target"), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, dir, filepath.Join(dir, "missing", "witness")} {
		f, err := NewFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Keep(t.Context(), checkpoint("1")); err == nil {
			t.Errorf("%s was written", path)
		}
	}
	f, err := NewFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Kept(t.Context()); err == nil {
		t.Error("a folder was read")
	}
}

// server is the witness of docs/audit-proof.md, as small as it can be: it keeps
// what it is sent, and answers the latest.
type server struct {
	mu     sync.Mutex
	kept   []byte
	status int // answered instead
	token  string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token:
		w.WriteHeader(http.StatusUnauthorized)
	case s.status != 0:
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(s.status)
	case r.Method == http.MethodPost:
		s.kept, _ = io.ReadAll(r.Body)
	case r.Method == http.MethodGet && s.kept == nil:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodGet:
		w.Write(s.kept)
	}
}

func TestHTTP(t *testing.T) {
	s := &server{token: "t0k3n"}
	web := httptest.NewTLSServer(s)
	defer web.Close()
	dir := t.TempDir()
	ca, token := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "token")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("t0k3n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := NewHTTP(HTTPConfig{URL: web.URL + "/log", TokenFile: token, CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := h.Kept(t.Context()); err != nil || kept != nil {
		t.Errorf("before the first: %q %v", kept, err)
	}
	if err := h.Keep(t.Context(), checkpoint("1")); err != nil {
		t.Fatal(err)
	}
	if kept, err := h.Kept(t.Context()); err != nil || !bytes.Equal(kept, checkpoint("1")) {
		t.Errorf("kept %q, %v", kept, err)
	}
	for status, want := range map[int]string{409: "rolled back or forked", 500: "answers 500", 302: "answers 302"} {
		s.status = status
		if err := h.Keep(t.Context(), checkpoint("2")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", status, err)
		}
		if _, err := h.Kept(t.Context()); err == nil {
			t.Errorf("%d was taken for checkpoints", status)
		}
	}
	s.status = 0
	if err := os.WriteFile(token, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Keep(t.Context(), checkpoint("2")); err == nil || strings.Contains(err.Error(), "other") {
		t.Errorf("another token: %v", err)
	}
	stranger, err := NewHTTP(HTTPConfig{URL: web.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Keep(t.Context(), checkpoint("2")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Keep(ended, checkpoint("2")); err == nil {
		t.Error("kept although the caller had gone")
	}
}

func TestHTTPThatCannotBe(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []HTTPConfig{
		{}, {URL: "ftp://witness"}, {URL: "https://"}, {URL: "https://user:secret@witness"},
		{URL: "http://witness", TokenFile: empty}, {URL: "https://witness", CAFile: empty}, {URL: "https://witness", CAFile: empty + "x"},
	} {
		if _, err := NewHTTP(cfg); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	h, err := NewHTTP(HTTPConfig{URL: "http://127.0.0.1:1", TokenFile: empty})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Keep(t.Context(), checkpoint("1")); err == nil || !strings.Contains(err.Error(), "one token") {
		t.Errorf("an empty token: %v", err)
	}
}
