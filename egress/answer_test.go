package egress

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// lending is a sandbox whose requests get the secret.
func lending(t testing.TB, handle http.HandlerFunc) *sandbox {
	s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, handle)
	s.bind("api", execution.Binding{Mode: "bearer", Paths: []string{"/", "/in/*"}})
	return s
}

func TestReflectionIsScrubbed(t *testing.T) {
	forms := []string{
		secret, base64.StdEncoding.EncodeToString([]byte("x" + secret)), base64.RawURLEncoding.EncodeToString([]byte("xy" + secret)),
		hex.EncodeToString([]byte(secret)), url.QueryEscape(secret), fmt.Sprintf("%q", secret),
	}
	for _, http2 := range []bool{false, true} {
		for _, form := range forms {
			s := lending(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Back", "a "+form+" b")
				w.Header().Set("Location", "https://evil.test/?k="+url.QueryEscape(secret))
				w.Header().Set("Trailer", "X-Trailer")
				w.WriteHeader(http.StatusFound)
				for i := range len(form) { // one byte in each chunk
					_, _ = io.WriteString(w, form[i:i+1])
					_ = http.NewResponseController(w).Flush()
				}
				w.Header().Set("X-Trailer", form)
			})
			res, body := s.do(s.client(http2), request(t, "GET", s.url("/"), ""))
			text := fmt.Sprint(res.Header, body, res.Trailer)
			if res.StatusCode != 302 || len(res.Trailer) != 1 || strings.Count(text, "[redacted]") < 4 {
				t.Errorf("http2 %v: %d %s", http2, res.StatusCode, text)
			}
			for _, form := range forms {
				if strings.Contains(text, form[5:len(form)-5]) {
					t.Errorf("http2 %v, %q has come back: %s", http2, form, text)
				}
			}
		}
	}
}

// What was stored with a credential is scrubbed where it is read without, too.
func TestStoredSecretIsScrubbed(t *testing.T) {
	var stored string
	s := lending(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/out" {
			_, _ = io.WriteString(w, stored)
		}
		stored = r.Header.Get("Authorization")
	})
	c := s.client(false)
	s.do(c, request(t, "GET", s.url("/in/"), ""))
	if _, body := s.do(c, request(t, "GET", s.url("/out"), "")); body != "Bearer [redacted]" {
		t.Errorf("read back: %q", body)
	}
}

func TestStrictBindingWithholds(t *testing.T) {
	for name, handle := range map[string]http.HandlerFunc{
		"compressed": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, "compressed")
		},
		"compressed twice": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Add("Content-Encoding", "identity")
			w.Header().Add("Content-Encoding", "br")
			_, _ = io.WriteString(w, "compressed")
		},
		"a part": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, r.Header.Get("Authorization")[:9])
		},
	} {
		s := lending(t, handle)
		r := request(t, "GET", s.url("/"), "")
		r.Header.Set("Range", "bytes=0-8")
		r.Header.Set("If-Range", `"x"`)
		r.Header.Set("Accept-Encoding", "gzip")
		if res, _ := s.do(s.client(false), r); res.StatusCode/100 != 2 {
			t.Errorf("%s, not strict: %s", name, res.Status)
		}
		s.job.Grant.Credentials[0].Strict = true
		res, body := s.do(s.client(false), r)
		if p := problemIn(t, res, body); p.Code != codeUnscrubbable || p.Status != 502 {
			t.Errorf("%s: %+v", name, p)
		}
		if got := s.requests(); got[1].Header.Get("Range") != "" || got[1].Header.Get("If-Range") != "" || got[1].Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s: received %v", name, got[1].Header)
		}
	}
}

// Both ways a body is carried while it comes, and events are shown when they are.
func TestBodiesAreStreamed(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		events := make(chan string)
		s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, nil)
		s.bind("api", execution.Binding{Mode: "bearer"})
		s.upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_ = http.NewResponseController(w).Flush()
			for event := range events {
				_, _ = io.WriteString(w, event)
				_ = http.NewResponseController(w).Flush()
			}
		})
		res, err := s.client(http2).Do(request(t, "GET", s.url("/"), ""))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			event := "data: ends as a secret begins: hv"
			events <- event
			buffer := make([]byte, len(event))
			if _, err := io.ReadFull(res.Body, buffer); err != nil || string(buffer) != event {
				t.Fatalf("read %q, %v", buffer, err)
			}
		}
		close(events)
		res.Body.Close()
	}
}

// A secret that comes in small pieces with pauses is not shown piece by piece.
func TestSecretInPieces(t *testing.T) {
	s := lending(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; i < len(secret); i += 3 {
			_, _ = io.WriteString(w, secret[i:min(i+3, len(secret))])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(3 * showAfter):
			}
		}
	})
	_, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
	if shown := strings.TrimSuffix(body, "[redacted]"); len(shown) > maxShown || !strings.HasSuffix(body, "[redacted]") {
		t.Errorf("shown: %q", body)
	}
}

func TestLargeBodyBothWays(t *testing.T) {
	const size = 8 << 20
	for _, http2 := range []bool{false, true} {
		s := lending(t, nil)
		s.upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			if n != size || err != nil {
				t.Errorf("received %d bytes, %v", n, err)
			}
			_, _ = w.Write(bytes.Repeat([]byte("0123456789abcdef"), size/16))
		})
		r := request(t, "PUT", s.url("/"), strings.Repeat("a", size))
		_, body := s.do(s.client(http2), r)
		if len(body) != size {
			t.Errorf("answered with %d bytes", len(body))
		}
		end := s.log.all()[1].EgressEnded
		if end.BytesOut != size || end.BytesIn != size || end.Error != "" {
			t.Errorf("recorded: %+v", end)
		}
	}
}

// An answer that breaks off does not look whole.
func TestBrokenAnswer(t *testing.T) {
	s := lending(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half of it")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	for _, http2 := range []bool{false, true} {
		res, err := s.client(http2).Do(request(t, "GET", s.url("/"), ""))
		if err != nil {
			continue // also said
		}
		if body, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("http2 %v: read %q as if it were whole", http2, body)
		}
		res.Body.Close()
	}
}
