package vaulttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// errMissing is what a server is not there for, when it is not installed.
var errMissing = errors.New("it is not installed")

// pinned finds the version of Vault in tools/vault/go.mod.
var pinned = regexp.MustCompile(`(?m)^\s*github\.com/hashicorp/vault (v\S+)`)

// failed ends a test that has no server. One that could not be installed is no
// excuse under CI=true, and is said loudly elsewhere.
func failed(tb testing.TB, what string, err error) {
	tb.Helper()
	if errors.Is(err, errMissing) && os.Getenv("CI") != "true" {
		tb.Skipf("NOT TESTED: %s: %v; run scripts/setup --vault.", what, err)
	}
	if errors.Is(err, errMissing) {
		tb.Fatalf("NOT TESTED: %s: %v; run scripts/setup --vault.", what, err)
	}
	tb.Fatalf("%s: %v", what, err)
}

// Binary is the path of the Vault that Start runs, for what starts its own.
func Binary(tb testing.TB) string {
	tb.Helper()
	path, err := vaultBinary()
	if err != nil {
		failed(tb, "Vault", err)
	}
	return path
}

// vaultBinary is the one that scripts/setup built, which it does where PATH has
// none that is recent enough, or else that of PATH.
func vaultBinary() (string, error) {
	version, err := vaultVersion()
	if err != nil {
		return "", err
	}
	folders := []string{"/usr/local/lib/execgate"}
	if cache, err := os.UserCacheDir(); err == nil {
		folders = append(folders, filepath.Join(cache, "execgate"))
	}
	for _, folder := range folders {
		path := filepath.Join(folder, "vault-"+version)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	if path, err := exec.LookPath("vault"); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("no vault on PATH, no vault-%s in %q: %w", version, folders, errMissing)
}

// vaultVersion reads the pin from the working copy that the test runs in.
func vaultVersion() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; folder = filepath.Dir(folder) {
		text, err := os.ReadFile(filepath.Join(folder, "tools", "vault", "go.mod"))
		if found := pinned.FindSubmatch(text); found != nil {
			return string(found[1]), nil
		}
		if folder == filepath.Dir(folder) {
			return "", fmt.Errorf("look for tools/vault/go.mod above the test: %w", err)
		}
	}
}

// postgresFolder holds the server's programs: Debian keeps those of each
// version in a folder that is not on PATH. The newest is taken.
func postgresFolder() (string, error) {
	const pattern = "/usr/lib/postgresql/*/bin/initdb"
	found, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		slices.Sort(found)
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", fmt.Errorf("no initdb at %s nor on PATH: %w", pattern, errMissing)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}
