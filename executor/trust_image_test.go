package executor_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// sharedObject is a library as ldd(1) names it.
var sharedObject = regexp.MustCompile(`(?m)(/\S+\.so\S*)`)

// toolsImage makes an image with programs of this machine beside the sandbox's own,
// in /opt/tools, with the libraries that they need.
func toolsImage(t testing.TB, name string, programs ...string) {
	t.Helper()
	dir := t.TempDir()
	copyFile := func(from, to string) {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	// The image's own C library is newer, and goes with its own loader.
	ofImage := []string{"libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "libresolv.so.2", "librt.so.1"}
	lines := "FROM " + reference + "\nCOPY lib /opt/tools/lib\n"
	for _, program := range programs {
		linked, err := exec.Command("ldd", program).Output()
		if err != nil {
			t.Fatalf("%s, which this test takes from the machine: %v", program, err)
		}
		for _, object := range sharedObject.FindAllString(string(linked), -1) {
			if base := filepath.Base(object); !slices.Contains(ofImage, base) && !strings.HasPrefix(base, "ld-linux") {
				copyFile(object, filepath.Join("lib", base))
			}
		}
		copyFile(program, filepath.Base(program))
		lines += "COPY " + filepath.Base(program) + " /opt/tools/\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	buildFolder(t, name, dir)
}

// buildFolder makes an image of a folder with a Dockerfile, and removes it when the
// test ends.
func buildFolder(t testing.TB, name, dir string) {
	t.Helper()
	build := exec.Command("docker", "build", "--no-cache", "-q", "--network", "none", "-t", name, dir)
	build.Env = append(build.Environ(), "DOCKER_BUILDKIT=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("docker build: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("docker", "rmi", "-f", name).Run() })
}

// curl and git reach a name as every other client does.
func TestToolsTrustTheirSandboxsAuthority(t *testing.T) {
	t.Parallel()
	const name = "execgate-test/tools:latest"
	newExecutor(t) // is there an engine at all?
	toolsImage(t, name, "/usr/bin/curl", "/usr/bin/git", "/usr/lib/git-core/git-remote-https")
	e := newExecutor(t, withImage(name), carriedBy(&intercepting{}))
	underEach(t, func(t *testing.T, runtime string) {
		r := runOn(t, e, "python", under(runtime, execution.Job{Language: "bash", Code: `
export LD_LIBRARY_PATH=/opt/tools/lib PATH=/opt/tools:$PATH
curl -sS https://granted.example/a; echo
git --exec-path=/opt/tools ls-remote https://granted.example/repo.git
# With what the image trusts alone, neither does.
roots=/etc/ssl/certs/ca-certificates.crt
curl -sS --cacert $roots https://granted.example/a 2>/dev/null; echo $?
GIT_SSL_CAINFO=$roots git --exec-path=/opt/tools ls-remote https://granted.example/repo.git 2>/dev/null; echo $?
env -u CURL_CA_BUNDLE -u SSL_CERT_FILE curl -sS https://granted.example/a 2>/dev/null; echo $?
env -u GIT_SSL_CAINFO -u SSL_CERT_FILE git --exec-path=/opt/tools ls-remote https://granted.example/repo.git 2>/dev/null; echo $?
`}))
		ones := strings.Repeat("1", 40)
		want := strings.Join([]string{answered, ones + "\tHEAD", ones + "\trefs/heads/main", "60", "128", "60", "128"}, "\n")
		if out := exitedWell(t, r); out != want {
			t.Errorf("%s", describe(r))
		}
	})
}

// What an image trusts is found where images have it, whatever else is there; one
// that has it nowhere trusts the sandbox's authority alone. A file that is none, or
// leads elsewhere, is not taken, and no program is started that would miss it.
func TestRootsOfAnImage(t *testing.T) {
	t.Parallel()
	const roots = "/etc/ssl/certs/ca-certificates.crt"
	newExecutor(t)
	for name, c := range map[string]struct{ change, want string }{
		"none":           {"rm " + roots, "roots 0"},
		"elsewhere":      {"mkdir -p /etc/pki/tls/certs && mv " + roots + " /etc/pki/tls/certs/ca-bundle.crt", "roots all"},
		"without an end": {"truncate -s -1 " + roots, "roots all"},
		"linked":         {"mkdir /etc/pki && mv " + roots + " /etc/pki/a.pem && ln -s ../../pki/a.pem " + roots, "roots all"},
		"to nowhere":     {"ln -sf /nowhere " + roots, "roots 0"},
		"a folder":       {"rm " + roots + " && mkdir " + roots, roots + " of the image is no regular file"},
		"a pipe":         {"rm " + roots + " && mkfifo " + roots, roots},
		"a device":       {"ln -sf /dev/zero " + roots, roots + " of the image is no regular file"},
		"too large":      {"truncate -s 3M " + roots, roots + " of the image is no regular file of at most"},
		"of a process":   {"ln -sf /proc/self/status " + roots, roots + " of the image is a link that leads out of it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, image := t.TempDir(), "execgate-test/roots-"+strings.ReplaceAll(name, " ", "-")+":latest"
			text := "FROM " + reference + "\nUSER root\nRUN cp " + roots + " /original.pem && " + c.change + "\n"
			if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			buildFolder(t, image, dir)
			e := newExecutor(t, withImage(image), carriedBy(&intercepting{}))
			underEach(t, func(t *testing.T, runtime string) {
				r := runOn(t, e, "python", under(runtime, python(urllibGets+`
text, original = open(os.environ['SSL_CERT_FILE']).read(), open('/original.pem').read()
count = text.count('BEGIN CERTIFICATE') - 1
print('roots', 'all' if count == original.count('BEGIN CERTIFICATE') else count)
`)))
				if want, well := strings.CutPrefix(c.want, "roots "); well {
					if out := exitedWell(t, r); out != answered+"\nroots "+want {
						t.Errorf("%s", describe(r))
					}
				} else if *r.ExitCode != 126 || len(r.Stdout) > 0 || !strings.Contains(string(r.Stderr), c.want) {
					t.Errorf("%s", describe(r))
				}
			})
		})
	}
}

// The file counts as the program's own: it fits in the least that there may be, and
// where an earlier program has left no room nothing is started.
func TestTrustNeedsRoom(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, carriedBy(&intercepting{}))
	s, execute := inSession(t, e, "python")
	execute(python(`
with open('/tmp/full', 'wb', 0) as f:
    try:
        while True: f.write(bytes(65536))
    except OSError: pass
`))
	with := python(urllibGets)
	with.ID, with.Owner, with.Session, with.Grant = "ex_room_1", s.Owner, s.ID, s.Grant
	with.Grant.Network = granting
	r, err := e.Execute(t.Context(), with)
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome != execution.OutcomeDiskLimit || !slices.Equal(r.Usage.LimitsHit, []string{"tmp_mib"}) || len(r.Stdout) > 0 {
		t.Errorf("%s", describe(r))
	}
	exitedWell(t, execute(python("import os\nos.unlink('/tmp/full')")))
	with.ID = "ex_room_2"
	if r, err = e.Execute(t.Context(), with); err != nil || exitedWell(t, r) != answered {
		t.Errorf("%v, %s", err, describe(r))
	}

	r = runOn(t, e, "python", python(urllibGets), func(g *execution.Grant) { g.Limits.TmpMiB = 1 })
	if out := exitedWell(t, r); out != answered {
		t.Errorf("%s", describe(r))
	}
}
