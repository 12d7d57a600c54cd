package executor_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// buildImage makes an image from the lines of a Dockerfile and removes it when
// the test ends.
func buildImage(t testing.TB, name, lines string) {
	t.Helper()
	build := exec.Command("docker", "build", "--no-cache", "-q", "-t", name, "-")
	build.Stdin = strings.NewReader("FROM " + reference + "\n" + lines)
	build.Env = append(build.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", name).Run() })
}

// withImage makes an executor's only image another one.
func withImage(name string) func(*executor.Config) {
	return func(c *executor.Config) { c.Images[0].Reference = name }
}

// What an image's metadata would add to a sandbox is masked.
func TestHostileImageMetadata(t *testing.T) {
	t.Parallel()
	const name = "execgate-test/hostile:latest"
	newExecutor(t) // is there an engine at all?
	buildImage(t, name, `
USER root
VOLUME /data /var/cache/more /workspace /tmp
HEALTHCHECK --interval=1s CMD touch /tmp/health
ENV GODEBUG=inittrace=1 GOGC=1 GOMAXPROCS=64 LD_PRELOAD=/nonexistent.so PYTHONSTARTUP=/x PYTHONPATH=/tmp PATH=/evil SECRET=image
LABEL execgate.gateway=forged execgate.execution=forged execgate.deadline=1 other=label
ENTRYPOINT ["/bin/false"]
CMD ["x"]
WORKDIR /root
STOPSIGNAL SIGCONT
EXPOSE 80
ONBUILD RUN false
`)
	e := newExecutor(t, withImage(name))
	before := anonymousVolumes(t)
	r := hostile{want: execution.OutcomeExited, job: python(`
import os
result = {
    'uid': os.getuid() >= 200000, 'cwd': os.getcwd(), 'health': os.path.exists('/tmp/health'),
    'env': sorted(k for k in os.environ if k not in ('LC_CTYPE',)), 'path': '/evil' in os.environ['PATH'],
    'data': os.access('/data', os.W_OK), 'more': os.access('/var/cache/more', os.W_OK),
}
`)}.attack(t, e)
	const want = `{"uid":true,"cwd":"/workspace","health":false,"env":["EXECGATE_EXECUTION","EXECGATE_RESULT","HOME","LANG","PATH","TMPDIR","USER"],"path":false,"data":false,"more":false}`
	if string(r.Value) != want {
		t.Errorf("got  %s\nwant %s", r.Value, want)
	}
	untilNoVolumeIsLeft(t, before)
}

// The labels that the reaper goes by are the gateway's, whatever the image says.
func TestImageCannotForgeLabels(t *testing.T) {
	t.Parallel()
	const name = "execgate-test/labels:latest"
	gateway := execution.NewID("test_", time.Now())
	newExecutor(t)
	buildImage(t, name, "LABEL execgate.gateway=forged execgate.deadline=1 other=label\n")
	e := newExecutor(t, withImage(name), func(c *executor.Config) { c.Gateway = gateway })
	execute := executing(t, e, timeout(600_000))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := execute(ctx, "ex_test_labelled", shell("sleep 600"))
		ended <- err
	}()
	var id string
	until(t, "the sandbox is up", func() bool {
		found := containers(t, "label=execgate.gateway="+gateway)
		if len(found) == 1 {
			id = found[0]
		}
		return len(found) == 1
	})
	labels := docker(t, "inspect", "-f", `{{index .Config.Labels "execgate.gateway"}} {{index .Config.Labels "execgate.execution"}} [{{index .Config.Labels "other"}}]`, id)
	if want := gateway + " ex_test_labelled []"; labels != want {
		t.Errorf("labels %q, want %q", labels, want)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A volume that no mount can cover refuses the image instead of running it.
func TestImageWithVolumeThatCannotBeMasked(t *testing.T) {
	t.Parallel()
	const name = "execgate-test/volume:latest"
	newExecutor(t)
	buildImage(t, name, "VOLUME /execgate/x\n")
	e := newExecutor(t, withImage(name))
	image := resolve(t, e, "python")
	_, err := e.Execute(t.Context(), execution.Job{ID: "ex_test_volume", Command: []string{"true"}, Grant: execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted()}})
	if err == nil || !strings.Contains(err.Error(), "cannot be masked") {
		t.Errorf("error %v", err)
	}
}

// An image that is rebuilt while the gateway runs is seen, and what was granted
// before is still what runs.
func TestRebuiltImage(t *testing.T) {
	t.Parallel()
	const name = "execgate-test/rebuilt:latest"
	newExecutor(t)
	buildImage(t, name, "LABEL version=1\n")
	docker(t, "tag", name, name+"-kept")
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", name+"-kept").Run() })
	e := newExecutor(t, withImage(name))
	first := resolve(t, e, "python")
	buildImage(t, name, "LABEL version=2\n")
	until(t, "the new digest shows", func() bool {
		digests, err := e.Digests(t.Context())
		if err != nil && execution.KindOf(err) != execution.KindUnavailable { // which one that is busy may be
			t.Fatal(err)
		}
		return err == nil && digests["python"] != first.Digest
	})
	hostile{job: shell("true"), want: execution.OutcomeExited}.attack(t, e)
	_, err := e.Execute(t.Context(), execution.Job{ID: "ex_test_old", Command: []string{"true"}, Grant: execution.Grant{Image: first.Digest, Runtime: "runc", Limits: granted()}})
	if err != nil {
		t.Errorf("the image that was granted before does not run: %v", err)
	}
}

func TestResolveRefuses(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	for _, c := range [][2]string{{"cobol", ""}, {"", "nothing"}, {"cobol", "python"}, {"", ""}} {
		if _, err := e.Resolve(t.Context(), c[0], c[1]); execution.KindOf(err) != execution.KindNotFound {
			t.Errorf("%q: %v", c, err)
		}
	}
}
