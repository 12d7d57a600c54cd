package vault_test

import (
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/vault"
)

// What is read is always below the mount, and is the same to a URL, to what cleans
// paths, and to Vault's policies.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"plain", "../sys", "a/%2e%2e/b", "a//b", "a/./b", "*", "a\r\nb", "creds/reader", "ä"} {
		f.Add(seed, "")
		f.Add("", seed)
	}
	f.Fuzz(func(t *testing.T, text, role string) {
		for _, m := range mounts {
			c := execution.Credential{Tool: "t", Mount: m.Path, Path: text, Role: role, VaultPolicies: []string{"p"}, Inject: execution.InjectFile}
			at, err := vault.PathOf(mounts, c)
			if err != nil {
				if mounts.Check(c) == nil {
					t.Errorf("%q, %q is refused at use and not at load", text, role)
				}
				continue
			}
			u, err := url.Parse("https://vault.example/v1/" + at)
			switch {
			case err != nil || u.Path != "/v1/"+at || u.EscapedPath() != u.Path || u.RawQuery != "" || u.Fragment != "":
				t.Errorf("%q means something else to a URL: %v", at, u)
			case path.Clean(at) != at || !strings.HasPrefix(at, m.Path+"/"):
				t.Errorf("%q leaves its mount", at)
			case strings.ContainsAny(at, "*+%?#\\{}") || strings.ContainsFunc(at, func(r rune) bool { return r <= ' ' || r > '~' }):
				t.Errorf("%q has what means something", at)
			}
		}
	})
}
