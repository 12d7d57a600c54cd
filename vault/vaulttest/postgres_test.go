package vaulttest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/execgate/execgate/vault/vaulttest"
)

func TestPostgresAnswersOverVerifiedTLSAlone(t *testing.T) {
	p := vaulttest.StartPostgres(t, vaulttest.PostgresOptions{Name: "orders.example"})
	if got := p.Query(t, "SELECT ssl, current_user FROM pg_stat_ssl WHERE pid = pg_backend_pid()"); got != "t|postgres" {
		t.Errorf("a connection of the superuser: %q", got)
	}
	if _, err := p.QueryAs("postgres", "wrong", "SELECT 1"); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("with a wrong password: %v", err)
	}
	for name, c := range map[string]struct{ host, mode, want string }{
		"the name in the certificate": {"orders.example", "verify-full", ""},
		"the address":                 {"127.0.0.1", "verify-full", ""},
		"another name":                {"else.example", "verify-full", "does not match host name"},
		"without TLS":                 {"orders.example", "disable", "no encryption"},
	} {
		cmd := exec.Command("psql", "-XwAtqc", "SELECT 1")
		cmd.Env = append(os.Environ(), "PGHOST="+c.host, "PGHOSTADDR=127.0.0.1", "PGPORT="+strconv.Itoa(p.Port),
			"PGUSER=postgres", "PGPASSWORD="+p.Password, "PGDATABASE=postgres",
			"PGSSLMODE="+c.mode, "PGSSLROOTCERT="+p.CAFile)
		out, err := cmd.CombinedOutput()
		if (err == nil) != (c.want == "") || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v: %s; want %q", name, err, out, c.want)
		}
	}
}

func TestPostgresKeepsItsDataOverARestart(t *testing.T) {
	p := vaulttest.StartPostgres(t, vaulttest.PostgresOptions{})
	p.Query(t, "CREATE TABLE kept AS SELECT 42 AS answer")
	p.Stop()
	if _, err := p.QueryAs("postgres", p.Password, "SELECT 1"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("stopped: %v, want a connection refused", err)
	}
	p.Restart(t)
	if got := p.Query(t, "TABLE kept"); got != "42" {
		t.Errorf("after the restart: %q", got)
	}
}

func TestPostgresLeavesNothing(t *testing.T) {
	var file string
	t.Run("in use", func(t *testing.T) {
		file = vaulttest.StartPostgres(t, vaulttest.PostgresOptions{}).CAFile
	})
	leavesNothing(t, filepath.Dir(file))
}

// leavesNothing says that the folder is gone, and every process that was given
// it.
func leavesNothing(t *testing.T, folder string) {
	t.Helper()
	if folder == "." { // the server never ran
		t.Skip("NOT TESTED, as above")
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", folder, err)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(commands) == 0 {
		t.Fatalf("no processes: %v", err)
	}
	for _, path := range commands {
		if command, _ := os.ReadFile(path); strings.Contains(string(command), folder) {
			t.Errorf("%s is left: %q", path, command)
		}
	}
}
