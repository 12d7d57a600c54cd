package executor_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Clients as Debian has them reach what is granted without a setting, and nothing else;
// what trusts the image's roots alone reaches nothing.
func TestClientsAsDebianHasThem(t *testing.T) {
	t.Parallel()
	repository := gitServer(t)
	o := newOutside(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/repo.git/") {
			repository.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s at %s: %d bytes", r.Method, r.URL.Path, r.Host, len(body))
	}))
	hosts := []string{"api.example"}
	got := fmt.Sprintf("GET /a at api.example:%d: 0 bytes", o.port)
	posted := fmt.Sprintf("POST /a at api.example:%d: 100000 bytes", o.port)
	underEach(t, func(t *testing.T, runtime string) {
		for name, c := range map[string]struct{ script, want string }{
			"httpx": {`python3 - <<'PY'
import asyncio, httpx, ssl
url = 'https://api.example:PORT/a'
print(httpx.get(url, timeout=60).text)
async def several():
    async with httpx.AsyncClient(timeout=60) as client:
        for answer in await asyncio.gather(client.get(url), client.post(url, content=bytes(100000))): print(answer.text)
asyncio.run(several())
try: httpx.get(url, timeout=60, verify=ssl.create_default_context(cafile='/etc/ssl/certs/ca-certificates.crt'))
except httpx.ConnectError as e: print('CERTIFICATE_VERIFY_FAILED' in str(e))
print(httpx.get('https://other.example:PORT/a', timeout=60).json()['code'])
PY
`, got + "\n" + got + "\n" + posted + "\nTrue\nnetwork_not_granted"},
			"requests": {`python3 - <<'PY'
import requests
url = 'https://api.example:PORT/a'
with requests.Session() as session:
    print(session.get(url).text)
    print(session.post(url, data=(bytes(1000) for _ in range(100))).text)
print(requests.get('https://other.example:PORT/a').json()['code'])
PY
`, got + "\n" + posted + "\nnetwork_not_granted"},
			"curl": {`url=https://api.example:PORT/a
curl -sS $url; echo
head -c 100000 /dev/zero | curl -sS --http1.1 -T - -X POST $url; echo
curl -sS -w ' %{http_version}\n' -o /dev/null $url
curl -sS https://other.example:PORT/a | grep -o '"code":"[a-z_]*"'
`, got + "\n" + posted + "\n 2\n" + `"code":"network_not_granted"`},
			"git": {`git clone -q https://api.example:PORT/repo.git there
cat there/hello; git -C there log --format=%s
git clone -q https://other.example:PORT/repo.git 2>&1 | grep -o 'error: 403' || true
`, "from a repository\nfirst\nerror: 403"},
			"node": {`cat >a.mjs <<'JS'
console.log(await (await fetch('https://api.example:PORT/a')).text());
console.log(await (await fetch('https://api.example:PORT/a', { method: 'POST', body: new Uint8Array(100000) })).text());
console.log((await (await fetch('https://other.example:PORT/a')).json()).code);
JS
node a.mjs
`, got + "\n" + posted + "\nnetwork_not_granted"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if out := o.bash(t, runtime, c.script, hosts); out != c.want {
					t.Errorf("got\n%s\nwant\n%s", out, c.want)
				}
			})
		}
	})
	if asked := o.requests("other.example"); len(asked) > 0 {
		t.Errorf("to what is not granted went %v", asked)
	}
}

// gitServer serves one repository at /repo.git.
func gitServer(t *testing.T) http.Handler {
	t.Helper()
	dir := t.TempDir()
	git := exec.Command("sh", "-c", `git init -q -b main work && cd work && echo from a repository >hello && git add hello &&
git -c user.name=test -c user.email=test@test commit -qm first && git clone -q --bare . ../repo.git && git --exec-path`)
	git.Dir, git.Env = dir, append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := git.Output()
	if err != nil {
		t.Fatalf("make a repository: %v: %s", err, out)
	}
	return &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"}, InheritEnv: []string{"PATH"},
	}
}

// pip, in an image of a user's own, installs from an index that is granted.
func TestPipInstalls(t *testing.T) {
	t.Parallel()
	index := pipIndex(t)
	o := newOutside(t, index)
	underEach(t, func(t *testing.T, runtime string) {
		out := o.bash(t, runtime, `python3 -m pip install -q --target lib --index-url https://pypi.example:PORT/simple/ tiny
PYTHONPATH=lib python3 -c 'import tiny; print(tiny.greeting)'
python3 -m pip download -q --index-url https://pypi.example:PORT/simple/ absent 2>&1 | grep -o 'No matching distribution found for absent' || true
`, []string{"pypi.example"})
		if out != "hello from a wheel\nNo matching distribution found for absent" {
			t.Errorf("%s", out)
		}
	})
	if asked := o.requests("pypi.example"); !slices.Contains(asked, "GET /files/tiny-1.0-py3-none-any.whl") {
		t.Errorf("recorded are %v", asked)
	}
}

// npm, in an image of a user's own, installs from a registry that is granted, also
// packages with a scope, whose names have an escaped slash.
func TestNpmInstalls(t *testing.T) {
	t.Parallel()
	o := newOutside(t, npmRegistry(t, "registry.example"))
	underEach(t, func(t *testing.T, runtime string) {
		out := o.bash(t, runtime, `echo '{}' >package.json
npm install --silent --registry https://registry.example:PORT/ tiny @scope/tiny
node -e 'console.log(require("tiny"), require("@scope/tiny"))'
`, []string{"registry.example"})
		if !strings.HasSuffix(out, "hello from tiny hello from @scope/tiny") {
			t.Errorf("%s", out)
		}
	})
	if asked := o.requests("registry.example"); !slices.Contains(asked, "GET /@scope%2Ftiny") {
		t.Errorf("recorded are %v", asked)
	}
}
