package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// vaultDoor stands between a gateway and its Vault, and has something happen at one
// request, before it arrives or before its answer does.
type vaultDoor struct {
	address string

	mu      sync.Mutex
	request string // beginning of the path
	answer  bool
	sprung  func()
}

func newVaultDoor(t *testing.T, vault string) *vaultDoor {
	t.Helper()
	to, err := url.Parse(vault)
	if err != nil {
		t.Fatal(err)
	}
	d := &vaultDoor{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(r *http.Response) error {
			d.pass(r.Request, true)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.pass(r, false)
		// What was asked is carried out, also where who asked is gone.
		proxy.ServeHTTP(w, r.WithContext(t.Context()))
	}))
	t.Cleanup(server.Close)
	d.address = server.URL
	return d
}

// set arms the door once.
func (d *vaultDoor) set(request string, answer bool, sprung func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.request, d.answer, d.sprung = request, answer, sprung
}

func (d *vaultDoor) pass(r *http.Request, answer bool) {
	d.mu.Lock()
	var sprung func()
	if d.sprung != nil && d.answer == answer && strings.HasPrefix(r.URL.Path, d.request) {
		sprung, d.sprung = d.sprung, nil
	}
	d.mu.Unlock()
	if sprung != nil {
		sprung()
	}
}
