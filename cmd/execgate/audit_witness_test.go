package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/audit"
)

// witnessServer is the server of docs/audit-proof.md: it keeps every checkpoint, and
// refuses one that is smaller than the last.
type witnessServer struct {
	mu   sync.Mutex
	kept []string
	down bool
}

func (s *witnessServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer t0k3n" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if s.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.Method == http.MethodGet {
		if len(s.kept) == 0 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		io.WriteString(w, s.kept[len(s.kept)-1])
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || len(s.kept) > 0 && sizeOf(string(body)) < sizeOf(s.kept[len(s.kept)-1]) {
		w.WriteHeader(http.StatusConflict)
		return
	}
	s.kept = append(s.kept, string(body))
}

// size is that of the last checkpoint.
func (s *witnessServer) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) == 0 {
		return 0
	}
	return sizeOf(s.kept[len(s.kept)-1])
}

func (s *witnessServer) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// sizeOf is the number of records that a checkpoint states, or that the last of
// several does.
func sizeOf(checkpoints string) int {
	text := checkpoints[max(0, strings.LastIndex(checkpoints, "\nexecgate/audit/")):]
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) < 2 {
		return 0
	}
	size, _ := strconv.Atoi(lines[1])
	return size
}

// Witnesses get what the log signs; one that is down delays nothing and is warned
// of; and a state folder that was rolled back as a whole, keys and all, is refused by
// what either of them has.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	server, dir := &witnessServer{}, t.TempDir()
	web := httptest.NewTLSServer(server)
	defer web.Close()
	file, token, ca := filepath.Join(dir, "witness"), filepath.Join(dir, "token"), filepath.Join(dir, "ca.pem")
	for path, content := range map[string][]byte{
		token: []byte("t0k3n\n"), ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	small := map[string]string{
		"EXECGATE_EXECUTOR_WARM_TARGET": "0", "EXECGATE_EXECUTOR_WARM_MIN": "0", "EXECGATE_EXECUTOR_WARM_PRELOAD_TARGET": "0",
		"EXECGATE_AUDIT_WITNESS_FILE": file, "EXECGATE_AUDIT_WITNESS_URL": web.URL,
		"EXECGATE_AUDIT_WITNESS_TOKEN_FILE": token, "EXECGATE_AUDIT_WITNESS_CA_FILE": ca,
	}
	g := newGateway(t, filepath.Join(t.TempDir(), "state"), small)
	inFile := func() int {
		text, _ := os.ReadFile(file)
		return sizeOf(string(text))
	}
	// more adds records, and waits for the witnesses that should get them.
	more := func(sizes ...func() int) int {
		t.Helper()
		for range 3 {
			request, err := http.NewRequest("GET", g.url+"/v1/executions/ex_01ARZ3NDEKTSV4RRFFQ69G5FAV", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer eg_nobody")
			answer, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
		}
		records := len(g.records())
		for _, size := range sizes {
			eventually(t, "a witness has the newest checkpoint", func() bool { return size() >= records })
		}
		return records
	}

	g.start()
	g.waitReady()
	more(server.size, inFile)
	server.set(true)
	begun := server.size()
	more(inFile)
	eventually(t, "the gateway is ready with a warning", func() bool {
		r := g.request("GET", "/readyz", "")
		if strings.Contains(string(r.body), `"name":"audit","ready":false`) {
			t.Fatalf("the gateway is not ready: %s", r.body)
		}
		return r.status == http.StatusOK && strings.Contains(string(r.body), "does not keep the latest checkpoints: http")
	})
	if server.size() != begun {
		t.Error("the server was not down")
	}
	server.set(false)
	more(server.size, inFile)
	if code := g.stop(); code != 0 {
		t.Errorf("the exit code is %d", code)
	}
	if records := len(g.records()); server.size() != records || inFile() != records {
		t.Errorf("after the stop the witnesses have %d and %d of %d records", server.size(), inFile(), records)
	}

	early := filepath.Join(dir, "early")
	if out, err := exec.Command("cp", "-a", g.state, early).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g.start()
	g.waitReady()
	records := more(server.size, inFile)
	g.stop()
	g.verify()
	if err := os.RemoveAll(g.state); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", early, g.state).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g.verify() // by itself it is a good log
	key, err := os.ReadFile(filepath.Join(g.state, "keys", "audit.pub"))
	if err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(filepath.Join(g.state, "audit"), string(key), file)
	if err != nil || report.Integrity.OK || report.Completeness.OK || int(report.Witnessed) < records {
		t.Errorf("verify with the witness: %+v %v", report, err)
	}
	for _, other := range []string{"EXECGATE_AUDIT_WITNESS_FILE", "EXECGATE_AUDIT_WITNESS_URL"} {
		name := map[string]string{"EXECGATE_AUDIT_WITNESS_FILE": "http", "EXECGATE_AUDIT_WITNESS_URL": "file"}[other]
		command := exec.Command("execgate", "serve", "--listen", "127.0.0.1:0", "--state", g.state)
		command.Env = os.Environ()
		for variable, value := range small {
			if variable == other || name == "file" && strings.HasPrefix(variable, "EXECGATE_AUDIT_WITNESS_") && variable != "EXECGATE_AUDIT_WITNESS_FILE" {
				continue
			}
			command.Env = append(command.Env, variable+"="+value)
		}
		out, err := command.CombinedOutput()
		if err == nil || command.ProcessState.ExitCode() != exitFailed {
			t.Errorf("with the witness %s: %v: %s", name, err, out)
		}
		for _, want := range []string{fmt.Sprintf("the witness %s has its checkpoint of", name), "rolled back", "restore " + filepath.Join(g.state, "audit")} {
			if !strings.Contains(string(out), want) {
				t.Errorf("with the witness %s the gateway says: %s", name, out)
			}
		}
	}
	// Without witnesses, or once one is away, the operator decides.
	web.Close()
	delete(g.env, "EXECGATE_AUDIT_WITNESS_FILE")
	g.start()
	g.waitReady()
	g.stop()
}
