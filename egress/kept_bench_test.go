package egress

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"
)

// BenchmarkCall is the request of an http tool with 1 KiB each way: over the connection of
// the call before it, and over one of its own, each beside a client that does the same
// directly. They take turns, so that whatever else the machine does falls on all alike.
func BenchmarkCall(b *testing.B) {
	small := make([]byte, 1<<10)
	for _, http2 := range []bool{false, true} {
		b.Run(map[bool]string{false: "http2=false", true: "http2=true"}[http2], func(b *testing.B) {
			s := keeping(b, Config{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(small) })
			s.job.Call.Method, s.job.Call.Body = "POST", small
			if !http2 {
				s.upstream.TLS.NextProtos = []string{"http/1.1"}
			}
			budget := &s.job.Grant.Network.Budget
			budget.Requests, budget.RequestsPerS, budget.Bytes = 1<<40, 1<<40, 1<<50
			protocols := new(http.Protocols)
			protocols.SetHTTP1(!http2)
			protocols.SetHTTP2(http2)
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.broker.roots, ServerName: "api.test"}, Protocols: protocols}
			defer transport.CloseIdleConnections()
			direct := func() {
				res, err := transport.RoundTrip(request(b, "POST", s.upstream.URL+"/", string(small)))
				if err != nil {
					b.Fatal(err)
				}
				defer res.Body.Close()
				if got, err := io.ReadAll(res.Body); err != nil || len(got) != len(small) {
					b.Fatal(len(got), err)
				}
			}
			call := func() {
				if r := s.call(nil); r.Status != 200 || !bytes.Equal(r.Stdout, small) {
					b.Fatalf("%+v: %.200s", r, r.Stdout)
				}
			}
			apart := func() { s.broker.kept.drop(func(*kept) bool { return true }) }
			turns := []struct {
				name          string
				before, doing func()
				took          []time.Duration
			}{
				{"call", func() {}, call, nil}, {"direct", func() {}, direct, nil},
				{"call-alone", apart, call, nil}, {"direct-alone", transport.CloseIdleConnections, direct, nil},
			}
			for b.Loop() {
				for i := range turns {
					turns[i].before()
					began := time.Now()
					turns[i].doing()
					turns[i].took = append(turns[i].took, time.Since(began))
				}
			}
			b.ReportMetric(0, "ns/op")
			for _, t := range turns {
				slices.Sort(t.took)
				b.ReportMetric(float64(t.took[len(t.took)/2].Microseconds()), t.name+"-µs")
			}
		})
	}
}
