package executor_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// clientsImage has clients of HTTP from Debian, and an SDK from npm's registry.
const clientsImage = "execgate/test-clients:latest"

// outside is an executor on that image whose connections the broker carries, and a
// server on this machine that every name leads to.
type outside struct {
	t        *testing.T
	executor *executor.Executor
	broker   *egress.Broker
	port     int // of the server
	loans    map[string]execution.Secret

	mu      sync.Mutex
	records []execution.Record
}

// newOutside starts one, whose server answers by handle.
func newOutside(t *testing.T, handle http.Handler) *outside {
	t.Helper()
	issuer, err := executor.NewTestAuthority()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handle)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return leafOf(issuer, hello.ServerName)
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	o := &outside{t: t, port: server.Listener.Addr().(*net.TCPAddr).Port}
	root, err := x509.ParseCertificate(issuer.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	o.broker, err = egress.New(egress.Config{
		Recorder: o, Resolver: o, Credentials: o, Roots: roots,
		AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		ResolveTimeout:  patience, DialTimeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	newExecutor(t) // is there an engine at all?
	if out, err := exec.Command("docker", "image", "inspect", clientsImage).CombinedOutput(); err != nil {
		t.Fatalf("the engine has no image %s: run scripts/setup --clients: %v: %.200s", clientsImage, err, out)
	}
	o.executor = newExecutor(t, withImage(clientsImage), carriedBy(o.broker))
	return o
}

// Append implements egress.Recorder.
func (o *outside) Append(_ context.Context, r execution.Record) (uint64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.records = append(o.records, r)
	return uint64(len(o.records)), nil
}

// LookupNetIP implements egress.Resolver: every name is of this machine.
func (o *outside) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

// Value implements egress.Credentials.
func (o *outside) Value(_ context.Context, _, tool string) (map[string]execution.Secret, execution.Lease, error) {
	return o.loans, execution.Lease{Tool: tool}, nil
}

// bash runs a script whose network is the hosts, at the server's port, PORT in the
// script, and returns what it printed. It has nothing set beside what every program of
// a sandbox has.
func (o *outside) bash(t *testing.T, runtime, script string, hosts []string, credentials ...execution.Credential) string {
	t.Helper()
	job := under(runtime, command("/bin/bash", "-c", "set -euo pipefail\n"+strings.ReplaceAll(script, "PORT", strconv.Itoa(o.port))))
	job.ID = execution.NewID("ex_", time.Now())
	defer o.broker.End(job.ID)
	r := runOn(t, o.executor, "python", job, func(g *execution.Grant) {
		g.Limits.TimeoutMS, g.Limits.WorkspaceMiB = patience.Milliseconds(), 64
		g.Credentials = credentials
		g.Network = execution.Network{Budget: granting.Budget}
		for _, host := range hosts {
			g.Network.Rules = append(g.Network.Rules, execution.NetworkRule{Host: host, Ports: []int{o.port}, Mode: execution.NetworkIntercept, Private: true})
		}
	})
	return exitedWell(t, r)
}

// requests are the records of what an execution was allowed to send to a host, as
// "method path".
func (o *outside) requests(host string) (all []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.records {
		if d := r.EgressDecided; d != nil && d.Effect == execution.EffectAllow && d.Host == host {
			all = append(all, d.Method+" "+d.Path)
		}
	}
	return all
}
