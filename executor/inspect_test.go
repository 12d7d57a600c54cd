package executor_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/google/go-cmp/cmp"
)

// inspect looks at the image called reference as one that has these languages.
func inspect(t *testing.T, reference string, languages map[string]executor.Language, command ...string) executor.Inspection {
	t.Helper()
	e := newExecutor(t, func(c *executor.Config) {
		c.Images = []executor.Image{{Name: "candidate", Reference: reference, Languages: languages}}
	})
	found, err := inspectCandidate(t, e, executor.Trial{Runtime: "runc", Limits: granted(), Command: command})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// inspectCandidate looks at the image of that name, once the engine answers: one that has
// much to do may not at first.
func inspectCandidate(t *testing.T, e *executor.Executor, trial executor.Trial) (found executor.Inspection, err error) {
	t.Helper()
	until(t, "the engine answers", func() bool {
		found, err = e.Inspect(t.Context(), "candidate", trial)
		return execution.KindOf(err) != execution.KindUnavailable
	})
	return found, err
}

// Everything that an image says and a sandbox has otherwise is told, and that it
// runs all the same.
func TestInspectTellsWhatIsIgnored(t *testing.T) {
	t.Parallel()
	const name = "execgate-test/inspected:latest"
	newExecutor(t)
	buildImage(t, name, `
VOLUME /data /tmp
HEALTHCHECK CMD true
ENV SECRET=value
LABEL execgate.gateway=forged
ENTRYPOINT ["/bin/false"]
CMD ["x", "y"]
WORKDIR /srv
STOPSIGNAL SIGCONT
USER root
`)
	before := anonymousVolumes(t)
	found := inspect(t, name, map[string]executor.Language{
		"bash": {Command: []string{"/usr/bin/env", "--chdir=/opt/execgate/drivers", "/bin/bash", "main.sh"}, Text: true},
	}, "/usr/bin/python3", "-c", "import pandas")
	if !found.Fit() {
		t.Error("it is not fit")
	}
	if id := docker(t, "inspect", "-f", "{{.Id}}", name); found.ID != id || found.Digest != id || found.Reference != name {
		t.Errorf("%+v is not %s", found, id)
	}
	var lines []string
	for _, f := range found.Findings {
		lines = append(lines, fmt.Sprintf("%s %s %s", f.Subject, f.Found, f.Verdict))
	}
	want := []string{
		"platform linux/" + runtime.GOARCH + " fit", "VOLUME /data ignored", "VOLUME /tmp ignored", "USER root ignored", "WORKDIR /srv ignored",
		"ENTRYPOINT /bin/false ignored", "CMD x y ignored", "ENV PATH LANG SECRET ignored",
		"LABEL dev.execgate.inputs execgate.gateway ignored", "HEALTHCHECK CMD-SHELL true ignored", "STOPSIGNAL SIGCONT ignored",
		"sandbox runc fit", "language bash fit", "command /usr/bin/python3 -c import pandas fit",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	untilNoVolumeIsLeft(t, before)
}

// An image with no file at all is fit: what a sandbox needs comes with it.
func TestInspectEmptyImage(t *testing.T) {
	t.Parallel()
	const name = "execgate-test/empty:latest"
	newExecutor(t)
	buildImage(t, name, "FROM scratch\nLABEL empty=true\n")
	if found := inspect(t, name, nil); !found.Fit() {
		t.Errorf("%+v", found.Findings)
	}
}

// An unfit image is told by what makes it so.
func TestInspectUnfit(t *testing.T) {
	t.Parallel()
	newExecutor(t)
	var volumes strings.Builder
	for n := range 33 {
		fmt.Fprintf(&volumes, " /v%d", n)
	}
	for _, test := range []struct {
		name      string
		lines     string
		languages map[string]executor.Language
		command   []string
		subject   string
		note      string
	}{
		{"a volume over the agent", "VOLUME /execgate/x", nil, nil, "VOLUME", `volume at "/execgate/x", which cannot be masked: build it without`},
		{"more volumes than are masked", "VOLUME" + volumes.String(), nil, nil, "VOLUME", "33 volumes, at most 32"},
		{"a file in the way", "USER root\nWORKDIR /\nRUN rm -rf /workspace && touch /workspace", nil, nil, "sandbox", "not a directory"},
		{"a link in the way", "USER root\nWORKDIR /\nRUN rm -rf /workspace && ln -s /srv /workspace", nil, nil, "sandbox", "control writable_mounts"},
		{"no driver", "FROM scratch\nLABEL a=b", map[string]executor.Language{"ruby": {Command: []string{"/usr/bin/ruby"}}}, nil, "language", "exit code 127: "},
		{"no command", "", nil, []string{"/usr/bin/python3", "-c", "import nosuchmodule"}, "command", "exit code 1: ModuleNotFoundError: No module named 'nosuchmodule'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			name := "execgate-test/unfit-" + strings.ReplaceAll(test.name, " ", "-")
			buildImage(t, name, test.lines)
			unfit(t, inspect(t, name, test.languages, test.command...), test.subject, test.note)
		})
	}
}

// unfit checks that one finding says why, and no more than that one.
func unfit(t *testing.T, found executor.Inspection, subject, note string) {
	t.Helper()
	var why []executor.Finding
	for _, f := range found.Findings {
		if f.Verdict == executor.VerdictUnfit {
			why = append(why, f)
		}
	}
	if found.Fit() || len(why) != 1 || why[0].Subject != subject || !strings.Contains(why[0].Note, note) {
		t.Errorf("got %+v", why)
	}
}

func TestInspectOtherArchitecture(t *testing.T) {
	t.Parallel()
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	const name = "execgate-test/architecture:latest"
	newExecutor(t)
	loadImage(t, name, other)
	unfit(t, inspect(t, name, nil), "platform", "build the image for that")
}

// loadImage makes an image without files for an architecture.
func loadImage(t *testing.T, name, architecture string) {
	t.Helper()
	config := fmt.Sprintf(`{"architecture": %q, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}`, architecture)
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{}}})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for file, content := range map[string]string{"config.json": config, "manifest.json": string(manifest)} {
		w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
		w.Write([]byte(content)) // to a buffer, which does not fail
	}
	w.Close()
	load := exec.Command("docker", "load")
	load.Stdin = &archive
	if out, err := load.CombinedOutput(); err != nil {
		t.Fatalf("docker load: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", name).Run() })
}

// An image that the engine does not have is not fetched.
func TestInspectMissing(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, func(c *executor.Config) {
		c.Images = append(c.Images, executor.Image{Name: "candidate", Reference: "execgate-test/missing:latest"})
	})
	if _, err := inspectCandidate(t, e, executor.Trial{Runtime: "runc", Limits: granted()}); execution.KindOf(err) != execution.KindNotFound {
		t.Error(err)
	}
	var present map[string]string
	var err error
	until(t, "the engine answers", func() bool {
		present, err = e.Present(t.Context())
		return execution.KindOf(err) != execution.KindUnavailable
	})
	if err != nil || len(present) != 1 || present["python"] == "" {
		t.Errorf("present are %v: %v", present, err)
	}
}
