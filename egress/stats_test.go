package egress

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// Every request is counted once, allowed or not, and no part of what a program, a
// policy or a destination chose becomes one of the counters.
func TestRequestsAreCounted(t *testing.T) {
	s := newSandbox(t, Config{Decider: policyOf(func(r execution.EgressRequest) execution.Decision {
		if r.Path == "/secret" {
			return execution.Deny("", execution.Reason{Code: "a_code_of_this_policy"})
		}
		return execution.Decision{Effect: execution.EffectAllow}
	})}, nil)
	s.rule().Methods = []string{"GET", "POST"}
	s.upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/gone":
			panic(http.ErrAbortHandler)
		case "/missing":
			w.WriteHeader(http.StatusNotFound)
		case "/odd":
			w.WriteHeader(799)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "four")
	})
	c := s.client(false)
	for _, r := range []struct{ method, path, body string }{
		{"POST", "/", "seven.."}, {"GET", "/", ""}, {"GET", "/missing", ""}, {"GET", "/odd", ""}, {"GET", "/gone", ""},
		{"DELETE", "/", ""}, {"INVENTED", "/", ""}, {"GET", "/secret", ""},
	} {
		s.do(c, request(t, r.method, s.url(r.path), r.body))
	}
	s.do(c, request(t, "GET", "https://evil.test/", ""))
	allowed, denied := execution.EffectAllow, execution.EffectDeny
	got := s.broker.Stats()
	if diff := cmp.Diff(map[RequestOutcome]uint64{
		{Outcome{allowed, ""}, "2xx"}:             2,
		{Outcome{allowed, ""}, "4xx"}:             1,
		{Outcome{allowed, ""}, ""}:                1, // of no class
		{Outcome{allowed, codeUpstream}, ""}:      1,
		{Outcome{denied, codeMethodNotOpen}, ""}:  2,
		{Outcome{denied, codeDecisionDenied}, ""}: 1,
		{Outcome{denied, codeNotGranted}, ""}:     1,
	}, got.Requests); diff != "" {
		t.Error(diff)
	}
	if got.RequestBytesOut != 7 || got.RequestBytesIn != 4*4 {
		t.Errorf("%d bytes out, %d in", got.RequestBytesOut, got.RequestBytesIn)
	}
	counts := map[string]uint64{}
	for class, h := range got.RequestSeconds {
		if counts[class] = h.Count; h.Sum <= 0 {
			t.Errorf("%s: %+v", class, h)
		}
	}
	if diff := cmp.Diff(map[string]uint64{"2xx": 2, "4xx": 1, "": 2}, counts); diff != "" {
		t.Error(diff)
	}
	if len(got.Connections) != 0 {
		t.Errorf("counted as connections: %v", got.Connections)
	}
}

func TestHistogramCountsUpwards(t *testing.T) {
	var d durations
	for _, took := range []time.Duration{time.Millisecond, 2 * time.Millisecond, time.Hour} {
		d.add(took)
	}
	h := d.histogram()
	if h.Count != 3 || h.Buckets[.001] != 1 || h.Buckets[.0025] != 2 || h.Buckets[300] != 2 || h.Sum < 3600 {
		t.Errorf("%+v", h)
	}
}
