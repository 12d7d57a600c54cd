package execgate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/vault/vaulttest"
)

// TestDemoBroker runs what a stranger runs first. The script checks every answer itself;
// here is that it says what it has to, with a Vault and without, and leaves nothing.
func TestDemoBroker(t *testing.T) {
	t.Parallel()
	needDocker(t)
	s := newStage(t)
	bin, temporary := t.TempDir(), t.TempDir()
	if err := os.Symlink(vaulttest.Binary(t), filepath.Join(bin, "vault")); err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "PATH="+bin+":"+os.Getenv("PATH"), "TMPDIR="+temporary)
	for _, demo := range []struct {
		flag string
		says []string
	}{
		{"", []string{"It cannot be revoked, only its use can", `type="lease_revoked"`}},
		{"--without-vault", []string{"THERE IS NO VAULT", "NOT LEASED", "unleased=true"}},
	} {
		out := s.sh(t, s.copy, "scripts/demo-broker "+demo.flag)
		for _, want := range append(demo.says, `200 {"report":"7","total":42}`, "Bearer [redacted]", "method_not_granted: execgate: ", "integrity     holds", "That was all of it.") {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q:\n%s", demo.flag, want, out)
			}
		}
	}
	left, err := os.ReadDir(temporary)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if !strings.HasPrefix(entry.Name(), "execgate-setup-") { // its lock
			t.Errorf("%s is left", entry.Name())
		}
	}
}
