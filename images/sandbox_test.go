package images_test

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/execgate/execgate/images"
)

//go:embed testdata/shim.py
var shim string

// pythonImage returns the embedded list's image named python, once the engine has it. Without an
// engine or the image the test is skipped loudly, and fails where CI=true.
func pythonImage(t *testing.T) images.Image {
	t.Helper()
	list, err := images.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range list {
		if image.Name != "python" {
			continue
		}
		if out, err := exec.Command("docker", "image", "inspect", image.Reference).CombinedOutput(); err != nil {
			const message = "NOT TESTED: no Docker engine has the image %s; run scripts/setup.\n%v: %s"
			if os.Getenv("CI") == "true" {
				t.Fatalf(message, image.Reference, err, out)
			}
			t.Skipf(message, image.Reference, err, out)
		}
		return image
	}
	t.Fatal("no image named python")
	return images.Image{}
}

// A sandbox is a running container in which a test starts drivers, one after another.
type sandbox struct {
	id     string
	driver []string
}

// newSandbox starts a container that is restricted as the executor restricts one, and goes by
// itself after some minutes even if the test is killed.
func newSandbox(t *testing.T) sandbox {
	t.Helper()
	image := pythonImage(t)
	out, err := exec.Command("docker", "run", "--detach", "--rm", "--init", "--network", "none", "--read-only",
		"--user", "210005:210005", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
		"--memory", "1g", "--pids-limit", "400",
		"--tmpfs", "/tmp:size=64m,mode=1777",
		"--tmpfs", "/workspace:size=64m,uid=210005,gid=210005,mode=755",
		image.Reference, "sleep", "900").Output()
	if err != nil {
		t.Fatalf("starting a container: %v", withStderr(err))
	}
	id := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "--force", "--volumes", id).Run() })
	return sandbox{id: id, driver: image.Languages["python"].Command}
}

// An order is what testdata/shim.py starts a driver with.
type order struct {
	Command []string `json:"command"`
	Job     string   `json:"job"`
	Stdin   string   `json:"stdin"`
	KillOn  string   `json:"kill_on"`
}

// A report is what came of it. Exit is negative for a signal.
type report struct {
	Exit           int
	Stdout, Stderr string
	Result, Error  *string
}

func (s sandbox) run(t *testing.T, o order) report {
	t.Helper()
	if o.Command == nil {
		o.Command = s.driver
	}
	in, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker", "exec", "--interactive", s.id, "python3", "-I", "-c", shim)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running the shim: %v", withStderr(err))
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("reading the shim's report %q: %v", out, err)
	}
	return r
}

// sh runs a shell script in the sandbox and returns its output.
func (s sandbox) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("docker", "exec", s.id, "sh", "-c", script).Output()
	if err != nil {
		t.Fatalf("%s: %v", script, withStderr(err))
	}
	return string(out)
}

func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return errors.Join(err, errors.New(string(exit.Stderr)))
	}
	return err
}
