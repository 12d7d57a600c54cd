package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// programs are the five that sandboxes for model-written code begin with. Their
// files are in examples.
var programs = []struct {
	name   string
	stdout string
	result string // JSON; empty: none
	// What the engine must have been told.
	memoryMiB, cpuMillis, cpuShares, pids, tmpMiB int64
}{
	{name: "basic", stdout: "Hello from sandbox!\n4\n", memoryMiB: 256, cpuMillis: 500, cpuShares: 256, pids: 50, tmpMiB: 16},
	{
		name: "image", memoryMiB: 256, cpuMillis: 500, cpuShares: 256, pids: 50, tmpMiB: 16,
		result: `{"user":"sandbox","root":false,"packages":["numpy","pandas","matplotlib","requests"],"missing":["pip","setuptools","wheel"],"commands":["python","python3"]}`,
	},
	{
		name: "secure", memoryMiB: 512, cpuMillis: 500, cpuShares: 256, pids: 50, tmpMiB: 16,
		stdout: "capabilities 0000000000000000\nno new privileges 1\ninterfaces ['lo']\nwrite to / OSError\nreach out OSError\nbecome root PermissionError\n",
	},
	{name: "limited", stdout: "memory MiB 128\ncpu quota 25000\n/tmp MiB 10\n", memoryMiB: 128, cpuMillis: 250, cpuShares: 256, pids: 50, tmpMiB: 10},
	{name: "data", result: `{"sum":15,"average":3.0,"count":5}`, memoryMiB: 128, cpuMillis: 500, cpuShares: 256, pids: 50, tmpMiB: 16},
}

// example reads a file of examples.
func example(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The five programs work as a request and as `execgate run`, and say the same.
func TestPrograms(t *testing.T) {
	t.Parallel()
	g := startGateway(t, nil)
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			body := example(t, p.name+".json")
			e := g.execute(string(body)).ok(t)
			want := ran{
				ID: e.ID, Outcome: execution.OutcomeExited, ExitCode: new(int), Stdout: p.stdout,
				Result: json.RawMessage("null"), Artifacts: []execution.Artifact{},
			}
			if p.result != "" {
				want.Result = json.RawMessage(p.result)
			}
			if diff := cmp.Diff(want, e.ran); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if e.Decision.Effect != execution.EffectAllow || len(e.Decision.Clamped) != 0 || len(e.Records) != 2 {
				t.Errorf("decision %+v, records %v", e.Decision, e.Records)
			}

			stdout, stderr := runCommand(t, g, flagsOf(t, p.name, body)...)
			wantText := p.stdout
			if p.result != "" {
				wantText += p.result + "\n"
			}
			if stdout != wantText || stderr != "" {
				t.Errorf("execgate run printed %q and %q", stdout, stderr)
			}
		})
	}
	for _, p := range programs {
		t.Run(p.name+"/engine", func(t *testing.T) { checkContainer(t, g, p.name) })
	}
	g.waitNothingLeft()
	if code := g.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.verify()
}

// flagsOf says a request in flags of `execgate run`.
func flagsOf(t *testing.T, name string, body []byte) []string {
	t.Helper()
	var request struct {
		Image  string
		Input  json.RawMessage
		Limits map[string]int64
	}
	if err := json.Unmarshal(body, &request); err != nil {
		t.Fatal(err)
	}
	flags := []string{"run"}
	if request.Image != "" {
		flags = append(flags, "--image", request.Image)
	}
	if request.Input != nil {
		flags = append(flags, "--input", string(request.Input))
	}
	for limit, value := range request.Limits {
		flags = append(flags, "--limit", fmt.Sprintf("%s=%d", limit, value))
	}
	return append(flags, filepath.Join("..", "..", "examples", name+".py"))
}

// runCommand runs the program as a caller of g, and wants exit code 0.
func runCommand(t *testing.T, g *gatewayUnderTest, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command("execgate", args...)
	cmd.Env = append(os.Environ(), envURL+"="+g.url, envKey+"="+g.key())
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("execgate %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), errs.String()
}

// hostConfig is what docker inspect says of a container's limits.
type hostConfig struct {
	Memory, MemorySwap, CPUPeriod, CPUQuota, CPUShares, PidsLimit int64

	NetworkMode    string
	ReadonlyRootfs bool
	Privileged     bool
	CapAdd         []string
	CapDrop        []string
	SecurityOpt    []string
	Binds          []string
	Devices        []any
	Tmpfs          map[string]string
	OomKillDisable *bool
	IpcMode        string
	PidMode        string
}

// checkContainer holds the container of one of the programs, while it runs,
// against what the engine itself says of it.
func checkContainer(t *testing.T, g *gatewayUnderTest, name string) {
	var request map[string]any
	if err := json.Unmarshal(example(t, name+".json"), &request); err != nil {
		t.Fatal(err)
	}
	request["code"] = "import time\ntime.sleep(600)"
	asked, _ := request["limits"].(map[string]any)
	if asked == nil {
		asked = map[string]any{}
	}
	asked["timeout_ms"] = 60_000
	request["limits"] = asked
	body, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	g.waitNothingLeft() // removal goes on for a moment after the answer
	before := len(g.recordsOf(execution.RecordEnded))
	hangUp := g.begin(string(body))
	c := g.waitContainers(1)[0]
	raw := inspect(t, c.ID)
	hangUp()
	g.waitNothingLeft()
	eventually(t, "the end is recorded", func() bool { return len(g.recordsOf(execution.RecordEnded)) > before })

	var got struct {
		HostConfig hostConfig
		Config     struct {
			User string
			Env  []string
		}
		Mounts []struct {
			Type, Destination string
			RW                bool
		}
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	var want hostConfig
	for _, p := range programs {
		if p.name == name {
			want = hostConfig{
				Memory: p.memoryMiB << 20, MemorySwap: p.memoryMiB << 20, // none but memory: no swap
				CPUPeriod: 100_000, CPUQuota: p.cpuMillis * 100, CPUShares: p.cpuShares,
				PidsLimit: p.pids + 24, // the agent's stated headroom; the program's own is held by RLIMIT_NPROC
			}
			if at := fmt.Sprintf("size=%d,", p.tmpMiB<<20); !strings.Contains(got.HostConfig.Tmpfs["/tmp"], at) {
				t.Errorf("/tmp is %q", got.HostConfig.Tmpfs["/tmp"])
			}
		}
	}
	h := got.HostConfig
	limits := hostConfig{Memory: h.Memory, MemorySwap: h.MemorySwap, CPUPeriod: h.CPUPeriod, CPUQuota: h.CPUQuota, CPUShares: h.CPUShares, PidsLimit: h.PidsLimit}
	if diff := cmp.Diff(want, limits); diff != "" {
		t.Errorf("limits (-want +got)\n%s", diff)
	}
	options := strings.Join(h.SecurityOpt, " ")
	switch {
	case h.NetworkMode != "none", !h.ReadonlyRootfs, h.Privileged, len(h.CapAdd) > 0, strings.Join(h.CapDrop, " ") != "ALL",
		!strings.Contains(options, "no-new-privileges"), !strings.Contains(options, "seccomp="), strings.Contains(options, "unconfined"),
		len(h.Binds) > 0, len(h.Devices) > 0, h.OomKillDisable != nil && *h.OomKillDisable, h.IpcMode != "none", h.PidMode != "":
		t.Errorf("the container is not hardened: %+v", h)
	}
	if uid, _, _ := strings.Cut(got.Config.User, ":"); uid == "" || uid == "0" || uid == "root" {
		t.Errorf("user %q", got.Config.User)
	}
	// A folder of the host is never mounted: one read-only volume is.
	if len(got.Mounts) != 1 || got.Mounts[0].Type != "volume" || got.Mounts[0].RW {
		t.Errorf("mounts %+v", got.Mounts)
	}
	if bytes.Contains(raw, []byte(g.key())) {
		t.Error("the admin key is on the container")
	}
}

// begin posts a request whose answer nobody waits for. The function that it
// returns hangs up.
func (g *gatewayUnderTest) begin(body string) (hangUp func()) {
	g.t.Helper()
	ctx, cancel := context.WithCancel(g.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/v1/executions", strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+g.key())
	req.Header.Set("Content-Type", "application/json")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
