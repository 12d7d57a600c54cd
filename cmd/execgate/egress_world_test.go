package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/store"
)

// loadTool is the tool whose credential the requests of an egressWorld need.
const (
	loadTool = "load-api"
	loadKey  = "key-of-the-company-4b1e9d77"
)

// egressWorld is everything that a request of a program passes, as serve has it: the
// executor, the broker, policy, a lender and the audit log on the disk. Sandboxes and
// destination run testdata/load.
type egressWorld struct {
	tb       testing.TB
	program  string // path of the program
	caFile   string
	upstream *os.Process
	port     int
	broker   *egress.Broker
	lender   *lender
	executor carrying
	image    string // digest
}

// newEgressWorld starts one. http2 is whether the destination speaks it.
func newEgressWorld(b testing.TB, http2 bool) *egressWorld {
	b.Helper()
	needsEngine(b)
	w := &egressWorld{tb: b}
	dir := b.TempDir()
	w.program = filepath.Join(dir, "load")
	w.must(goBuild(w.program, "./testdata/load"))
	w.certificate(dir)
	w.serve(filepath.Join(dir, "upstream.pem"), http2)

	ctx, stop := context.WithCancel(context.Background())
	logger := slog.New(slog.NewTextHandler(b.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	log, err := audit.New(audit.Config{Dir: filepath.Join(dir, "state", "audit"), KeyDir: filepath.Join(dir, "state", "keys"), Budget: time.Minute, Logger: logger})
	w.must(err)
	db, err := store.Open(ctx, filepath.Join(dir, "state", "store.db"))
	w.must(err)
	engine, err := policy.New(policy.Config{Deadline: time.Minute, Logger: logger})
	w.must(err)
	_, err = engine.Activate(ctx, policy.Bundle{Files: w.policy(dir)})
	w.must(err)
	credentials := filepath.Join(dir, "credentials.json")
	w.must(os.WriteFile(credentials, []byte(`{"`+loadTool+`": {"token": "`+loadKey+`"}}`), 0o600))
	w.lender, err = newLender(VaultConfig{}, credentials, db, log, logger)
	w.must(err)
	w.broker, err = newBroker(EgressConfig{AllowedNetworks: "127.0.0.0/8", Resolver: lyingResolver(b), CAFile: w.caFile}, log, time.Minute, engine, w.lender, &insideTools{}, logger)
	w.must(err)

	cfg := defaultConfig()
	cfg.Executor.Agent, cfg.Executor.Images = os.Getenv("EXECGATE_EXECUTOR_AGENT"), w.images(dir)
	cfg.Executor.StartTimeoutMS = patience.Milliseconds()
	cfg.Executor.WarmTarget, cfg.Executor.WarmMin, cfg.Executor.WarmPreloadTarget = 0, 0, 0
	run, err := newExecutor(cfg, execution.NewID("test_", time.Now()), w.broker, logger)
	w.must(err)
	w.executor = carrying{run, w.broker}
	ended := make(chan error, 2)
	go func() { ended <- log.Run(ctx) }()
	go func() { ended <- run.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		for range cap(ended) {
			if err := <-ended; err != nil {
				b.Error(err)
			}
		}
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	found, err := run.Resolve(ctx, "", "load")
	w.must(err)
	w.image = found.Digest
	return w
}

func (w *egressWorld) must(err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatal(err)
	}
}

func goBuild(to, from string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, from)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", from, err, out)
	}
	return nil
}

// certificate makes that of the destination, which signs itself.
func (w *egressWorld) certificate(dir string) {
	w.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "upstream"}, DNSNames: []string{apiHost, "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	w.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	w.must(err)
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	w.caFile = filepath.Join(dir, "ca.pem")
	w.must(os.WriteFile(w.caFile, public, 0o644))
	w.must(os.WriteFile(filepath.Join(dir, "upstream.pem"), append(public, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), 0o600))
}

// serve starts the destination, a process of its own.
func (w *egressWorld) serve(certificate string, http2 bool) {
	w.tb.Helper()
	server := exec.Command(w.program, "-serve", certificate, "-http2="+strconv.FormatBool(http2))
	server.Stderr = w.tb.Output()
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	input, err := server.StdinPipe()
	w.must(err)
	output, err := server.StdoutPipe()
	w.must(err)
	w.must(server.Start())
	w.tb.Cleanup(func() {
		_ = input.Close() // it ends with that
		_ = server.Wait()
	})
	line, err := bufio.NewReader(output).ReadString('\n')
	w.must(err)
	w.port, err = strconv.Atoi(strings.TrimSpace(line))
	w.must(err)
	w.upstream = server.Process
}

// policy is the shipped one, whose tenant default may reach the destination, each
// request decided by policy.
func (w *egressWorld) policy(dir string) fs.FS {
	w.tb.Helper()
	path := filepath.Join(dir, "policy")
	w.must(os.CopyFS(path, policies.Files))
	file := filepath.Join(path, "data.json")
	text, err := os.ReadFile(file)
	w.must(err)
	var data map[string]any
	w.must(json.Unmarshal(text, &data))
	data["tenants"].(map[string]any)["default"].(map[string]any)["network"] = map[string]any{
		"rules":  w.rules(),
		"decide": execution.DecideRequest, "budget": map[string]any{"requests": 1 << 30, "bytes": 1 << 40, "requests_per_s": 1 << 20, "connections": 100},
	}
	text, err = json.Marshal(data)
	w.must(err)
	w.must(os.WriteFile(file, text, 0o644))
	return os.DirFS(path)
}

// rules are what opens the destination.
func (w *egressWorld) rules() []execution.NetworkRule {
	return []execution.NetworkRule{{Host: apiHost, Ports: []int{w.port}, Methods: []string{"POST"}, Paths: []string{"/reports/*"}, Private: true, Mode: execution.NetworkIntercept}}
}

// images is a list with one image, the sandbox's with the program.
func (w *egressWorld) images(dir string) string {
	w.tb.Helper()
	const reference = "execgate-test/load:1"
	context := filepath.Join(dir, "image")
	w.must(os.MkdirAll(context, 0o755))
	w.must(os.Link(w.program, filepath.Join(context, "load")))
	w.must(os.WriteFile(filepath.Join(context, "Dockerfile"), []byte("FROM execgate/sandbox:latest\nCOPY load /opt/load\n"), 0o644))
	build := exec.Command("docker", "build", "--no-cache", "-q", "-t", reference, context)
	build.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := build.CombinedOutput(); err != nil {
		w.tb.Fatalf("docker build: %v: %s", err, out)
	}
	path := filepath.Join(dir, "images.yaml")
	w.must(os.WriteFile(path, []byte("images:\n  - name: load\n    reference: "+reference+"\n    languages: {}\n"), 0o644))
	return path
}

// job runs the program in a sandbox with the destination granted, and its credential.
func (w *egressWorld) job(decide execution.NetworkDecide, args ...string) execution.Job {
	owner := execution.Owner{Tenant: "default", Subject: "ak_1"}
	grant := execution.Grant{
		Image: w.image, Runtime: "runc",
		Limits: execution.Limits{
			TimeoutMS: 300_000, MemoryMiB: 256, CPUMillis: 2000, CPUShares: 1024, PIDs: 64, NoFile: 1024,
			TmpMiB: 16, WorkspaceMiB: 16, ShmMiB: 8, OutputKiB: 256, ResultKiB: 64, FilesMiB: 4, FilesCount: 8,
		},
		Network: execution.Network{
			Rules: w.rules(), Decide: decide,
			Budget: execution.NetworkBudget{Requests: 1 << 30, Bytes: 1 << 40, RequestsPerS: 1 << 20, Connections: 100},
		},
		Credentials: []execution.Credential{{
			Tool: loadTool, Inject: execution.InjectEgress,
			Bind: []execution.Binding{{Host: apiHost, Port: w.port, Methods: []string{"POST"}, Paths: []string{"/reports/*"}, Mode: "bearer"}},
		}},
	}
	job := execution.NewJob(execution.NewID(execution.PrefixExecution, time.Now()), owner, execution.Request{Command: append([]string{"/opt/load"}, args...)}, grant)
	job.Roles, job.Method = []execution.Role{execution.RoleCaller}, execution.MethodAPIKey
	return job
}

// execute lends the job's credential and runs it, as a gateway does once it has
// decided.
func (w *egressWorld) execute(ctx context.Context, job execution.Job) (_ execution.Result, err error) {
	_, err = w.lender.Lend(ctx, execution.Loan{Execution: job.ID, Principal: job.Principal(), Credentials: job.Grant.Credentials, Lasts: time.Hour})
	if err != nil {
		return execution.Result{}, err
	}
	defer func() {
		_, revoking := w.lender.Revoke(context.WithoutCancel(ctx), job.ID)
		err = errors.Join(err, revoking)
	}()
	return w.executor.Execute(ctx, job)
}

// address is where programs find the destination.
func (w *egressWorld) address() string {
	return fmt.Sprintf("https://%s:%d/reports/7", apiHost, w.port)
}

// report is what testdata/load says.
type report struct {
	Requests                int
	Seconds, CPUSeconds     float64
	MedianMicros, P99Micros int64
}

func (w *egressWorld) read(text []byte) (r report) {
	w.tb.Helper()
	w.must(json.Unmarshal(text, &r))
	return r
}

// direct runs the program beside the sandboxes, with nothing between it and the
// destination.
func (w *egressWorld) direct(args ...string) report {
	w.tb.Helper()
	direct := exec.Command(w.program, append(args, "-url", fmt.Sprintf("https://localhost:%d/reports/7", w.port), "-token", loadKey, "-contains", loadKey)...)
	direct.Env = append(os.Environ(), "SSL_CERT_FILE="+w.caFile)
	direct.Stderr = w.tb.Output()
	out, err := direct.Output()
	w.must(err)
	return w.read(out)
}

// cpuOf is the processor time that a process has used, from proc(5).
func (w *egressWorld) cpuOf(pid int) time.Duration {
	w.tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	w.must(err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, counted from the state
		n, err := strconv.ParseInt(field, 10, 64)
		w.must(err)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ, which is 100 on every Linux
}
