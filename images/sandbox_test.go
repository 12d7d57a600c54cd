package images_test

import (
	"archive/tar"
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/execgate/execgate/images"
)

//go:embed testdata/shim.py
var shim string

//go:embed testdata/shim.sh
var shimSh string

func pythonImage(t *testing.T) images.Image { t.Helper(); return imageNamed(t, "python") }

// imageNamed returns an image of the embedded list, once the engine has it. Without an engine or
// the image the test is skipped loudly, and fails where CI=true.
func imageNamed(t *testing.T, name string) images.Image {
	t.Helper()
	list, err := images.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range list {
		if image.Name != name {
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
	t.Fatalf("no image named %s", name)
	return images.Image{}
}

// A sandbox is a running container in which a test starts drivers, one after another.
type sandbox struct {
	id        string
	driver    []string
	languages map[string]images.Language
}

// newSandbox starts a container that is restricted as the executor restricts one, and goes by
// itself after some minutes even if the test is killed.
func newSandbox(t *testing.T) sandbox {
	t.Helper()
	return startSandbox(t, pythonImage(t), "--memory", "1g", "--pids-limit", "400")
}

// firstUser and lastUser are those that images know by a name.
const firstUser, lastUser = 210000, 211023

// startSandbox gives the container a user that no other sandbox has, as the executor does: by its
// name, which is that of one container on an engine. The kernel counts the processes of a user, in
// whichever container they are, against the limit that a gateway of another test set on them.
func startSandbox(t *testing.T, image images.Image, limits ...string) sandbox {
	t.Helper()
	for user := lastUser; user >= firstUser; user-- {
		args := slices.Concat([]string{"run", "--detach", "--rm", "--init", "--network", "none", "--read-only",
			"--name", fmt.Sprintf("execgate-%d", user),
			"--user", fmt.Sprintf("%d:%[1]d", user), "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
			"--tmpfs", "/tmp:size=64m,mode=1777", "--tmpfs", "/runs:size=64m,mode=1777",
			"--tmpfs", fmt.Sprintf("/workspace:size=64m,uid=%d,gid=%[1]d,mode=755", user)},
			limits, []string{image.Reference, "sleep", "900"})
		out, err := exec.Command("docker", args...).Output()
		if err == nil {
			return sandboxOf(t, image, strings.TrimSpace(string(out)))
		}
		if err = withStderr(err); !strings.Contains(err.Error(), "is already in use") {
			t.Fatalf("starting a container: %v", err)
		}
	}
	t.Fatal("every user has a sandbox")
	return sandbox{}
}

// sandboxOf is the running container, which goes with the test.
func sandboxOf(t *testing.T, image images.Image, id string) sandbox {
	t.Helper()
	t.Cleanup(func() { _ = exec.Command("docker", "rm", "--force", "--volumes", id).Run() })
	return sandbox{id: id, driver: image.Languages["python"].Command, languages: image.Languages}
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

// run starts the driver with each order, one after another.
func (s sandbox) run(t *testing.T, orders ...order) []report {
	t.Helper()
	for i := range orders {
		if orders[i].Command == nil {
			orders[i].Command = s.driver
		}
	}
	in, err := json.Marshal(orders)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker", "exec", "--interactive", s.id, "python3", "-I", "-c", shim)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running the shim: %v", withStderr(err))
	}
	var reports []report
	if err := json.Unmarshal(out, &reports); err != nil || len(reports) != len(orders) {
		t.Fatalf("reading the shim's reports %.2000q: %v", out, err)
	}
	return reports
}

// A program is what the gateway would send to a driver of any language.
type program struct {
	code  string
	input string // JSON
	env   map[string]string
	stdin string
	job   string // in place of the one that the others make; a leading … is cut off
}

// runAs runs programs by the driver of a language, one after another, each in the form that the
// language's entry says. Exit is above 128 for a signal, as in a shell.
func (s sandbox) runAs(t *testing.T, language string, programs ...program) []report {
	t.Helper()
	entry, ok := s.languages[language]
	if !ok {
		t.Fatalf("the image has no driver for %s", language)
	}
	var in bytes.Buffer
	runs := tar.NewWriter(&in)
	for i, p := range programs {
		job, argv := p.jobFor(t, entry)
		for name, content := range map[string]string{"job": job, "stdin": p.stdin, "argv": argv} {
			header := &tar.Header{Name: fmt.Sprintf("%03d/%s", i, name), Mode: 0o644, Size: int64(len(content))}
			if err := errors.Join(runs.WriteHeader(header), second(io.WriteString(runs, content))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := runs.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker", "exec", "--interactive", s.id, "bash", "-c", shimSh)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running the shim: %v", withStderr(err))
	}
	files := map[string]string{}
	for archive := tar.NewReader(bytes.NewReader(out)); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = string(content)
	}
	var reports []report
	for i := range programs {
		r, folder := report{}, fmt.Sprintf("%03d/", i)
		if r.Exit, err = strconv.Atoi(strings.TrimSpace(files[folder+"exit"])); err != nil {
			t.Fatal(err)
		}
		r.Stdout, r.Stderr = files[folder+"stdout"], files[folder+"stderr"]
		if value, ok := files[folder+"result"]; ok {
			r.Result = &value
		}
		if value, ok := files[folder+"result.error"]; ok {
			r.Error = &value
		}
		reports = append(reports, r)
	}
	return reports
}

func second[T any](_ T, err error) error { return err }

// jobFor is what the driver reads, and what starts it, each argument ended by a NUL.
func (p program) jobFor(t *testing.T, entry images.Language) (job, argv string) {
	t.Helper()
	const result = "/tmp/run/result"
	env := map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/workspace", "EXECGATE_RESULT": result}
	maps.Copy(env, p.env)
	job = p.code
	if entry.Job == images.JobText {
		env["INPUT_DATA"] = "null"
		if p.input != "" {
			env["INPUT_DATA"] = p.input
		}
	} else {
		fields := map[string]any{"code": p.code, "env": p.env, "result": result}
		if p.input != "" {
			fields["input"] = json.RawMessage(p.input)
		}
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		job = string(text)
	}
	if p.job != "" {
		job = strings.TrimPrefix(p.job, "…")
	}
	start := []string{"env", "-i"}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		start = append(start, name+"="+env[name])
	}
	for _, argument := range append(start, entry.Command...) {
		argv += argument + "\x00"
	}
	return job, argv
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
