package export

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkDelivery says how many records a second an exporter of each kind delivers to a
// receiver on this machine that does nothing with them.
func BenchmarkDelivery(b *testing.B) {
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	defer receiver.Close()
	ca, _, pair := authority(b)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) { io.Copy(io.Discard, c) }(conn)
		}
	}()
	for _, bench := range []struct {
		name string
		sink Sink
	}{
		{"jsonl/json", Sink{Type: TypeJSONL}},
		{"jsonl/ocsf", Sink{Type: TypeJSONL, Format: FormatOCSF}},
		{"http/json", Sink{Type: TypeHTTP, URL: receiver.URL}},
		{"http/ndjson-gzip", Sink{Type: TypeHTTP, URL: receiver.URL, Format: FormatNDJSON, Gzip: true}},
		{"http/ocsf", Sink{Type: TypeHTTP, URL: receiver.URL, Format: FormatOCSF}},
		{"syslog/json", Sink{Type: TypeSyslog, Address: listener.Addr().String(), CAFile: ca}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			bench.sink.Name = "bench"
			if bench.sink.Type == TypeJSONL {
				bench.sink.Path = filepath.Join(b.TempDir(), "audit.jsonl")
			}
			log := newLog(0)
			r := start(b, log, b.TempDir(), []Sink{bench.sink}, withPace(pace{}))
			b.ResetTimer()
			log.grow(uint64(b.N))
			for r.workers[0].next.Load() < uint64(b.N) {
				select {
				case <-r.workers[0].moved:
				case <-time.After(patience):
					b.Fatal("it does not get on")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(r.Stats()[0].Bytes)/float64(b.N), "B/record")
			b.StopTimer()
			r.stop()
		})
	}
}
