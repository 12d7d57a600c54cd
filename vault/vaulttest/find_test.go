package vaulttest

import (
	"errors"
	"fmt"
	"regexp"
	"testing"
)

// A server that is not installed is no reason to pass where all is to be tested.
func TestWhatIsNotInstalledFailsUnderCI(t *testing.T) {
	missing := fmt.Errorf("no vault on PATH: %w", errMissing)
	broken := errors.New("the server ended")
	for name, c := range map[string]struct {
		ci   string
		err  error
		want string
	}{
		"missing, at a desk": {"", missing, "skipped: NOT TESTED: Vault: no vault on PATH: it is not installed; run scripts/setup --vault."},
		"missing, under CI":  {"true", missing, "failed: NOT TESTED: Vault: no vault on PATH: it is not installed; run scripts/setup --vault."},
		"broken, at a desk":  {"", broken, "failed: Vault: the server ended"},
		"broken, under CI":   {"true", broken, "failed: Vault: the server ended"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CI", c.ci)
			tb := &verdict{TB: t}
			func() {
				defer func() { _ = recover() }()
				failed(tb, "Vault", c.err)
			}()
			if tb.said != c.want {
				t.Errorf("%q, want %q", tb.said, c.want)
			}
		})
	}
}

// verdict ends by a panic, as a test does by leaving its goroutine.
type verdict struct {
	testing.TB
	said string
}

func (v *verdict) Skipf(format string, args ...any) {
	v.said = "skipped: " + fmt.Sprintf(format, args...)
	panic("the end of the test")
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.said = "failed: " + fmt.Sprintf(format, args...)
	panic("the end of the test")
}

func TestTheVersionIsTheOneOfTheNestedModule(t *testing.T) {
	version, err := vaultVersion()
	if err != nil || !regexp.MustCompile(`^v1\.\d+\.\d+$`).MatchString(version) {
		t.Errorf("%q, %v", version, err)
	}
}
