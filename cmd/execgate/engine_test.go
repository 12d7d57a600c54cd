package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
)

// engineSocket is where the tests expect the container engine.
func engineSocket() string {
	if path, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		return path
	}
	return "/var/run/docker.sock"
}

// engineHTTP speaks the engine's API by hand: what the executor says of itself
// is not what these tests believe.
var engineHTTP = &http.Client{
	Timeout: patience,
	Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", engineSocket())
	}},
}

var engineFound = sync.OnceValue(func() error {
	resp, err := engineHTTP.Get("http://engine/images/execgate%2Fsandbox:latest/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the image execgate/sandbox: %s", resp.Status)
	}
	return nil
})

// needsEngine skips a test where there is no engine to run it on, and fails it
// where there has to be one.
func needsEngine(t testing.TB) {
	t.Helper()
	if err := engineFound(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI=true and there is no container engine with the sandbox image (run make setup): %v", err)
		}
		t.Skipf("NOT TESTED: there is no container engine with the sandbox image (run make setup): %v", err)
	}
}

// needsRuntime fails where the engine has no such runtime.
func needsRuntime(t testing.TB, name string) {
	t.Helper()
	needsEngine(t)
	var info struct{ Runtimes map[string]json.RawMessage }
	engineGet(t, "/info", &info)
	if _, ok := info.Runtimes[name]; !ok {
		t.Fatalf("the engine has no runtime %s: run scripts/setup --gvisor", name)
	}
}

// container is what the tests read of one.
type container struct {
	ID     string
	State  string
	Labels map[string]string
}

// containersOf returns the containers, running or not, of one gateway.
func containersOf(t testing.TB, gateway string) []container {
	t.Helper()
	filter, err := json.Marshal(map[string][]string{"label": {"execgate.gateway=" + gateway}})
	if err != nil {
		t.Fatal(err)
	}
	var list []container
	engineGet(t, "/containers/json?all=1&filters="+url.QueryEscape(string(filter)), &list)
	return list
}

// inspect returns what the engine knows of a container, as it says it.
func inspect(t testing.TB, id string) json.RawMessage {
	t.Helper()
	var all json.RawMessage
	engineGet(t, "/containers/"+id+"/json", &all)
	return all
}

func engineGet(t testing.TB, path string, into any) {
	t.Helper()
	resp, err := engineHTTP.Get("http://engine" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("engine: GET %s: %s: %s", path, resp.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatal(err)
	}
}

// removeContainers cleans up after a test that failed.
func removeContainers(t testing.TB, gateway string) {
	for _, c := range containersOf(t, gateway) {
		req, err := http.NewRequest(http.MethodDelete, "http://engine/containers/"+c.ID+"?force=1&v=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := engineHTTP.Do(req); err == nil {
			resp.Body.Close()
		}
	}
}

// switchboard stands between a gateway and the engine, so that the engine can
// be gone for that gateway alone.
type switchboard struct {
	path string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
}

func newSwitchboard(t *testing.T) *switchboard {
	t.Helper()
	dir, err := os.MkdirTemp("", "eg") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &switchboard{path: dir + "/engine.sock", conns: map[net.Conn]struct{}{}}
	t.Cleanup(s.cut)
	return s
}

// address is what executor.engine is set to.
func (s *switchboard) address() string { return "unix://" + s.path }

// connect lets the engine be there.
func (s *switchboard) connect(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.listener = listener
	s.mu.Unlock()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			engine, err := net.Dial("unix", engineSocket())
			if err != nil {
				conn.Close()
				continue
			}
			s.mu.Lock()
			there := s.listener == listener // it may have been cut since
			if there {
				s.conns[conn], s.conns[engine] = struct{}{}, struct{}{}
			}
			s.mu.Unlock()
			if !there {
				conn.Close()
				engine.Close()
				return
			}
			go s.carry(conn, engine)
			go s.carry(engine, conn)
		}
	}()
}

// carry copies one way and passes on that one side will write no more, as an
// attached stream needs.
func (s *switchboard) carry(to, from net.Conn) {
	io.Copy(to, from)
	if half, ok := to.(*net.UnixConn); ok {
		half.CloseWrite()
	}
}

// cut makes the engine be gone, at once.
func (s *switchboard) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		s.listener.Close() // which removes the socket too
		s.listener = nil
	}
	for conn := range s.conns {
		conn.Close()
	}
	clear(s.conns)
}
