package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// withConfig starts a gateway with a configuration file, and the settings in env.
func withConfig(t *testing.T, env map[string]string, text string) *gatewayUnderTest {
	t.Helper()
	needsEngine(t)
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, filepath.Join(t.TempDir(), "state"), env)
	g.args = []string{"--config", config}
	g.start()
	g.waitReady()
	return g
}

// received are the records that a receiver has had, without those that came again.
type received struct {
	mu  sync.Mutex
	all []uint64
	log string
}

func (r *received) add(t *testing.T, texts ...json.RawMessage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, text := range texts {
		var id struct {
			Log      string
			Seq      uint64
			Metadata struct{ UID string }
		}
		if err := json.Unmarshal(text, &id); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if id.Metadata.UID != "" { // an event of OCSF
			at := strings.LastIndexByte(id.Metadata.UID, '/')
			id.Log = id.Metadata.UID[:at]
			fmt.Sscan(id.Metadata.UID[at+1:], &id.Seq)
		}
		r.log = id.Log
		if !slices.Contains(r.all, id.Seq) {
			r.all = append(r.all, id.Seq)
		}
	}
}

func (r *received) seqs() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// Every record of a gateway comes to its exporters' receivers, once it is recorded and
// also over a kill: a file, which is rotated, and a receiver that fails now and then.
func TestRecordsAreExported(t *testing.T) {
	t.Parallel()
	var http1 received
	var requests atomic.Int64
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%3 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var events []json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
			return // cut off by the kill
		}
		http1.add(t, events...)
	}))
	defer receiver.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "audit.jsonl")
	g := withConfig(t, nil, fmt.Sprintf(`
exporters:
  - name: file
    type: jsonl
    path: %s
  - name: siem
    type: http
    url: %s/ingest
    format: ocsf
`, file, receiver.URL))
	g.execute(python("print(1)")).ok(t)
	eventually(t, "the file that is to be rotated is there", func() bool { return os.Rename(file, file+".1") == nil })
	g.signal(syscall.SIGHUP) // as those who rotate do
	g.execute(python("print(2)")).ok(t)
	g.kill()
	g.start()
	g.waitReady()
	g.execute(python("print(3)")).ok(t)
	g.request(http.MethodGet, "/v1/keys", "", "Authorization", "Bearer "+"ak_no.thing")
	metrics := g.metrics(g.key())
	for _, name := range []string{"export_next_seq", "export_lag_records", "export_lag_seconds", "export_failures_total", "export_bytes_total"} {
		for _, exporter := range []string{"file", "siem"} {
			if !strings.Contains(metrics, "execgate_"+name+`{exporter="`+exporter+`"}`) {
				t.Errorf("there is no %s of %s", name, exporter)
			}
		}
	}
	want := func() (all []uint64) {
		for _, r := range g.records() {
			all = append(all, r.Seq)
		}
		return all
	}
	eventually(t, "both have acknowledged every record", func() bool {
		shown, records := scan(t, g.metrics(g.key())), float64(len(want()))
		return shown[`execgate_export_next_seq{exporter="file"}`] >= records && shown[`execgate_export_next_seq{exporter="siem"}`] >= records
	})
	if code := g.stop(); code != 0 {
		t.Errorf("the gateway ended with %d", code)
	}
	var lines received
	for _, path := range []string{file + ".1", file} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			lines.add(t, line)
		}
	}
	if diff := cmp.Diff(want(), lines.seqs()); diff != "" {
		t.Errorf("the file: -log +file\n%s", diff)
	}
	if diff := cmp.Diff(want(), http1.seqs()); diff != "" {
		t.Errorf("the receiver: -log +received\n%s", diff)
	}
	if lines.log != http1.log || !strings.HasPrefix(lines.log, "execgate/audit/") {
		t.Errorf("the log is %q and %q", lines.log, http1.log)
	}
	stdout, _ := runCommand(t, g, "audit", "exporters", "--state", g.state, "--output", "json")
	var shown struct{ Exporters []shownExporter }
	if err := json.Unmarshal([]byte(stdout), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown.Exporters) != 2 || shown.Exporters[0].Next != uint64(len(want())) || shown.Exporters[1].Next != uint64(len(want())) {
		t.Errorf("audit exporters shows %s", stdout)
	}
}

// Receivers that are dead in every way hold nothing up, and are warned of.
func TestDeadReceiverDelaysNobody(t *testing.T) {
	t.Parallel()
	hanging, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hanging.Close()
	closed := refusingAddress(t)
	g := withConfig(t, nil, fmt.Sprintf(`
exporters:
  - {name: hanging, type: http, url: "http://%s/"}
  - {name: hanging-syslog, type: syslog, address: "%[1]s"}
  - {name: closed, type: http, url: "http://%[2]s/"}
  - {name: nowhere, type: jsonl, path: "/proc/no/file"}
`, hanging.Addr(), closed))
	plain := startGateway(t, nil)
	var with, without []time.Duration
	// The shortest time that an exporter waits for anything is half a second.
	delayed := func() bool {
		return slices.Min(with) > slices.Min(without)+400*time.Millisecond && slices.Min(with) > 2*slices.Min(without)
	}
	// In turns, so that whatever else the machine does is the same for both; and for longer
	// where it does so much that the shortest are not yet alike.
	for round := 0; round < 6 || delayed() && round < 60; round++ {
		for g, took := range map[*gatewayUnderTest]*[]time.Duration{g: &with, plain: &without} {
			began := time.Now()
			g.execute(python("print(1)")).ok(t)
			*took = append(*took, time.Since(began))
		}
	}
	slices.Sort(with)
	slices.Sort(without)
	t.Logf("an execution takes %v beside dead receivers, and %v without", with[len(with)/2], without[len(without)/2])
	if delayed() {
		t.Errorf("no execution took less than %v beside dead receivers, and without them %v", with[0], without[0])
	}
	eventually(t, "readiness warns", func() bool {
		resp, err := http.Get(g.url + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		if bytes.Contains(text, []byte(`"name":"export","ready":false`)) {
			t.Fatalf("readiness is %d: %s", resp.StatusCode, text)
		}
		if bytes.Contains(text, []byte(closed)) || bytes.Contains(text, []byte("/proc/no")) {
			t.Fatalf("readiness, which is public, says where receivers are: %s", text)
		}
		return resp.StatusCode == http.StatusOK && bytes.Contains(text, []byte("closed (")) && bytes.Contains(text, []byte("nowhere ("))
	})
	if code := g.stop(); code != 0 {
		t.Errorf("the gateway ended with %d", code)
	}
	g.verify()
}

// refusingAddress is one where connections are refused, and where nobody else listens as
// long as the test runs.
func refusingAddress(t *testing.T) string {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(socket) })
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

// What an operator runs without a gateway is delivered by the next gateway, and nothing
// but the program's output is printed.
func TestLocalRunDeliversNothing(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	dir := t.TempDir()
	config, file := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "audit.jsonl")
	text := fmt.Sprintf("exporters:\n  - {name: file, type: jsonl, path: %s}\n  - {name: out, type: jsonl, path: '-'}\n", file)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, filepath.Join(dir, "state"), nil)
	g.args = []string{"--config", config}
	local := exec.Command("execgate", "run", "--local", "--config", config, "--state", g.state, "-")
	local.Stdin = strings.NewReader("print(7)")
	out, err := local.Output()
	if err != nil || string(out) != "7\n" {
		t.Fatalf("it printed %q: %v", out, err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it delivered")
	}
	recorded := len(g.records())
	g.start()
	g.waitReady()
	eventually(t, "what was run before is delivered", func() bool {
		text, _ := os.ReadFile(file)
		return bytes.Count(text, []byte("\n")) >= recorded && bytes.Contains(text, []byte(`"type":"ended"`))
	})
}

// What is wrong with an exporter is told with its line, and nothing of it is repeated.
func TestExporterFaultsNameTheirLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	text := `
exporters:
  - name: one
    type: http
    url: http://user:sesame@siem.example.com/
  - name: one
    type: jsonl
    path: audit.jsonl
    types: [decided, decidde]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(path, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	err = cfg.validate()
	if err == nil || codeOf(err) != exitUsage {
		t.Fatalf("it is taken: %v", err)
	}
	for _, want := range []string{
		"line 5: exporters[0].url must have no user", "line 6: exporters[1].name is \"one\", which another", "line 8: exporters[1].path must be the absolute path",
		"line 9: exporters[1].types has \"decidde\"",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	if strings.Contains(err.Error(), "sesame") {
		t.Errorf("a secret is repeated: %v", err)
	}
}

// A line in a segment would be damage to the log.
func TestExporterPathIsOutsideTheState(t *testing.T) {
	dir := t.TempDir()
	state, link := filepath.Join(dir, "state"), filepath.Join(dir, "link")
	if err := os.MkdirAll(filepath.Join(state, "audit"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(state, "audit"), link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"": false, "-": false, dir + "/audit.jsonl": false, dir + "/state2/x": false, dir + "/..state": false,
		state + "/audit/0000000001.segment": true, dir + "/x/../state/x": true, link + "/0000000001.segment": true, state: true,
	} {
		if got := within(path, state); got != want {
			t.Errorf("%q lies in the state folder: %v", path, got)
		}
	}
}

// Every type of record can be chosen, in the schema as in the program.
func TestRecordTypesAreAll(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../execution/record.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared []string
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && len(v.Values) == 1 {
			if kind, ok := v.Type.(*ast.Ident); ok && kind.Name == "RecordType" {
				declared = append(declared, strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`))
			}
		}
		return true
	})
	var listed []string
	for _, kind := range execution.RecordTypes() {
		listed = append(listed, string(kind))
	}
	var root struct {
		Properties struct {
			Exporters struct {
				Items struct {
					Properties struct {
						Types struct{ Items struct{ Enum []string } }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(configSchema, &root); err != nil {
		t.Fatal(err)
	}
	inSchema := root.Properties.Exporters.Items.Properties.Types.Items.Enum
	for _, list := range [][]string{declared, listed, inSchema} {
		slices.Sort(list)
	}
	if diff := cmp.Diff(declared, listed); diff != "" {
		t.Errorf("execution.RecordTypes: -declared +listed\n%s", diff)
	}
	if diff := cmp.Diff(declared, inSchema); diff != "" {
		t.Errorf("config.schema.json: -declared +schema\n%s", diff)
	}
}
