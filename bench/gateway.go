package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// gateway is an execgate serving on loopback, with a state folder of its own.
type gateway struct {
	base, key, state string
	id               string // the label of its sandboxes
	process          *exec.Cmd
	client           *http.Client
	engine           *engine
	parks            int // how many sandboxes it keeps parked
	sessions         []string
}

// startGateway starts a gateway that parks as many sandboxes, with flags and
// settings (as NAME=value) of its own.
func startGateway(ctx context.Context, e *engine, binary string, parks int, flags []string, settings ...string) (*gateway, error) {
	state, err := os.MkdirTemp("", "execgate-bench-")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	listener.Close()
	g := &gateway{base: "http://" + address, state: state, engine: e, parks: parks}
	g.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * most}}
	g.process = exec.Command(binary, append([]string{"serve", "--listen", address, "--state", state}, flags...)...)
	// Its log is not shown: what fails is in the answers, which are counted.
	g.process.Env = append(os.Environ(), settings...)
	if err := g.process.Start(); err != nil {
		os.RemoveAll(state)
		return nil, fmt.Errorf("start %s (build it with `make build`): %w", binary, err)
	}
	if err := g.ready(ctx); err != nil {
		g.stop()
		return nil, err
	}
	return g, nil
}

// ready waits until the gateway says that it is, and reads how to speak to it.
func (g *gateway) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !g.answers(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the gateway is not ready: %w", ctx.Err())
		}
	}
	key, err := os.ReadFile(filepath.Join(g.state, "admin.key"))
	if err != nil {
		return err
	}
	id, err := os.ReadFile(filepath.Join(g.state, "gateway-id"))
	if err != nil {
		return err
	}
	g.key, g.id = strings.TrimSpace(string(key)), strings.TrimSpace(string(id))
	return nil
}

func (g *gateway) answers(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.base+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// settled waits until all it parks are parked, and nothing is being removed.
func (g *gateway) settled(ctx context.Context) (time.Time, error) {
	return g.engine.settled(ctx, g.id, g.parks)
}

// executes returns one execution, as a caller makes it.
func (g *gateway) executes(code string) func(context.Context, int) (answer, error) {
	return func(ctx context.Context, _ int) (answer, error) {
		return g.execute(ctx, map[string]any{"language": "python", "code": code})
	}
}

func (g *gateway) execute(ctx context.Context, request any) (answer, error) {
	var got struct {
		Stdout string `json:"stdout"`
		Usage  struct {
			Warm bool `json:"warm"`
		} `json:"usage"`
	}
	err := g.post(ctx, "/v1/executions", request, &got)
	return answer{stdout: got.Stdout, warm: got.Usage.Warm}, err
}

// post makes one request and decodes its answer.
func (g *gateway) post(ctx context.Context, path string, request, into any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+g.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := g.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("POST %s: %s: %s", path, resp.Status, text)
	}
	return json.Unmarshal(text, into)
}

// resident is the memory that the gateway's process holds, in KiB.
func (g *gateway) resident() (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.process.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("memory of the gateway: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		}
	}
	return 0, errors.New("memory of the gateway: /proc does not say")
}

func (g *gateway) stop() {
	g.process.Process.Signal(syscall.SIGTERM)
	g.process.Wait()
	os.RemoveAll(g.state)
}
