package vaulttest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// PostgresName is the name in the server's certificate unless a test gives
// another.
const PostgresName = "database.test"

// superuser may do everything.
const superuser = "postgres"

// PostgresOptions is what a test wants of its PostgreSQL.
type PostgresOptions struct {
	// Name is the DNS name that the server's certificate holds for, besides
	// 127.0.0.1.
	Name string
}

// Postgres is a PostgreSQL server that runs. It takes connections over TLS
// alone, and passwords as SCRAM alone.
type Postgres struct {
	// Name is the DNS name that its certificate holds for.
	Name string
	// Port is the one it listens on, at 127.0.0.1.
	Port int
	// CAFile holds the authority of its certificate, for sslmode=verify-full.
	CAFile string
	// Password is that of the superuser postgres.
	Password string

	port       port   // which is Port
	programs   string // the folder of the server's programs
	folder     string // of its own
	credential *syscall.Credential
	process    *process
}

// StartPostgres runs a server of the test's own until the test ends. Where it
// is not installed the test is skipped, and fails under CI=true.
func StartPostgres(tb testing.TB, options PostgresOptions) *Postgres {
	tb.Helper()
	p := &Postgres{Name: cmp.Or(options.Name, PostgresName), Password: rand.Text()}
	tb.Cleanup(p.close)
	if err := p.start(); err != nil {
		failed(tb, "PostgreSQL", err)
	}
	return p
}

func (p *Postgres) start() (err error) {
	if p.programs, err = postgresFolder(); err != nil {
		return err
	}
	if p.credential, err = serverUser(); err != nil {
		return err
	}
	if p.folder, err = os.MkdirTemp("", "vaulttest-"); err != nil {
		return err
	}
	if err := p.initialise(); err != nil {
		return err
	}
	if p.port, err = reservePort(); err != nil {
		return err
	}
	p.Port = p.port.number
	return p.launch()
}

// initialise makes the cluster, its certificate and its configuration.
func (p *Postgres) initialise() error {
	certificate, err := newCertificate(p.folder, []string{p.Name})
	if err != nil {
		return err
	}
	p.CAFile = certificate.caFile
	password := filepath.Join(p.folder, "password")
	access := filepath.Join(p.folder, "access.conf")
	for path, text := range map[string]string{
		password: p.Password,
		access:   "hostssl all all all scram-sha-256\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	// The server reads all of it, whatever user it runs as; clients run as
	// whoever runs the test.
	for _, path := range []string{p.folder, certificate.caFile, certificate.certFile, certificate.keyFile, password, access} {
		if err := p.own(path); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod(p.folder, 0o755), os.Chmod(p.CAFile, 0o644)); err != nil {
		return err
	}
	cmd := p.command("initdb", "--pgdata="+p.data(), "--username="+superuser, "--pwfile="+password,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

func (p *Postgres) launch() error {
	args := []string{"-D", p.data()}
	for name, value := range map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    fmt.Sprint(p.Port),
		"unix_socket_directories": "", // whose paths may be too long
		"hba_file":                filepath.Join(p.folder, "access.conf"),
		"ssl":                     "on",
		"ssl_cert_file":           filepath.Join(p.folder, "server.pem"),
		"ssl_key_file":            filepath.Join(p.folder, "server.key"),
		"max_connections":         "200", // for a hundred users at once
		"shared_buffers":          "16MB",
		"fsync":                   "off", // nothing here outlives the test
		"full_page_writes":        "off",
		"log_connections":         "on",
	} {
		args = append(args, "-c", name+"="+value)
	}
	// At SIGQUIT it ends at once, with all its processes.
	started, err := launch(p.command("postgres", args...), syscall.SIGQUIT)
	if err != nil {
		return err
	}
	p.process = started
	return started.await(func(ctx context.Context) error {
		_, err := p.query(ctx, superuser, p.Password, "SELECT 1")
		return err
	})
}

// Log is what the server has said so far since it was last started.
func (p *Postgres) Log() string { return p.process.output.text() }

// Stop ends the server: connections are refused. Restart undoes it.
func (p *Postgres) Stop() {
	if p.process != nil {
		p.process.end(syscall.SIGQUIT)
	}
}

// Restart starts the server anew at the same address, with all it had.
func (p *Postgres) Restart(tb testing.TB) {
	tb.Helper()
	p.Stop()
	if err := p.launch(); err != nil {
		tb.Fatalf("restart PostgreSQL: %v", err)
	}
}

func (p *Postgres) close() {
	p.Stop()
	if p.port.socket != nil {
		p.port.release()
	}
	if p.folder != "" {
		_ = os.RemoveAll(p.folder)
	}
}

func (p *Postgres) data() string { return filepath.Join(p.folder, "data") }

// command is one of the server's programs, as the server's user.
func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.programs, name), args...)
	cmd.Dir = p.folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.credential}
	return cmd
}

func (p *Postgres) own(path string) error {
	if p.credential == nil {
		return nil
	}
	return os.Chown(path, int(p.credential.Uid), int(p.credential.Gid))
}
