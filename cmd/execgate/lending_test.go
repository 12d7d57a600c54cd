package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/vault/vaulttest"
	"github.com/miekg/dns"
)

// databaseHost is the name by which programs reach the database: of no address that
// the sandbox or the operating system knows.
const databaseHost = "db.reports.example"

// lending is a gateway with a Vault that makes users of a database, which sandboxes
// reach by name.
type lending struct {
	*gatewayUnderTest
	vault    *vaulttest.Server
	postgres *vaulttest.Postgres
	tools    []string       // of the tenant default; nil: those that read the database
	network  map[string]any // of the tenant default; nil: the way to the database
	runtime  string         // of the tenant default; empty: as it is shipped
	budget   map[string]any // of the tenant default; nil: as it is shipped
}

// startLending starts a gateway whose tenant default has the tool reports-db. Address
// is where the gateway finds Vault; empty: where it is.
func startLending(t *testing.T, address string, options vaulttest.Options) *lending {
	t.Helper()
	needsEngine(t)
	l := newLending(t, options)
	l.gatewayUnderTest = newGateway(t, filepath.Join(t.TempDir(), "state"), l.settings(t, address))
	l.args = []string{"--config", l.config(t)}
	l.start()
	l.waitReady()
	return l
}

func newLending(t *testing.T, options vaulttest.Options) *lending {
	t.Helper()
	l := &lending{postgres: vaulttest.StartPostgres(t, vaulttest.PostgresOptions{Name: databaseHost}), vault: vaulttest.Start(t, options)}
	l.vault.AddDatabase(t, l.postgres, vaulttest.Database{})
	l.postgres.Query(t, "CREATE TABLE reports AS SELECT 42 AS answer")
	l.grantAtVault(t)
	return l
}

// grantAtVault is what docs/vault.md has an operator do.
func (l *lending) grantAtVault(t *testing.T) {
	t.Helper()
	for name, rules := range map[string]string{
		"reports-db": `path "database/creds/reader" { capabilities = ["read"] }`,
		"execgate":   vaulttest.GatewayPolicy("execgate"),
	} {
		l.vault.Do(t, http.MethodPost, "sys/policies/acl/"+name, map[string]string{"policy": rules})
	}
	l.vault.Do(t, http.MethodPost, "auth/token/roles/execgate", map[string]any{
		"allowed_policies": []string{"reports-db"}, "orphan": true, "renewable": false, "token_no_default_policy": true,
	})
}

// settings are those of the gateway, with a token of its own and a DNS server that
// knows the database.
func (l *lending) settings(t *testing.T, address string) map[string]string {
	t.Helper()
	if address == "" {
		address = l.vault.Addr()
	}
	own := l.vault.Do(t, http.MethodPost, "auth/token/create", map[string]any{
		"policies": []string{"execgate"}, "no_parent": true, "no_default_policy": true, "period": "1h",
	}).Text("auth", "client_token")
	file := filepath.Join(t.TempDir(), "vault-token")
	if err := os.WriteFile(file, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{
		"EXECGATE_VAULT_ADDRESS":                address,
		"EXECGATE_VAULT_TOKEN_ROLE":             "execgate",
		"EXECGATE_VAULT_MOUNTS":                 "database=database",
		"EXECGATE_VAULT_AUTH_FILE":              file,
		"EXECGATE_EGRESS_ALLOWED_NETWORKS":      "127.0.0.0/8",
		"EXECGATE_EGRESS_RESOLVER":              lyingResolver(t),
		"EXECGATE_POLICY_FOLDER":                l.policy(t),
		"EXECGATE_EXECUTOR_IMAGES":              psqlImages(t),
		"EXECGATE_REQUESTS_MAX_RUNNING":         "8",
		"EXECGATE_EXECUTOR_WARM_TARGET":         "1",
		"EXECGATE_EXECUTOR_WARM_PRELOAD_TARGET": "0",
	}
	if ca := l.vault.CAFile(); ca != "" {
		settings["EXECGATE_VAULT_CA_FILE"] = ca
	}
	return settings
}

// config is a configuration file with two tools: one that code may use, and one that
// is called.
func (l *lending) config(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "execgate.yaml")
	to := fmt.Sprintf("%s:%d", databaseHost, l.postgres.Port)
	write(t, path, `tools:
  - name: read-reports
    description: Counts the reports.
    kind: container
    arguments: {type: object, properties: {table: {enum: [reports]}}, required: [table], additionalProperties: false}
    image: psql
    command: [/bin/sh, -c, 'export LD_LIBRARY_PATH=/opt/psql/lib PGUSER=$DB_USERNAME PGPASSWORD=$DB_PASSWORD; answer=$(/opt/psql/psql -AtX "host=`+
		databaseHost+fmt.Sprintf(" port=%d", l.postgres.Port)+` dbname=postgres sslmode=require" -c "SELECT answer FROM reports") && printf "{\"answer\": %s, \"password\": \"%s\"}" "$answer" "$PGPASSWORD"']
    network: ["`+to+`"]
    credential:
      engine: database
      mount: database
      role: reader
      vault_policies: [reports-db]
      inject: env
      env_name: DB
  - name: reports-db
    description: The database of reports, to read.
    kind: egress
    credential:
      engine: database
      mount: database
      role: reader
      vault_policies: [reports-db]
      inject: env
      env_name: DB
`)
	return path
}

// policy is the shipped policy where the tenant default has the tool, the image psql
// and the way to the database.
func (l *lending) policy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	shippedPolicy(t, dir)
	path := filepath.Join(dir, "data.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var data map[string]any
	if err := json.Unmarshal(text, &data); err != nil {
		t.Fatal(err)
	}
	tenant := data["tenants"].(map[string]any)["default"].(map[string]any)
	limits := tenant["limits"].(map[string]any)["default"].(map[string]any)
	limits["timeout_ms"] = 60_000 // a busy machine takes long for what a program asks of others
	tenant["images"] = []string{"python", "node", "psql"}
	tenant["tools"] = []string{"reports-db", "read-reports"}
	if l.tools != nil {
		tenant["tools"] = l.tools
	}
	tenant["network"] = map[string]any{
		"rules":  []any{map[string]any{"host": databaseHost, "ports": []int{l.postgres.Port}, "mode": "forward", "private": true}},
		"budget": map[string]any{"requests": 100, "bytes": 1 << 20, "requests_per_s": 50, "connections": 8},
	}
	if l.network != nil {
		tenant["network"] = l.network
	}
	if l.budget != nil {
		tenant["budget"] = l.budget
	}
	if l.runtime != "" {
		tenant["runtimes"] = []string{l.runtime}
	}
	if text, err = json.Marshal(data); err != nil {
		t.Fatal(err)
	}
	write(t, path, string(text))
	return dir
}

// lyingResolver is a DNS server that says that every name is at 127.0.0.1.
func lyingResolver(t testing.TB) string {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		if q := question.Question[0]; q.Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)}}
		}
		w.WriteMsg(answer)
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.Shutdown() })
	return socket.LocalAddr().String()
}

var sharedObject = regexp.MustCompile(`(?m)(/\S+\.so\S*)`)

const psqlReference = "execgate-test/psql:1"

// psqlImage makes the sandbox's image with psql, once for all tests.
var psqlImage = sync.OnceValue(func() error {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	if err != nil || len(found) == 0 {
		return fmt.Errorf("psql is not installed, scripts/setup --vault does that: %w", err)
	}
	linked, err := exec.Command("ldd", found[len(found)-1]).Output()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "execgate-psql-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	copied := os.Mkdir(filepath.Join(dir, "lib"), 0o755)
	copyFile := func(from, to string) {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), content, 0o755)
		}
		copied = errors.Join(copied, err)
	}
	copyFile(found[len(found)-1], "psql.bin")
	for _, object := range sharedObject.FindAllString(string(linked), -1) {
		// The image's own C library is newer, and goes with its own loader.
		if base := filepath.Base(object); !slices.Contains([]string{"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "libresolv.so.2"}, base) && !strings.HasPrefix(base, "ld-linux") {
			copyFile(object, filepath.Join("lib", base))
		}
	}
	recipe := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM execgate/sandbox:latest\nCOPY lib /opt/psql/lib\nCOPY psql.bin /opt/psql/psql\n"), 0o644)
	if err := errors.Join(copied, recipe); err != nil {
		return err
	}
	build := exec.Command("docker", "build", "--no-cache", "-q", "-t", psqlReference, dir)
	build.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("docker build: %w: %s", err, out)
	}
	return nil
})

// psqlImages is a list of images with one more, the sandbox's with psql.
func psqlImages(t *testing.T) string {
	t.Helper()
	if err := psqlImage(); err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../../images/images.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "images.yaml")
	write(t, path, string(shipped)+"  - name: psql\n    reference: "+psqlReference+"\n    languages: {}\n")
	return path
}

// psql is the body of a request that runs SQL in a sandbox as the user that was made
// for it, with the server's certificate verified; what follows is shell.
func (l *lending) psql(t *testing.T, sql, then string) string {
	t.Helper()
	ca, err := os.ReadFile(l.postgres.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`export LD_LIBRARY_PATH=/opt/psql/lib PGUSER=$DB_USERNAME PGPASSWORD=$DB_PASSWORD
/opt/psql/psql -AtX 'host=%s port=%d dbname=postgres sslmode=verify-full sslrootcert=/workspace/ca.pem' -c %q
%s`, databaseHost, l.postgres.Port, sql, then)
	body, err := json.Marshal(map[string]any{
		"image": "psql", "command": []string{"/bin/sh", "-c", script}, "tools": []string{"reports-db"},
		"network": []string{fmt.Sprintf("%s:%d", databaseHost, l.postgres.Port)},
		"files":   []any{map[string]string{"path": "ca.pem", "content": string(ca)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// users are those that Vault has made and not dropped.
func (l *lending) users(t *testing.T) []string {
	t.Helper()
	return strings.Fields(l.postgres.Query(t, "SELECT usename FROM pg_user WHERE usename LIKE 'v-%'"))
}

// tokens is how many tokens of executions Vault has.
func (l *lending) tokens(t *testing.T) (n int) {
	t.Helper()
	var listed struct{ Data struct{ Keys []string } }
	if err := json.Unmarshal(l.vault.Do(t, "LIST", "auth/token/accessors", nil).Body, &listed); err != nil {
		t.Fatal(err)
	}
	for _, accessor := range listed.Data.Keys {
		if strings.Contains(l.lookUp(t, accessor), `"execution_id":"ex_`) {
			n++
		}
	}
	return n
}

// lookUp is what Vault says of a token; of one that has ended meanwhile, that there is
// none.
func (l *lending) lookUp(t *testing.T, accessor string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, l.vault.Addr()+"/v1/auth/token/lookup-accessor",
		strings.NewReader(`{"accessor":"`+accessor+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Vault-Token", l.vault.RootToken())
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
