package vault_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault"
)

// What is refused at load is refused at use, before Vault is asked.
func TestCredentialsThatAreRefused(t *testing.T) {
	good := database(execution.InjectEgress)
	for name, change := range map[string]func(*execution.Credential){
		"no tool":                    func(c *execution.Credential) { c.Tool = "" },
		"no mount":                   func(c *execution.Credential) { c.Mount = "" },
		"another mount":              func(c *execution.Credential) { c.Mount = "else" },
		"Vault's own":                func(c *execution.Credential) { c.Mount, c.Path = "sys", "mounts" },
		"a mount that climbs":        func(c *execution.Credential) { c.Mount = "kv1/../sys" },
		"another engine":             func(c *execution.Credential) { c.Engine = "kv2" },
		"no role":                    func(c *execution.Credential) { c.Role = "" },
		"only a form":                func(c *execution.Credential) { c.Path, c.Role = "creds/", "" },
		"a role that climbs":         func(c *execution.Credential) { c.Role = ".." },
		"a role with a slash":        func(c *execution.Credential) { c.Role = "reader/x" },
		"a path that climbs":         func(c *execution.Credential) { c.Path = "creds/../config" },
		"another form":               func(c *execution.Credential) { c.Path = "config" },
		"too many parts":             func(c *execution.Credential) { c.Path = "creds/reader" },
		"a role in kv":               func(c *execution.Credential) { c.Mount, c.Path = "kv1", "plain" },
		"no policies":                func(c *execution.Credential) { c.VaultPolicies = nil },
		"the policy root":            func(c *execution.Credential) { c.VaultPolicies = []string{"database", "root"} },
		"the policy Default":         func(c *execution.Credential) { c.VaultPolicies = []string{"Default"} },
		"an empty policy":            func(c *execution.Credential) { c.VaultPolicies = []string{""} },
		"a policy with a comma end":  func(c *execution.Credential) { c.VaultPolicies = []string{"a b"} },
		"no inject":                  func(c *execution.Credential) { c.Inject = "" },
		"a time that is negative":    func(c *execution.Credential) { c.TTLS = -1 },
		"uses that are negative":     func(c *execution.Credential) { c.MaxUses = -1 },
		"uses that nobody can count": func(c *execution.Credential) { c.MaxUses, c.Inject = 1, execution.InjectEnv },
	} {
		t.Run(name, func(t *testing.T) { refused(t, good, change) })
	}
	for _, path := range []string{
		"..", "../sys/mounts", "a/../b", "a/./b", ".hidden", "a//b", "/a", "a/", "%2e%2e/b", "a%2fb", `a\b`, "a b", "a\tb", "a\nb", "a\r\nX-Vault-Token: x",
		"a\x00b", "a?list=true", "a#b", "a;b", "*", "a/*", "a/+/b", "a/+", "{{identity}}", "ä", "a\u2215b", "a\u202eb", strings.Repeat("a/", 300) + "a", strings.Repeat("a", 200),
	} {
		t.Run(fmt.Sprintf("path %.40q", path), func(t *testing.T) {
			refused(t, kv("api", "plain", execution.InjectFile), func(c *execution.Credential) { c.Path = path })
			refused(t, good, func(c *execution.Credential) { c.Role = path })
		})
	}
}

func refused(t *testing.T, c execution.Credential, change func(*execution.Credential)) {
	t.Helper()
	if err := mounts.Check(c); err != nil {
		t.Fatal(err)
	}
	change(&c)
	wantError(t, mounts.Check(c), execution.KindDenied, "credential_refused")
	f := newFake(t)
	w := newWorld(t, f)
	_, err := w.lender.Lend(t.Context(), loanOf("ex_1", c))
	wantError(t, err, execution.KindDenied, "credential_refused")
	if len(f.calls) != 0 || w.journal.left() != 0 {
		t.Errorf("Vault was asked for %q", f.calls)
	}
}

func TestACredentialThatIsGrantedTwiceIsRefused(t *testing.T) {
	w := newWorld(t, newFake(t))
	_, err := w.lender.Lend(t.Context(), loanOf("ex_1", database(execution.InjectFile), database(execution.InjectEgress)))
	wantError(t, err, execution.KindDenied, "credential_ambiguous")
	// Every one that is refused is named.
	bad, worse := database(execution.InjectFile), kv("api", "..", execution.InjectFile)
	bad.Role = ".."
	if e := wantError(t, w.lender.Check([]execution.Credential{bad, worse}), execution.KindDenied, "credential_refused"); len(e.Reasons) != 2 {
		t.Errorf("the reasons are %+v", e.Reasons)
	}
}

func TestMountsThatAreRefused(t *testing.T) {
	for name, m := range map[string]vault.Mounts{
		"climbing":     {{Path: "kv/../sys", Engine: "kv"}},
		"empty":        {{Path: "", Engine: "kv"}},
		"a slash":      {{Path: "kv/", Engine: "kv"}},
		"Vault's own":  {{Path: "sys", Engine: "other"}},
		"logins":       {{Path: "auth/token", Engine: "other"}},
		"no engine":    {{Path: "kv"}},
		"twice":        {{Path: "kv", Engine: "kv"}, {Path: "kv", Engine: "kv2"}},
		"common names": {{Path: "kv", Engine: "kv", CommonName: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := newWorld(t, newFake(t)).config
			config.Mounts = m
			if _, err := vault.New(config); err == nil {
				t.Error("it is taken")
			}
		})
	}
}
