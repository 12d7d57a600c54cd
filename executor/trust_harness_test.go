package executor_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// intercepting is an Egress that ends TLS in the name that was connected to, with a
// leaf of the sandbox's authority, and answers requests.
type intercepting struct {
	// other ends it with a leaf of somebody else's.
	other bool
	// fail is what making an authority comes to.
	fail func() (*tls.Certificate, error)

	mu    sync.Mutex
	given map[string]*tls.Certificate // to Carry, by execution
	made  int
}

func (i *intercepting) Authority() (*tls.Certificate, error) {
	i.mu.Lock()
	i.made++
	i.mu.Unlock()
	if i.fail != nil {
		return i.fail()
	}
	return executor.NewTestAuthority()
}

func (i *intercepting) Find(context.Context, *execution.Job, string) bool { return true }

func (i *intercepting) Carry(_ context.Context, job *execution.Job, authority *tls.Certificate, to execution.Destination, conn net.Conn) {
	i.mu.Lock()
	if i.given == nil {
		i.given = map[string]*tls.Certificate{}
	}
	i.given[job.ID] = authority
	i.mu.Unlock()
	if i.other {
		authority, _ = executor.NewTestAuthority()
	}
	leaf, err := leafOf(authority, to.Host)
	if err != nil {
		panic(err)
	}
	inside := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*leaf}})
	defer inside.Close()
	request, err := http.ReadRequest(bufio.NewReader(inside))
	if err != nil {
		return // the program does not trust it
	}
	body := fmt.Sprintf("%s %s at %s", request.Method, request.URL.Path, request.Host)
	switch request.URL.Path { // a repository, as a plain server has one (gitprotocol-http(5), "Dumb Clients")
	case "/repo.git/info/refs":
		body = strings.Repeat("1", 40) + "\trefs/heads/main\n"
	case "/repo.git/HEAD":
		body = "ref: refs/heads/main\n"
	}
	answer := &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Close: true,
		Header: http.Header{"Content-Type": {"text/plain"}}, ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
	}
	answer.Write(inside)
}

// authorityOf is the one that was handed over with a connection of the execution.
func (i *intercepting) authorityOf(t testing.TB, id string) *tls.Certificate {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.given[id] == nil {
		t.Fatalf("no connection of %s was carried", id)
	}
	return i.given[id]
}

// leafOf is a certificate of name that the authority has signed.
func leafOf(authority *tls.Certificate, name string) (*tls.Certificate, error) {
	issuer, err := x509.ParseCertificate(authority.Certificate[0])
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), authority.PrivateKey)
	return &tls.Certificate{Certificate: [][]byte{der, authority.Certificate[0]}, PrivateKey: key}, err
}

const nodeReference = "execgate/sandbox-node:latest"

// withNode adds the image of node.
func withNode(c *executor.Config) {
	c.Images = append(c.Images, executor.Image{Name: "node", Reference: nodeReference, Languages: map[string]executor.Language{
		"javascript": {Command: []string{"/opt/execgate/drivers/javascript"}, Session: true},
	}})
}

// runOn runs a job on an image with a network, as somebody.
func runOn(t testing.TB, e *executor.Executor, image string, job execution.Job, change ...func(*execution.Grant)) execution.Result {
	t.Helper()
	found := resolve(t, e, image)
	job.ID, job.Owner = cmp.Or(job.ID, execution.NewID("ex_", time.Now())), somebody
	job.Grant.Image, job.Grant.Runtime = found.Digest, cmp.Or(job.Grant.Runtime, "runc")
	job.Grant.Limits, job.Grant.Network = granted(), granting
	job.Grant.Limits.MemoryMiB = 256
	for _, f := range change {
		f(&job.Grant)
	}
	r, err := e.Execute(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// granting is the network of these tests.
var granting = execution.Network{
	Rules:  []execution.NetworkRule{{Host: "granted.example", Ports: []int{443}, Mode: execution.NetworkIntercept}},
	Budget: execution.NetworkBudget{Requests: 1000, Bytes: 1 << 30, RequestsPerS: 1000, Connections: 16},
}

func reusedByItsOwner(g *execution.Grant) { g.Reuse = execution.ReusePrincipal }

// answered is what each client below prints.
const answered = "GET /a at granted.example"

// urllibGets gets the page with nothing but what is the default.
const urllibGets = `
import os, urllib.request
def get(): return urllib.request.urlopen('https://granted.example/a').read().decode()
print(get())
`

// nodeGets gets it by both of node's clients.
const nodeGets = `
var https = require('https');
var get = (options) => new Promise((done, fail) => https.get('https://granted.example/a', options, (answer) => {
  let text = '';
  answer.on('data', (part) => { text += part; }).on('end', () => done(text));
}).on('error', fail));
(async () => {
  console.log(await (await fetch('https://granted.example/a')).text());
  console.log(await get({}));
`

// nodeEnds ends what nodeGets began.
const nodeEnds = `})().catch((error) => { console.error(error); process.exitCode = 1; });`
