package export

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestReceiverIsAwayForAWhile(t *testing.T) {
	listener := reserve(t)
	address := listener.Addr().String()
	log := newLog(500)
	r := start(t, log, t.TempDir(), []Sink{{Name: "siem", Type: TypeHTTP, URL: "http://" + address + "/?token=sesame"}})
	eventually(t, "attempts fail", func() bool { return r.Stats()[0].Failures >= 3 })
	if s := r.Stats()[0]; s.Failing == "" || s.Next != 0 {
		t.Errorf("figures while it is away: %+v", s)
	}
	c := &collector{t: t}
	server := &http.Server{Handler: http.HandlerFunc(c.receive)}
	go server.Serve(listener.open())
	t.Cleanup(func() { server.Close() })
	r.waitAcknowledged(500)
	c.check(t, 0, 500)
	if s := r.Stats()[0]; s.Failing != "" {
		t.Errorf("figures once it is back: %+v", s)
	}
	if strings.Contains(r.log.String(), "sesame") {
		t.Error("what the address holds was logged")
	}
	if !strings.Contains(r.log.String(), "delivers again") {
		t.Errorf("that it is back was not logged: %s", r.log)
	}
}

// What a receiver refuses is never skipped: it is asked again, slowly.
func TestRefusalHoldsEverythingBack(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusFound} {
		var mended atomic.Bool
		c := newCollector(t, func(w http.ResponseWriter, r *http.Request, _ []byte) int {
			if r.URL.Path != "/" {
				t.Errorf("a redirection was followed to %s", r.URL)
			}
			if mended.Load() {
				return http.StatusOK
			}
			w.Header().Set("Location", "/elsewhere")
			return status
		})
		p := quick
		p.first, p.most, p.slow = time.Nanosecond, time.Nanosecond, 50*time.Millisecond
		began := time.Now()
		r := start(t, newLog(7), t.TempDir(), []Sink{c.sink()}, withPace(p))
		eventually(t, "it is asked again", func() bool { return r.Stats()[0].Failures >= 3 })
		if took := time.Since(began); took < 2*p.slow {
			t.Errorf("%d: three attempts within %v", status, took)
		}
		if !strings.Contains(r.log.String(), `"level":"ERROR"`) {
			t.Errorf("%d was not logged as an error", status)
		}
		mended.Store(true)
		r.waitAcknowledged(7)
		c.check(t, 0, 7)
	}
}

func TestTooLargeIsSentInParts(t *testing.T) {
	var largest atomic.Int64
	c := newCollector(t, func(_ http.ResponseWriter, _ *http.Request, body []byte) int {
		if len(body) > 10_000 {
			return http.StatusRequestEntityTooLarge
		}
		largest.Store(max(largest.Load(), int64(len(body))))
		return http.StatusOK
	})
	r := start(t, newLog(2000), t.TempDir(), []Sink{c.sink()})
	r.waitAcknowledged(2000)
	if again := c.check(t, 0, 2000); again != 0 {
		t.Errorf("%d records came again", again)
	}
	if largest.Load() < 2500 {
		t.Errorf("the largest body had %d bytes, where 10,000 are taken", largest.Load())
	}
	if s := r.Stats()[0]; s.Failures != 0 {
		t.Errorf("%d failures: a batch that is taken in parts is none", s.Failures)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0, "2000000000": time.Hour, "99999999999999999999": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("Retry-After %q: %v, not %v", text, got, want)
		}
	}
	var first atomic.Pointer[time.Time]
	c := newCollector(t, func(w http.ResponseWriter, r *http.Request, _ []byte) int {
		now := time.Now()
		if first.CompareAndSwap(nil, &now) {
			w.Header().Set("Retry-After", "1")
			return http.StatusServiceUnavailable
		}
		if waited := now.Sub(*first.Load()); waited < time.Second {
			t.Errorf("it asked again after %v", waited)
		}
		return http.StatusOK
	})
	start(t, newLog(1), t.TempDir(), []Sink{c.sink()}).waitAcknowledged(1)
}

func TestReceiverHangs(t *testing.T) {
	var requests atomic.Int64
	c := newCollector(t, func(_ http.ResponseWriter, r *http.Request, _ []byte) int {
		if requests.Add(1) <= 2 {
			<-r.Context().Done()
		}
		return http.StatusOK
	})
	p := quick
	p.attempt = 200 * time.Millisecond
	start(t, newLog(1), t.TempDir(), []Sink{c.sink()}, withPace(p)).waitAcknowledged(1)
}

// An acknowledgement is one without the end of its answer.
func TestAnswerWithoutEnd(t *testing.T) {
	c := &collector{t: t}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		c.take(body)
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	p := quick
	p.attempt = patience
	r := start(t, newLog(2), t.TempDir(), []Sink{{Name: "siem", Type: TypeHTTP, URL: server.URL}}, withPace(p))
	began := time.Now()
	r.waitAcknowledged(2)
	if took := time.Since(began); took > patience/2 || r.Stats()[0].Failures > 0 {
		t.Errorf("it took %v, and %d failures", took, r.Stats()[0].Failures)
	}
	c.check(t, 0, 2)
}

func TestBodies(t *testing.T) {
	var mu sync.Mutex
	got := map[string][]byte{}
	heads := map[string]http.Header{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			body, _ = io.ReadAll(z)
		}
		mu.Lock()
		defer mu.Unlock()
		got[r.URL.Path] = append(got[r.URL.Path], body...)
		heads[r.URL.Path] = r.Header
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "sesame-1\n")
	var sinks []Sink
	for _, name := range []string{"json", "ndjson", "ocsf"} {
		s := Sink{Name: name, Type: TypeHTTP, URL: server.URL + "/" + name, Format: Format(name), TokenFile: token, Gzip: name == "ndjson"}
		sinks = append(sinks, s)
	}
	log := newLog(0)
	r := start(t, log, t.TempDir(), sinks)
	log.grow(1)
	r.waitAcknowledged(1)
	write(t, token, "sesame-2")
	log.grow(1)
	r.waitAcknowledged(2)
	mu.Lock()
	defer mu.Unlock()
	for name, begin := range map[string]string{"json": `[{"log":"` + logID + `","seq":0,`, "ndjson": `{"log":"` + logID + `","seq":0,`, "ocsf": `[{"activity_id":1,`} {
		h := heads["/"+name]
		if !bytes.HasPrefix(got["/"+name], []byte(begin)) {
			t.Errorf("%s begins with %.100s", name, got["/"+name])
		}
		if h.Get("Authorization") != "Bearer sesame-2" || h.Get("Execgate-Log") != logID || h.Get("Execgate-First-Seq") != "1" || h.Get("Execgate-Last-Seq") != "1" {
			t.Errorf("%s was sent with %v", name, h)
		}
		if want := map[string]string{"ndjson": "application/x-ndjson"}[name]; want != "" && h.Get("Content-Type") != want {
			t.Errorf("%s is %s", name, h.Get("Content-Type"))
		}
	}
	if n := bytes.Count(got["/ndjson"], []byte("\n")); n != 2 {
		t.Errorf("%d lines", n)
	}
	if strings.Contains(r.log.String(), "sesame") {
		t.Error("the token was logged")
	}
}

func TestReceiverIsProven(t *testing.T) {
	c := &collector{t: t}
	quiet := log.New(io.Discard, "", 0)
	server := httptest.NewUnstartedServer(http.HandlerFunc(c.receive))
	server.Config.ErrorLog = quiet
	server.StartTLS()
	defer server.Close()
	old := httptest.NewUnstartedServer(http.HandlerFunc(c.receive))
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11}
	old.Config.ErrorLog = quiet
	old.StartTLS()
	defer old.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	strange := start(t, newLog(1), t.TempDir(), []Sink{{Name: "siem", Type: TypeHTTP, URL: server.URL}})
	outdated := start(t, newLog(1), t.TempDir(), []Sink{{Name: "siem", Type: TypeHTTP, URL: old.URL, CAFile: ca}})
	eventually(t, "both are refused", func() bool { return strange.Stats()[0].Failures > 2 && outdated.Stats()[0].Failures > 2 })
	if c.len() != 0 {
		t.Error("records went to a receiver that is not proven")
	}
	start(t, newLog(1), t.TempDir(), []Sink{{Name: "siem", Type: TypeHTTP, URL: server.URL, CAFile: ca}}).waitAcknowledged(1)
	for name, sink := range map[string]Sink{
		"no authority":       {Name: "a", Type: TypeHTTP, URL: server.URL, CAFile: "/nowhere"},
		"no certificate":     {Name: "a", Type: TypeHTTP, URL: server.URL, CAFile: "/dev/null"},
		"no key":             {Name: "a", Type: TypeHTTP, URL: server.URL, ClientCert: ca, ClientKey: ca},
		"no token":           {Name: "a", Type: TypeHTTP, URL: server.URL, TokenFile: "/nowhere"},
		"token for everyone": {Name: "a", Type: TypeHTTP, URL: server.URL, TokenFile: openToken(t)},
		"token with a line":  {Name: "a", Type: TypeHTTP, URL: server.URL, TokenFile: tokenWithLine(t)},
	} {
		if _, err := New(Config{Log: newLog(0), LogID: logID, Dir: t.TempDir(), Sinks: []Sink{sink}}); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
}

func openToken(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "sesame")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func tokenWithLine(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "sesame\r\nHost: elsewhere")
	return path
}
