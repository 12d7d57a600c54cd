package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Query runs SQL as the superuser. Rows are lines, and columns are parted by |.
func (p *Postgres) Query(tb testing.TB, sql string) string {
	tb.Helper()
	rows, err := p.QueryAs(superuser, p.Password, sql)
	if err != nil {
		tb.Fatal(err)
	}
	return rows
}

// QueryAs runs SQL in a connection of its own, with sslmode=verify-full. The
// error holds what psql said.
func (p *Postgres) QueryAs(name, password, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return p.query(ctx, name, password, sql)
}

func (p *Postgres) query(ctx context.Context, name, password, sql string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.programs, "psql"), "--no-psqlrc", "--no-password",
		"--tuples-only", "--no-align", "--quiet", "--set=ON_ERROR_STOP=1", "--command="+sql)
	// No name server knows the name, so libpq is told the address.
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=/nonexistent",
		"PGHOST=" + p.Name, "PGHOSTADDR=127.0.0.1", fmt.Sprintf("PGPORT=%d", p.Port), "PGDATABASE=postgres",
		"PGUSER=" + name, "PGPASSWORD=" + password,
		"PGSSLMODE=verify-full", "PGSSLROOTCERT=" + p.CAFile, "PGCONNECT_TIMEOUT=60",
	}
	var said strings.Builder
	cmd.Stderr = &said
	rows, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("psql as %s: %w: %s", name, err, said.String())
	}
	return strings.TrimSpace(string(rows)), nil
}

// serverUser is who the server runs as where root runs the test, which the
// server refuses to do.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(found.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(found.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("root cannot run it, and there is neither a user postgres nor nobody")
}
