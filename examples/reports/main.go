// Command reports is an API of reports that wants a key, and a DNS server that knows
// its name: the outside world of scripts/demo-broker. It is careless, as some are: it
// answers with what it was sent, and does whatever somebody with the key asks for.
package main

import (
	"crypto/subtle"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// keyVariable holds the key that the API wants.
const keyVariable = "REPORTS_KEY"

func main() {
	name := flag.String("name", "api.reports.example", "the name of the API")
	folder := flag.String("folder", "", "where ca.pem and, once all is ready, the addresses api and dns are written to")
	flag.Parse()
	if err := serve(*name, *folder, os.Getenv(keyVariable)); err != nil {
		fmt.Fprintln(os.Stderr, "reports:", err)
		os.Exit(1)
	}
}

// serve serves until something fails, on ports of this machine that are free.
func serve(name, folder, key string) error {
	if folder == "" || key == "" {
		return fmt.Errorf("-folder and the variable %s are required", keyVariable)
	}
	config, authority, err := certificate(name)
	if err != nil {
		return err
	}
	api, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	names, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	for _, file := range []struct{ name, text string }{
		{"ca.pem", string(authority)}, {"dns", names.LocalAddr().String()}, {"api", api.Addr().String()},
	} {
		if err := write(filepath.Join(folder, file.name), file.text); err != nil {
			return err
		}
	}
	failed := make(chan error, 2)
	go func() { failed <- answerNames(names, name) }()
	go func() {
		server := &http.Server{Handler: reports(key), TLSConfig: config}
		failed <- server.ServeTLS(api, "", "")
	}()
	return <-failed
}

// write makes a file that is there whole, or not at all.
func write(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// reports is the API. It says on standard output what it is asked.
func reports(key string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := r.Header.Get("Authorization")
		known := subtle.ConstantTimeCompare([]byte(given), []byte("Bearer "+key)) == 1
		fmt.Printf("%s %s, with the key: %t\n", r.Method, r.URL.Path, known)
		w.Header().Set("Content-Type", "application/json")
		answer := map[string]any{"error": "who are you?"}
		switch {
		case !known:
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/reports/echo":
			answer = map[string]any{"you_sent": r.Header}
		case strings.HasPrefix(r.URL.Path, "/reports/") && r.Method == http.MethodGet:
			answer = map[string]any{"report": strings.TrimPrefix(r.URL.Path, "/reports/"), "total": 42}
		default:
			answer = map[string]any{"done": r.Method + " " + r.URL.Path}
		}
		_ = json.NewEncoder(w).Encode(answer) // who does not wait for it does not want it
	})
}
