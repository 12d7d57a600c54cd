// Command load makes requests as fast as they are answered, and is what they are made
// to: the load generator of the benchmarks of egress, which runs inside sandboxes and
// beside them. It takes little of the processor itself.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

func main() {
	var (
		serveAt     = flag.String("serve", "", "certificate and key in one file: serve until the input ends, at the port that is printed")
		http2       = flag.Bool("http2", false, "serve HTTP/2 too")
		to          = flag.String("url", "", "what to ask for")
		connections = flag.Int("connections", 16, "kept open, each with one request at a time")
		requests    = flag.Int("requests", 1000, "all together")
		size        = flag.Int("body", 1<<10, "bytes of each request's body")
		token       = flag.String("token", "", "to send as the credential")
		contains    = flag.String("contains", "", "what each answer must contain")
		hold        = flag.Bool("hold", false, "one request on each connection, and then wait until it is ended")
	)
	flag.Parse()
	var err error
	if *serveAt != "" {
		err = serve(*serveAt, *http2)
	} else {
		err = ask(load{*to, *connections, *requests, *size, *token, *contains, *hold})
	}
	if err != nil {
		log.Fatal(err)
	}
}

// serve answers every request with its credential and 1 KiB.
func serve(file string, http2 bool) error {
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	filler := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog "), 23)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(http2)
	server := &http.Server{
		Protocols: protocols, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // who sends less learns of it
			_, _ = fmt.Fprintf(w, "%s\n%s", r.Header.Get("Authorization"), filler)
		}),
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it ends the server
		_ = server.Shutdown(context.Background())
	}()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// load is what to ask.
type load struct {
	url                         string
	connections, requests, size int
	token, contains             string
	hold                        bool
}

// Report is what came of it, as JSON on the output.
type Report struct {
	Requests                int
	Seconds, CPUSeconds     float64 // CPUSeconds are this process's
	MedianMicros, P99Micros int64
}

func ask(l load) error {
	u, err := url.Parse(l.url)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: load\r\nContent-Type: text/plain\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", u.RequestURI(), u.Host, l.token, l.size)
	text = append(text, bytes.Repeat([]byte("x"), l.size)...)
	conns := make([]*tls.Conn, l.connections)
	for i := range conns {
		if conns[i], err = tls.Dial("tcp", u.Host, nil); err != nil {
			return err
		}
	}
	each := max(l.requests/l.connections, 1)
	if l.hold {
		each = 1
	}
	took := make([][]time.Duration, l.connections)
	errs := make([]error, l.connections)
	var all sync.WaitGroup
	began := time.Now()
	for i, conn := range conns {
		all.Go(func() { took[i], errs[i] = l.on(conn, text, each) })
	}
	all.Wait()
	seconds := time.Since(began).Seconds()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	times := slices.Concat(took...)
	slices.Sort(times)
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return err
	}
	cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if err := json.NewEncoder(os.Stdout).Encode(Report{
		len(times), seconds, cpu.Seconds(), times[len(times)/2].Microseconds(), times[len(times)*99/100].Microseconds(),
	}); err != nil {
		return err
	}
	if l.hold {
		_, err = io.Copy(io.Discard, conns[0])
	}
	return err
}

// on asks n times on one connection, and returns how long each took.
func (l load) on(conn *tls.Conn, text []byte, n int) ([]time.Duration, error) {
	in := bufio.NewReaderSize(conn, 16<<10)
	var body bytes.Buffer
	took := make([]time.Duration, 0, n)
	for range n {
		began := time.Now()
		if _, err := conn.Write(text); err != nil {
			return nil, err
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return nil, err
		}
		body.Reset()
		if _, err := body.ReadFrom(res.Body); err != nil {
			return nil, err
		}
		if res.StatusCode != http.StatusOK || !bytes.Contains(body.Bytes(), []byte(l.contains)) {
			return nil, fmt.Errorf("%s: %.300s", res.Status, body.Bytes())
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}
