package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// privateEngine is a Docker engine of a test's own, which may break it: with its
// containerd and all its containers in namespaces that end with the test, also
// where that is killed.
type privateEngine struct {
	t      testing.TB
	folder string
	images string // path of an images.yaml with its one image
	client *http.Client

	process *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
}

// privateTool builds testdata/privateengine, once for all tests.
var privateTool = sync.OnceValues(func() (string, error) {
	// Beside the agent, in the folder that TestMain removes.
	path := filepath.Join(filepath.Dir(os.Getenv("EXECGATE_EXECUTOR_AGENT")), "privateengine")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./testdata/privateengine")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the private engine's tool: %w: %s", err, out)
	}
	return path, nil
})

// newPrivateEngine starts an engine with a disk of so many MiB and one image,
// called python, whose one language knows "print", "sleep" and "spin".
func newPrivateEngine(t testing.TB, mib int) *privateEngine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("an engine of the test's own needs root, for namespaces and a file system: run the tests as root")
	}
	for _, name := range []string{"dockerd", "containerd"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("an engine of the test's own needs %s on this machine (run make setup): %v", name, err)
		}
	}
	tool, err := privateTool()
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "egengine") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	p := &privateEngine{t: t, folder: folder}
	p.client = &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", p.socket())
		},
	}}
	p.process = exec.Command(tool, "engine", folder, fmt.Sprint(mib))
	p.process.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	var words bytes.Buffer
	p.process.Stderr = &words
	if p.orders, err = p.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	answers, err := p.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.answers = bufio.NewReader(answers)
	if err := p.process.Start(); err != nil {
		t.Fatalf("namespaces for a private engine: %v", err)
	}
	t.Cleanup(func() { p.remove(&words) })
	p.order("start")
	p.provideImage(tool)
	return p
}

// remove ends process 1 of the namespaces, with which the kernel ends the rest,
// and unmounts what was mounted there.
func (p *privateEngine) remove(words *bytes.Buffer) {
	p.process.Process.Kill()
	p.process.Wait()
	if p.t.Failed() {
		p.t.Logf("private engine: %s", words)
		if log, err := os.ReadFile(filepath.Join(p.folder, "dockerd.log")); err == nil {
			p.t.Logf("log of the private engine:\n%s", log[max(0, len(log)-4000):])
		}
	}
	// Its groups are empty now; the deepest go first.
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(p.folder))
	for _, group := range append(groups, filepath.Join("/sys/fs/cgroup", filepath.Base(p.folder))) {
		var all []string
		filepath.WalkDir(group, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for _, path := range slices.Backward(all) {
			os.Remove(path)
		}
	}
	if err := os.RemoveAll(p.folder); err != nil {
		p.t.Error(err)
	}
}

// order has the engine do something: see testdata/privateengine.
func (p *privateEngine) order(word string) {
	p.t.Helper()
	if _, err := io.WriteString(p.orders, word+"\n"); err != nil {
		p.t.Fatal(err)
	}
	answer, err := p.answers.ReadString('\n')
	if err != nil || answer != "ok\n" {
		p.t.Fatalf("private engine, %s: %s %v", word, answer, err)
	}
}

func (p *privateEngine) socket() string  { return filepath.Join(p.folder, "engine.sock") }
func (p *privateEngine) address() string { return "unix://" + p.socket() }

// provideImage makes an image that holds the tool alone, and the list that
// names it.
func (p *privateEngine) provideImage(tool string) {
	p.t.Helper()
	binary, err := os.ReadFile(tool)
	if err != nil {
		p.t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	w.WriteHeader(&tar.Header{Name: "tool", Mode: 0o555, Size: int64(len(binary)), Typeflag: tar.TypeReg})
	w.Write(binary)
	w.Close() // a buffer takes everything
	resp, err := p.client.Post("http://engine/images/create?fromSrc=-&repo=tiny&tag=latest", "application/x-tar", &archive)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if said := readAll(p.t, resp.Body); resp.StatusCode != http.StatusOK || strings.Contains(said, "error") {
		p.t.Fatalf("import an image: %s %s", resp.Status, said)
	}
	p.images = filepath.Join(p.folder, "images.yaml")
	const list = "images:\n  - name: python\n    reference: tiny:latest\n    languages:\n      python:\n        command: [/tool, driver]\n"
	if err := os.WriteFile(p.images, []byte(list), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// get reads an answer of the engine's API.
func (p *privateEngine) get(path string, into any) error {
	resp, err := p.client.Get("http://engine" + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// sandboxes are the containers, running or not, with a gateway's label.
func (p *privateEngine) sandboxes() []container {
	p.t.Helper()
	var list []container
	if err := p.get("/containers/json?all=1&filters="+url.QueryEscape(`{"label":["execgate.gateway"]}`), &list); err != nil {
		p.t.Fatal(err)
	}
	return list
}

// waitSandboxes waits until n of them run.
func (p *privateEngine) waitSandboxes(n int) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%d sandboxes run", n), func() bool {
		running := slices.DeleteFunc(p.sandboxes(), func(c container) bool { return c.State != "running" })
		return len(running) >= n
	})
}

// waitNothingLeft waits until there is no container, and no volume but the agent's.
func (p *privateEngine) waitNothingLeft() {
	p.t.Helper()
	eventually(p.t, "nothing is left on the private engine", func() bool {
		var volumes struct{ Volumes []struct{ Name string } }
		if err := p.get("/volumes", &volumes); err != nil {
			p.t.Fatal(err)
		}
		for _, v := range volumes.Volumes {
			if !strings.HasPrefix(v.Name, "execgate-agent-") {
				return false
			}
		}
		return len(p.sandboxes()) == 0 && len(p.processes()) == 0
	})
}

// processes are those in the control groups of the engine's containers, whatever
// the engine says of them.
func (p *privateEngine) processes() []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/pids/", "/sys/fs/cgroup/"} {
		files, _ := filepath.Glob(pattern + filepath.Base(p.folder) + "/*/cgroup.procs")
		for _, file := range files {
			text, _ := os.ReadFile(file)
			all = append(all, strings.Fields(string(text))...)
		}
	}
	return all
}

// gateway returns one that runs on this engine, not started yet.
func (p *privateEngine) gateway(settings ...string) *gatewayUnderTest {
	env := map[string]string{"EXECGATE_EXECUTOR_ENGINE": p.address(), "EXECGATE_EXECUTOR_IMAGES": p.images}
	for i := 0; i < len(settings); i += 2 {
		env[settings[i]] = settings[i+1]
	}
	return newGateway(p.t, filepath.Join(p.t.TempDir(), "state"), env)
}

// TestPrivateEngine holds the helper itself: an engine that works, and of which
// nothing stays.
func TestPrivateEngine(t *testing.T) {
	t.Parallel()
	var folder string
	t.Run("works", func(t *testing.T) {
		p := newPrivateEngine(t, 256)
		folder = p.folder
		g := p.gateway()
		g.start()
		g.waitReady()
		if e := g.execute(python("print hello")).ok(t); e.Stdout != "hello\n" {
			t.Errorf("%+v", e)
		}
		p.waitNothingLeft()
		g.begin(python("spin"))
		p.waitSandboxes(1)
		g.kill()
	})
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", folder, err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
		if left, _ := filepath.Glob(pattern + filepath.Base(folder)); len(left) > 0 {
			t.Errorf("control groups are left: %v", left)
		}
	}
}

// forgetVolumes removes every volume.
func (p *privateEngine) forgetVolumes() {
	p.t.Helper()
	var volumes struct{ Volumes []struct{ Name string } }
	if err := p.get("/volumes", &volumes); err != nil {
		p.t.Fatal(err)
	}
	for _, v := range volumes.Volumes {
		req, err := http.NewRequest(http.MethodDelete, "http://engine/volumes/"+v.Name, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		resp, err := p.client.Do(req)
		if err != nil {
			p.t.Fatal(err)
		}
		resp.Body.Close()
	}
}
