package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/policies"
)

// ownImage makes an image with a module of its own and removes it when the test
// ends.
func ownImage(t *testing.T, name string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "greeting", "__init__.py"), "def hello(name):\n    return f'hello {name}'\n")
	write(t, filepath.Join(dir, "Dockerfile"), "FROM execgate/sandbox:latest\nCOPY greeting /usr/lib/python3/dist-packages/greeting\n"+
		"VOLUME /data\nHEALTHCHECK CMD true\nENV SECRET=x\nLABEL odd=\"\x1b[31m\"\n")
	build := exec.Command("docker", "build", "--no-cache", "-q", "-t", name, dir)
	build.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", name).Run() })
}

// write makes a file that everybody may read, as a sandbox's user must.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// command runs the program and returns what it printed.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command("execgate", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// shippedPolicy copies the shipped policy into a folder, without its tests: they are of
// the shipped data, and each start of a gateway would run all of them.
func shippedPolicy(t *testing.T, dir string) {
	t.Helper()
	if err := os.CopyFS(dir, policies.Files); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.rego") {
			err = os.Remove(path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// policyGranting is the shipped policy with one more image for the tenant that
// the first key belongs to.
func policyGranting(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	shippedPolicy(t, dir)
	text, err := fs.ReadFile(policies.Files, "data.json")
	if err != nil {
		t.Fatal(err)
	}
	granting := strings.Replace(string(text), `"images": ["python", "node"]`, `"images": ["python", "node", "`+image+`"]`, 1)
	if granting == string(text) {
		t.Fatal("the shipped data.json grants other images than this test thinks")
	}
	if err := os.WriteFile(filepath.Join(dir, "data.json"), []byte(granting), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// From an image that was just built to a program that runs in it: checked,
// added, refused until it is granted, and then run.
func TestOwnImage(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	const reference = "execgate-test/greeting:1"
	ownImage(t, reference)
	state := filepath.Join(t.TempDir(), "state")

	stdout, stderr, code := command(t, "image", "check", reference, "--like", "python", "--state", state, "--", "python3", "-c", "import greeting")
	if code != 0 || !strings.HasSuffix(stdout, "\nfit\n") || strings.Contains(stdout, "\x1b") {
		t.Fatalf("check: exit code %d, %q, %s", code, stdout, stderr)
	}
	g := newGateway(t, state, nil)
	g.start()
	g.waitReady()
	const request = `{"language": "python", "image": "greeting", "code": "import greeting\nprint(greeting.hello('world'))"}`
	if r := g.execute(request); r.status != http.StatusNotFound || !strings.Contains(string(r.body), "Images are: python, node.") {
		t.Fatalf("before it is added: %d %s", r.status, r.body)
	}
	// The gateway holds the folder meanwhile.
	stdout, stderr, code = command(t, "image", "add", "greeting", reference, "--like", "python", "--state", state)
	if code != 0 || !strings.Contains(stdout, `"images": ["greeting"], "languages": ["bash", "python"]`) {
		t.Fatalf("add: exit code %d, %s%s", code, stdout, stderr)
	}
	if code := g.stop(); code != 0 {
		t.Fatal(code)
	}

	g.start()
	g.waitReady()
	if r := g.execute(request); r.status != http.StatusForbidden || !strings.Contains(string(r.body), `"code":"image_not_granted"`) {
		t.Fatalf("added and not granted: %d %s", r.status, r.body)
	}
	if r := g.execute(strings.Replace(request, `"greeting"`, `"greting"`, 1)); r.status != http.StatusNotFound || !strings.Contains(string(r.body), "Images are: python, node, greeting.") {
		t.Fatalf("another name: %d %s", r.status, r.body)
	}
	g.stop()

	folder := policyGranting(t, "greeting")
	g.args = []string{"--policy", folder}
	g.start()
	g.waitReady()
	if r := g.execute(request); r.status != http.StatusOK || !strings.Contains(string(r.body), `"stdout":"hello world\n"`) {
		t.Fatalf("granted: %d %s", r.status, r.body)
	}
	stdout, stderr, code = command(t, "image", "list", "--output", "json", "--state", state, "--policy", folder)
	var list struct{ Images []shownImage }
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || code != 0 || len(list.Images) != 3 {
		t.Fatalf("list: %v, exit code %d, %s%s", err, code, stdout, stderr)
	}
	got := list.Images[2]
	if got.Name != "greeting" || got.Source != sourceAdded || !strings.HasPrefix(got.Digest, "sha256:") || strings.Join(got.Languages, " ") != "bash python" || strings.Join(got.Tenants, " ") != "default" {
		t.Errorf("listed as %+v", got)
	}
	if code := g.stop(); code != 0 {
		t.Error(code)
	}
}

// A language that has no driver in any shipped image comes with an entry of its
// own.
func TestOwnImageWithItsOwnLanguage(t *testing.T) {
	t.Parallel()
	needsEngine(t)
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	file := filepath.Join(dir, "sh.yaml")
	write(t, file, "command: [/bin/sh, -c, '. /dev/fd/3']\njob: text\n")
	_, stderr, code := command(t, "image", "add", "plain", "execgate/sandbox:latest", "--language", "sh="+file, "--state", state)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	cfg := defaultConfig()
	cfg.State = state
	list, err := cfg.sandboxImages()
	if err != nil {
		t.Fatal(err)
	}
	if sh := list[len(list)-1].Languages["sh"]; !sh.Text || strings.Join(sh.Command, " ") != "/bin/sh -c . /dev/fd/3" {
		t.Errorf("%+v", list)
	}

	write(t, file, "command: [/bin/sh, -c, 'exit 3']\njob: text\n")
	_, stderr, code = command(t, "image", "add", "plain", "execgate/sandbox:latest", "--replace", "--language", "sh="+file, "--state", state)
	if code != exitFailed || !strings.Contains(stderr, "exit code 3") || !strings.Contains(stderr, "plain is not added") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if again, err := cfg.sandboxImages(); err != nil || again[len(again)-1].Languages["sh"].Command[2] != ". /dev/fd/3" {
		t.Errorf("what was added is %+v: %v", again, err)
	}
}
