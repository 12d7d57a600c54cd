package gateway

import (
	"net/http"
	"strconv"
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
		if _, err := negotiate(http.Header{"Accept": {accept}}, mediaJSON); (err == nil) != want {
			t.Errorf("Accept: %s: %v", accept, err)
		}
	}
	for accept, want := range map[string]string{
		"": mediaJSON, "*/*": mediaJSON, "text/event-stream": mediaEvents, "text/*": mediaEvents, "application/json, text/event-stream": mediaJSON,
		"application/json;q=0.5, text/event-stream": mediaEvents, "*/*, application/json;q=0": mediaEvents, "text/event-stream;q=0, */*": mediaJSON,
	} {
		if got, err := negotiate(http.Header{"Accept": {accept}}, mediaJSON, mediaEvents); err != nil || got != want {
			t.Errorf("Accept: %s: %q, %v; want %q", accept, got, err, want)
		}
	}
}

func TestPrefer(t *testing.T) {
	for prefer, want := range map[string]bool{
		"respond-async": true, "Respond-Async": true, "wait=10, respond-async": true, "respond-async; x=1": true,
		"": false, "wait=10": false, "respond-asynchronously": false, "return=minimal": false,
	} {
		if got := prefersAsync(http.Header{"Prefer": {prefer}}); got != want {
			t.Errorf("Prefer: %s: %v", prefer, got)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	for _, values := range [][]string{nil, {"k"}, {"\"8e03978e-40d5-43dd-bc93-6894a57f9324\""}, {strings.Repeat("k", 255)}} {
		if key, err := idempotencyKeyOf(http.Header{"Idempotency-Key": values}); err != nil || key != strings.Join(values, "") {
			t.Errorf("%q: %q, %v", values, key, err)
		}
	}
	for _, values := range [][]string{{""}, {"a", "a"}, {"a b"}, {"\t"}, {"é"}, {"a\x7f"}, {strings.Repeat("k", 256)}} {
		if key, err := idempotencyKeyOf(http.Header{"Idempotency-Key": values}); err == nil || key != "" {
			t.Errorf("%q is taken as %q", values, key)
		}
	}
}

func FuzzLastEventID(f *testing.F) {
	for _, text := range []string{"", "0", "1", "007", "+1", "-1", "18446744073709551615", "18446744073709551616", "1 ", "1\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := lastEventIDOf(http.Header{"Last-Event-Id": {text}})
		if err == nil && text != "" && strconv.FormatUint(id, 10) != text {
			t.Errorf("%q is read as %d", text, id)
		}
		if err != nil && id != 0 {
			t.Errorf("%q fails and gives %d", text, id)
		}
	})
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
