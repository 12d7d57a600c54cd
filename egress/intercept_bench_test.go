package egress

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// BenchmarkRequest is a request with a body of 1 KiB each way, made directly, and
// through the broker with a credential set and the answer searched for it. The
// difference of the medians is what the broker adds.
func BenchmarkRequest(b *testing.B) {
	small := make([]byte, 1<<10)
	for _, http2 := range []bool{false, true} {
		s := lending(b, nil)
		s.upstream.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write(small)
		})
		protocols := new(http.Protocols)
		protocols.SetHTTP1(!http2)
		protocols.SetHTTP2(http2)
		direct := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.broker.roots, ServerName: "api.test"}, Protocols: protocols}}
		b.Cleanup(direct.CloseIdleConnections)
		for name, via := range map[string]struct {
			client *http.Client
			url    string
		}{
			"direct": {direct, s.upstream.URL + "/"},
			"broker": {s.client(http2), s.url("/")},
		} {
			b.Run(fmt.Sprintf("http2=%v/%s", http2, name), func(b *testing.B) {
				var times []time.Duration
				for b.Loop() {
					began := time.Now()
					res, body := s.do(via.client, request(b, "POST", via.url, string(small)))
					if res.StatusCode != 200 || len(body) != len(small) {
						b.Fatalf("%s: %.200s", res.Status, body)
					}
					times = append(times, time.Since(began))
				}
				slices.Sort(times)
				b.ReportMetric(float64(times[len(times)/2].Microseconds()), "median-µs")
				b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
			})
		}
	}
}

// BenchmarkBody is 64 MiB of an answer to a program.
func BenchmarkBody(b *testing.B) {
	const size = 64 << 20
	chunk := make([]byte, 256<<10)
	for i := range chunk {
		chunk[i] = "the quick brown fox jumps over the lazy dog 0123456789\n"[i%55]
	}
	handle := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range size / len(chunk) {
			_, _ = w.Write(chunk)
		}
	})
	get := func(b *testing.B, client *http.Client, url string) {
		b.SetBytes(size)
		buffer := make([]byte, 256<<10)
		for b.Loop() {
			res, err := client.Get(url)
			if err != nil {
				b.Fatal(err)
			}
			n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, buffer)
			res.Body.Close()
			if n != size || err != nil {
				b.Fatalf("%d bytes, %v", n, err)
			}
		}
	}
	s := lending(b, nil)
	s.upstream.Config.Handler = handle
	b.Run("direct", func(b *testing.B) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.broker.roots, ServerName: "api.test"}}}
		defer client.CloseIdleConnections()
		get(b, client, s.upstream.URL+"/")
	})
	for _, http2 := range []bool{false, true} {
		b.Run(fmt.Sprintf("intercept/http2=%v", http2), func(b *testing.B) { get(b, s.client(http2), s.url("/")) })
	}
	tunnel := lending(b, nil)
	tunnel.upstream.Config.Handler = handle
	tunnel.rule().Mode = execution.NetworkTunnel
	b.Run("tunnel", func(b *testing.B) {
		client := tunnel.client(false)
		client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: tunnel.broker.roots, ServerName: "api.test"}
		get(b, client, tunnel.url("/"))
	})
}
