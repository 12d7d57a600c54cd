package images_test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

func TestImageHoldsNothingToEscalateWith(t *testing.T) {
	// As root and with every file in reach: what an unprivileged user cannot see is found too.
	image := pythonImage(t)
	find := func(script string) string {
		t.Helper()
		out, err := exec.Command("docker", "run", "--rm", "--network", "none", "--user", "0:0",
			image.Reference, "sh", "-c", script).Output()
		if err != nil {
			t.Fatalf("%s: %v", script, withStderr(err))
		}
		return strings.TrimSpace(string(out))
	}
	for _, tc := range []struct{ name, script string }{
		{"setuid or setgid files", `find / -xdev -perm /6000`},
		{"files with capabilities", `python3 -c '
import os
for folder, _, names in os.walk("/usr"):
    for name in names:
        path = os.path.join(folder, name)
        if not os.path.islink(path) and "security.capability" in os.listxattr(path): print(path)'`},
		{"world-writable places beyond /tmp", `find / -xdev -perm -2 ! -type l ! -path /tmp`},
		{"files of nobody in particular", `find / -xdev ! -user 0`},
		{"pip, setuptools, wheel", `find / -xdev \( -iname 'pip*' -o -iname 'setuptools*' -o -name 'wheel*' \
			-o -name ensurepip -o -name pkg_resources -o -name _distutils_hack \) ! -name '*pipe*' ! -name WHEEL`},
		{"compilers", `find / -xdev -type f -perm /111 | grep -E '/(cc|gcc|g\+\+|c\+\+|cpp|clang|tcc|ld|as|make|go|rustc)(-[0-9.]+)?$' || true`},
		{"package managers and perl", `find / -xdev \( -name 'apt*' -o -name 'dpkg*' -o -name 'perl*' -o -name debconf \) ! -path '*/dist-packages/*'`},
		{"the mirror it was built from", `find / -xdev \( -name 'sources.list*' -o -path /etc/apt -o -path /build \)`},
		{"bytecode that must be compared with its source", `python3 -c '
import pathlib
for path in pathlib.Path("/usr/lib").rglob("*.pyc"):
    if path.read_bytes()[4:8] != b"\x01\0\0\0": print(path)'`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if found := find(tc.script); found != "" {
				t.Errorf("found:\n%s", found)
			}
		})
	}
}

func TestImageMetadataAddsNothing(t *testing.T) {
	image := pythonImage(t)
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
		t.Errorf("VOLUME, HEALTHCHECK or ENTRYPOINT is set: %s", out)
	}
	if config.User != "sandbox" {
		t.Errorf("user is %q, want sandbox", config.User)
	}
	for _, variable := range config.Env {
		name, _, _ := strings.Cut(variable, "=")
		if name != "PATH" && name != "LANG" {
			t.Errorf("the environment has %s", variable)
		}
	}
}

func TestImageKnowsEverySandboxUser(t *testing.T) {
	image := pythonImage(t)
	for _, user := range []string{"210000", "210517", "211023", "sandbox"} {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			ids := user + ":" + user
			if user == "sandbox" {
				ids = user
			}
			out, err := exec.Command("docker", "run", "--rm", "--network", "none", "--read-only", "--user", ids,
				image.Reference, "python", "-I", "-c",
				"import getpass, grp, os, pwd; e = pwd.getpwuid(os.getuid());"+
					"print(getpass.getuser(), e.pw_dir, grp.getgrgid(os.getgid()).gr_name)").Output()
			if err != nil {
				t.Fatal(withStderr(err))
			}
			if got, want := string(out), "sandbox /workspace sandbox\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestImageRunsPythonWithItsPackages(t *testing.T) {
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
	r := s.run(t, job(program))
	if r.Exit != 0 || r.Stdout != "fine\n" || r.Stderr != "" {
		t.Errorf("got %+v", r)
	}
}
