package executor_test

import (
	"os/exec"
	"strings"
	"testing"
)

// docker runs the engine's own command line, which is how these tests look at
// the engine from outside.
func docker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// containers lists ids, of any state.
func containers(t testing.TB, filter string) []string {
	t.Helper()
	return strings.Fields(docker(t, "ps", "-aq", "--no-trunc", "--filter", filter))
}
