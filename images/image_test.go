package images_test

import (
	"archive/tar"
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"testing"
)

var imageNames = []string{"python", "node"}

func TestImageHoldsNothingToEscalateWith(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, script string }{
		{"setuid or setgid files", `find / -xdev -perm /6000`},
		{"world-writable places beyond /tmp", `find / -xdev -perm -2 ! -type l ! -path /tmp`},
		{"files of nobody in particular", `find / -xdev ! -user 0`},
		{"pip, setuptools, wheel", `find / -xdev \( -iname 'pip*' -o -iname 'setuptools*' -o -name 'wheel*' \
			-o -name ensurepip -o -name pkg_resources -o -name _distutils_hack \) ! -name '*pipe*' ! -name WHEEL`},
		{"npm, corepack, yarn", `find / -xdev \( -name 'npm*' -o -name 'npx*' -o -name 'corepack*' -o -name 'yarn*' -o -name 'pnpm*' \)`},
		{"compilers", `find / -xdev -type f -perm /111 | grep -E '/(cc|gcc|g\+\+|c\+\+|cpp|clang|tcc|ld|as|make|go|rustc)(-[0-9.]+)?$' || true`},
		{"package managers and perl", `find / -xdev \( -name 'apt*' -o -name 'dpkg*' -o -name 'perl*' -o -name debconf \) ! -path '*/dist-packages/*'`},
		{"the mirror it was built from", `find / -xdev \( -name 'sources.list*' -o -path /etc/apt -o -path /build \)`},
		{"bytecode that must be compared with its source", `! command -v python3 >/dev/null || python3 -c '
import pathlib
for path in pathlib.Path("/usr/lib").rglob("*.pyc"):
    if path.read_bytes()[4:8] != b"\x01\0\0\0": print(path)'`},
	} {
		for _, name := range imageNames {
			image := imageNamed(t, name)
			t.Run(name+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				// As root and with every file in reach: what an unprivileged user cannot see is found too.
				out, err := exec.Command("docker", "run", "--rm", "--network", "none", "--user", "0:0",
					image.Reference, "sh", "-c", tc.script).Output()
				if err != nil {
					t.Fatalf("%s: %v", tc.script, withStderr(err))
				}
				if found := strings.TrimSpace(string(out)); found != "" {
					t.Errorf("found:\n%s", found)
				}
			})
		}
	}
}

func TestImageHoldsOneLanguage(t *testing.T) {
	t.Parallel()
	for name, others := range map[string]string{"python": "node", "node": "python3"} {
		image := imageNamed(t, name)
		out, err := exec.Command("docker", "run", "--rm", "--network", "none", image.Reference, "sh", "-c", "! command -v "+others).CombinedOutput()
		if err != nil {
			t.Errorf("image %s also has %s", name, out)
		}
	}
}

// The engine's archive of the file system says what no tool inside may see.
func TestImageHoldsNoCapabilities(t *testing.T) {
	t.Parallel()
	for _, name := range imageNames {
		image := imageNamed(t, name)
		t.Run(name, func(t *testing.T) {
			id, err := exec.Command("docker", "create", "--network", "none", image.Reference, "true").Output()
			if err != nil {
				t.Fatal(withStderr(err))
			}
			container := strings.TrimSpace(string(id))
			t.Cleanup(func() { _ = exec.Command("docker", "rm", "--volumes", container).Run() })
			export := exec.Command("docker", "export", container)
			stdout, err := export.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := export.Start(); err != nil {
				t.Fatal(err)
			}
			entries := 0
			for archive := tar.NewReader(stdout); ; entries++ {
				header, err := archive.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				for record := range header.PAXRecords {
					if strings.HasPrefix(record, "SCHILY.xattr.") {
						t.Errorf("%s has %s", header.Name, record)
					}
				}
			}
			if err := export.Wait(); err != nil || entries < 1000 {
				t.Errorf("the archive has %d entries: %v", entries, err)
			}
		})
	}
}

func TestImageMetadataAddsNothing(t *testing.T) {
	t.Parallel()
	for _, name := range imageNames {
		image := imageNamed(t, name)
		out, err := exec.Command("docker", "image", "inspect", "--format", "{{json .Config}}", image.Reference).Output()
		if err != nil {
			t.Fatal(withStderr(err))
		}
		var config struct {
			User        string
			Volumes     map[string]any
			Healthcheck any
			Entrypoint  []string
			Env         []string
		}
		if err := json.Unmarshal(out, &config); err != nil {
			t.Fatal(err)
		}
		if config.Volumes != nil || config.Healthcheck != nil || config.Entrypoint != nil {
			t.Errorf("%s: VOLUME, HEALTHCHECK or ENTRYPOINT is set: %s", name, out)
		}
		if config.User != "sandbox" {
			t.Errorf("%s: user is %q, want sandbox", name, config.User)
		}
		for _, variable := range config.Env {
			if name, _, _ := strings.Cut(variable, "="); name != "PATH" && name != "LANG" {
				t.Errorf("%s: the environment has %s", image.Name, variable)
			}
		}
	}
}

func TestImageKnowsEverySandboxUser(t *testing.T) {
	t.Parallel()
	ask := map[string][]string{
		"python": {"python", "-I", "-c", "import getpass, grp, os, pwd; e = pwd.getpwuid(os.getuid());" +
			"print(getpass.getuser(), e.pw_dir, grp.getgrgid(os.getgid()).gr_name)"},
		"node": {"node", "-e", "const u = os.userInfo();" +
			"console.log(u.username, u.homedir, child_process.execSync('id -gn').toString().trim())"},
	}
	for _, name := range imageNames {
		image := imageNamed(t, name)
		for _, user := range []string{"210000", "210517", "211023", "sandbox"} {
			t.Run(name+"/"+user, func(t *testing.T) {
				t.Parallel()
				ids := user + ":" + user
				if user == "sandbox" {
					ids = user
				}
				out, err := exec.Command("docker", append([]string{"run", "--rm", "--network", "none", "--read-only",
					"--user", ids, image.Reference}, ask[name]...)...).Output()
				if err != nil {
					t.Fatal(withStderr(err))
				}
				if got, want := string(out), "sandbox /workspace sandbox\n"; got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

// Node finds its authorities, time zones and languages, and its own modules that Debian keeps in files.
func TestImageRunsNodeWithItsParts(t *testing.T) {
	t.Parallel()
	s := startSandbox(t, imageNamed(t, "node"), "--memory", "256m", "--pids-limit", "74")
	r := s.runAs(t, "javascript", js(`
		const assert = require('assert')
		assert(process.version.startsWith('v20.'))
		assert(require('tls').rootCertificates.length > 100)
		for (const name of require('module').builtinModules) if (!/^_|^(wasi|sys|punycode)$/.test(name)) require(name)
		assert.equal(new Date(0).toLocaleString('fr', {timeZone: 'Asia/Tokyo', timeStyle: 'short'}), '09:00')
		assert.equal(require('crypto').createHash('sha256').update('').digest('hex').slice(0, 8), 'e3b0c442')
		assert.equal(require('zlib').gunzipSync(require('zlib').gzipSync('a')).toString(), 'a')
		const server = require('http').createServer((q, a) => a.end('served')).listen(0, '127.0.0.1', async () => {
			result = await (await fetch('http://127.0.0.1:' + server.address().port)).text()
			server.close()
		})`))[0]
	if r.Exit != 0 || text(r.Result) != `"served"` || r.Stderr != "" {
		t.Errorf("got %+v, result %s", r, text(r.Result))
	}
}

func TestImageRunsPythonWithItsPackages(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	if versions := s.sh(t, "python --version; python3 --version"); strings.Count(versions, "Python 3.13.") != 2 {
		t.Errorf("python and python3 say %q", versions)
	}
	const program = `
import sys, ssl, sqlite3, zoneinfo
import numpy, pandas, matplotlib, requests
assert len(__import__("os").listdir(ssl.get_default_verify_paths().capath)) > 100
assert zoneinfo.ZoneInfo("Europe/Paris")
assert sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
assert abs(numpy.linalg.det(numpy.eye(3)) - 1) < 1e-9
stale = [m.__name__ for m in sys.modules.values() if getattr(m, "__file__", None) and m.__file__.endswith(".py")
         and getattr(m, "__cached__", None) and m.__name__ != "__main__" and not __import__("os").path.exists(m.__cached__)]
assert not stale, stale
print("fine")`
	r := s.run(t, job(program))[0]
	if r.Exit != 0 || r.Stdout != "fine\n" || r.Stderr != "" {
		t.Errorf("got %+v", r)
	}
}
