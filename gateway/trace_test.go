package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

func TestTraceparent(t *testing.T) {
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	good := "00-" + id + "-00f067aa0ba902b7-01"
	for _, text := range []string{good, "00-" + id + "-00f067aa0ba902b7-ff", "01" + good[2:], "cc" + good[2:] + "-more"} {
		if got, ok := parseTraceparent(text); got != id || !ok {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
	for _, text := range []string{
		"", good[1:], good[:54], good + "-more", good + "x", " " + good, "ff" + good[2:], "cc" + good[2:] + "more", "0x" + good[2:],
		strings.ToUpper(good), strings.Replace(good, "-", "_", 1), strings.Replace(good, id, strings.Repeat("0", 32), 1),
		strings.Replace(good, "00f067aa0ba902b7", strings.Repeat("0", 16), 1), strings.Replace(good, id, strings.Repeat("g", 32), 1),
	} {
		if got, ok := parseTraceparent(text); ok {
			t.Errorf("%q is trace %s", text, got)
		}
	}
	if got := traceIDOf(http.Header{"Traceparent": {good, good}}); got != "" {
		t.Errorf("two headers give trace %s", got)
	}
}

func TestRequestIDs(t *testing.T) {
	for _, good := range []string{"a", "A-b_c.9", strings.Repeat("x", 64)} {
		if got := requestIDOf(http.Header{"X-Request-Id": {good}}, time.Now()); got != good {
			t.Errorf("%q became %q", good, got)
		}
	}
	for _, bad := range [][]string{nil, {""}, {strings.Repeat("x", 65)}, {"a b"}, {"a\x1b[2J"}, {"é"}, {"a/b"}, {"<script>"}, {"a", "b"}} {
		if got := requestIDOf(http.Header{"X-Request-Id": bad}, time.Now()); !execution.ValidID("rq_", got) {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x")
	f.Fuzz(func(t *testing.T, text string) {
		if id, ok := parseTraceparent(text); ok && (len(id) != 32 || !isLowerHex(id) || !strings.Contains(text, id)) {
			t.Errorf("%q gives %q", text, id)
		}
	})
}

func TestAccept(t *testing.T) {
	for accept, want := range map[string]bool{
		"": true, "*/*": true, "application/json": true, "APPLICATION/JSON": true, "application/*;q=0.1": true, "text/html, */*;q=0.8": true,
		"text/event-stream": false, "text/html": false, "application/json;q=0": false, "*/*, application/json;q=0": false,
		"*/*;q=0": false, "*/*;q=0, application/json": true, "json": false, "application/json;q=x": false, "application/problem+json": false,
	} {
		if err := checkAccept(http.Header{"Accept": {accept}}); (err == nil) != want {
			t.Errorf("Accept: %s: %v", accept, err)
		}
	}
}

func TestContentType(t *testing.T) {
	for header, want := range map[string]bool{
		"application/json": true, "application/json; charset=utf-8": true, "Application/JSON;charset=UTF-8": true,
		"": false, "text/plain": false, "application/json; charset=latin1": false, "application/jsonp": false,
		"application/x-www-form-urlencoded": false, "multipart/form-data; boundary=x": false, "application/json, text/plain": false,
	} {
		if err := checkContentType(http.Header{"Content-Type": {header}}); (err == nil) != want {
			t.Errorf("Content-Type: %s: %v", header, err)
		}
	}
	if checkContentType(http.Header{"Content-Type": {"application/json"}, "Content-Encoding": {"gzip"}}) == nil {
		t.Error("a compressed body is taken")
	}
	if checkContentType(http.Header{"Content-Type": {"application/json", "text/plain"}}) == nil {
		t.Error("two content types are taken")
	}
}

func TestBucket(t *testing.T) {
	b := newBucket(3, time.Second)
	now := time.Unix(1_700_000_000, 0)
	takes := func(n int) (taken, suppressed int) {
		for range n {
			ok, s := b.take(now)
			suppressed += s
			if ok {
				taken++
			}
		}
		return taken, suppressed
	}
	if taken, _ := takes(10); taken != 3 {
		t.Errorf("%d at once, want the burst of 3", taken)
	}
	now = now.Add(time.Second)
	if taken, suppressed := takes(5); taken != 1 || suppressed != 7 {
		t.Errorf("a second later %d, with %d suppressed before; want 1 and 7", taken, suppressed)
	}
	now = now.Add(time.Hour)
	if taken, suppressed := takes(10); taken != 3 || suppressed != 4 {
		t.Errorf("an hour later %d, with %d suppressed before; want 3 and 4", taken, suppressed)
	}
}
