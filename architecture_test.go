// Package execgate holds no code: this file holds the repository's shape.
package execgate

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/execgate/execgate"

// leaves may be imported by every package.
var leaves = []string{"execution", "scrub"}

// packages lists what each package may import besides the standard library and
// the leaves: packages of this module by their folder, and modules outside.
// Siblings never import one another; only commands see all of them.
var packages = map[string]struct{ inside, outside []string }{
	"execution":         {},
	"scrub":             {},
	"identity":          {},
	"policy/worker":     {},
	"policy/activation": {inside: []string{"policy"}, outside: []string{"github.com/fsnotify/fsnotify"}},
	"policy":            {inside: []string{"policy/worker"}, outside: []string{"github.com/open-policy-agent/opa/v1", "golang.org/x/net/idna"}},
	"policy/replay":     {inside: []string{"policy"}},
	"policies":          {},
	"examples":          {inside: []string{"policies", "policy"}},
	"examples/reports":  {outside: []string{"golang.org/x/net/dns/dnsmessage"}},
	"vault":             {outside: []string{"github.com/hashicorp/vault/api", "go.yaml.in/yaml/v3", "golang.org/x/sync"}},
	"vault/vaulttest":   {},
	"egress":            {outside: []string{"github.com/aws/aws-sdk-go-v2", "golang.org/x/net/idna"}},
	"store":             {outside: []string{"modernc.org/sqlite"}},
	"export":            {outside: []string{"golang.org/x/sys/unix"}},
	"audit":             {outside: []string{"golang.org/x/mod/sumdb", "golang.org/x/sys/unix"}},
	"audit/inspection":  {inside: []string{"audit"}},
	"audit/witness":     {outside: []string{"golang.org/x/sys/unix"}},
	"gateway":           {outside: []string{"github.com/gin-gonic/gin", "github.com/go-json-experiment/json", "github.com/santhosh-tekuri/jsonschema/v6", "golang.org/x/sync"}},
	"images":            {outside: []string{"go.yaml.in/yaml/v3"}},
	"executor":          {inside: []string{"executor/wire"}, outside: []string{"github.com/docker", "github.com/containerd/errdefs", "golang.org/x/sys/unix"}},
	"executor/agent":    {inside: []string{"executor/wire"}, outside: []string{"golang.org/x/net/dns/dnsmessage", "golang.org/x/sys/unix"}},
	"executor/wire":     {outside: []string{"github.com/hashicorp/yamux"}},

	"execution/recordtest": {outside: []string{"github.com/santhosh-tekuri/jsonschema/v6"}},

	"cmd/execgate-agent":  {inside: []string{"executor/agent"}},
	"cmd/execgate-verify": {inside: []string{"audit/inspection"}},
	"cmd/execgate": {
		inside: []string{"audit", "audit/inspection", "audit/witness", "egress", "examples", "executor", "export", "gateway", "identity", "images", "policies", "policy", "policy/activation", "policy/replay", "store", "vault"},
		outside: []string{
			"github.com/prometheus/client_golang/prometheus", "github.com/spf13/cobra", "go.yaml.in/yaml/v3",
			"golang.org/x/sync", "golang.org/x/sys/unix",
		},
	},
	"bench":           {},
	"bench/reference": {outside: []string{"golang.org/x/sys/unix"}},
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		folder := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if folder == "" || len(p.GoFiles) == 0 {
			continue
		}
		allowed, ok := packages[folder]
		if !ok {
			t.Errorf("package %s is not in the list of this test: say what it may import", folder)
			continue
		}
		for _, path := range p.Imports {
			inside, isInside := strings.CutPrefix(path, module+"/")
			switch {
			case isInside && !slices.Contains(leaves, inside) && !slices.Contains(allowed.inside, inside):
				t.Errorf("%s imports its sibling %s", folder, inside)
			case isInside && slices.Contains(leaves, folder):
				t.Errorf("the leaf %s imports %s", folder, inside)
			case !isInside && strings.Contains(strings.Split(path, "/")[0], ".") && !within(path, allowed.outside):
				t.Errorf("%s imports %s, which is not its library", folder, path)
			}
		}
	}
}

// Folders whose names say nothing collect everything.
func TestNamesOfFolders(t *testing.T) {
	vague := []string{"internal", "util", "utils", "pkg", "types", "common", "helpers", "misc"}
	for _, p := range list(t) {
		for _, part := range strings.Split(strings.TrimPrefix(p.ImportPath, module), "/") {
			if slices.Contains(vague, part) {
				t.Errorf("%s: %q says nothing about what is in it", p.ImportPath, part)
			}
		}
	}
}

// Docker's SDK is to be replaced one day; then one folder changes.
func TestDockerIsHiddenByTheExecutor(t *testing.T) {
	for _, p := range list(t) {
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if strings.HasPrefix(path, "github.com/docker/") && !strings.HasPrefix(p.ImportPath, module+"/executor") {
				t.Errorf("%s imports %s", p.ImportPath, path)
			}
		}
	}
}

// Whoever checks a log should have little to read and to trust: the verifier has
// the log's format and nothing of the gateway, of the engine or of a network.
func TestVerifierIsSmall(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./cmd/execgate-verify").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	allowed := []string{
		module + "/cmd/execgate-verify", module + "/audit/inspection", module + "/audit", module + "/execution",
		"golang.org/x/mod/sumdb/note", "golang.org/x/mod/sumdb/tlog", "golang.org/x/sys/unix",
	}
	for path := range strings.FieldsSeq(string(out)) {
		inRepository := path == module || strings.HasPrefix(path, module+"/")
		outside := strings.Contains(strings.Split(path, "/")[0], ".")
		if (inRepository || outside) && !slices.Contains(allowed, path) {
			t.Errorf("execgate-verify brings %s", path)
		}
		if path == "net" || strings.HasPrefix(path, "net/http") || path == "os/exec" {
			t.Errorf("execgate-verify brings %s", path)
		}
	}
}

// The Vault server's licence is not ours to pass on: it is built and run by tests
// alone, and so is what runs it.
func TestVaultServerIsForTests(t *testing.T) {
	for _, p := range list(t) {
		for _, path := range p.Imports {
			if path == module+"/vault/vaulttest" || path == module+"/execution/recordtest" {
				t.Errorf("%s imports %s, which only tests may", p.ImportPath, path)
			}
		}
	}
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "github.com/hashicorp/vault v") {
		t.Error("go.mod requires the Vault server")
	}
}

func TestRequiredTopLevel(t *testing.T) {
	for _, name := range []string{"cmd", "gateway", "policy", "executor", "vault", "policies", "images", "go.mod", "go.sum", "Makefile", "README.md"} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	required := []string{"github.com/gin-gonic/gin", "github.com/open-policy-agent/opa", "github.com/docker/docker v28.5.2"}
	text, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range required {
		if !strings.Contains(string(text), name) {
			t.Errorf("go.mod does not require %s", name)
		}
	}
}

type listed struct {
	ImportPath                                  string
	GoFiles, Imports, TestImports, XTestImports []string
}

// list asks the go command, so that build tags and embedded packages count.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,GoFiles,Imports,TestImports,XTestImports", "./...")
	cmd.Env = append(os.Environ(), "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func within(path string, allowed []string) bool {
	return slices.ContainsFunc(allowed, func(prefix string) bool {
		return path == prefix || strings.HasPrefix(path, prefix+"/")
	})
}
