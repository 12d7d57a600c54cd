package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// gateway is an execgate serving on loopback, with a state folder of its own.
type gateway struct {
	base, key, state string
	process          *exec.Cmd
	// parks is how many sandboxes it keeps parked: the defaults of
	// executor.warm_target and executor.warm_preload_target.
	parks int
}

// startGateway starts a gateway with settings of its own, as NAME=value.
func startGateway(ctx context.Context, binary string, settings ...string) (*gateway, error) {
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
	g := &gateway{base: "http://" + address, state: state, parks: 2 + 1}
	g.process = exec.Command(binary, "serve", "--listen", address, "--state", state)
	g.process.Env = append(append(os.Environ(), "EXECGATE_LOG_LEVEL=warn"), settings...)
	g.process.Stderr = os.Stderr
	if err := g.process.Start(); err != nil {
		return nil, fmt.Errorf("start %s (build it with `make build`): %w", binary, err)
	}
	if err := g.ready(ctx); err != nil {
		g.stop()
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(state, "admin.key"))
	if err != nil {
		g.stop()
		return nil, err
	}
	g.key = strings.TrimSpace(string(key))
	return g, nil
}

// ready waits until the gateway says that it is.
func (g *gateway) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.base+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the gateway is not ready: %w", ctx.Err())
		}
	}
}

// runs returns one request, as a caller makes it, whose answer must have come
// from a sandbox that was parked, or from one that was not.
func (g *gateway) runs(code string, warm bool) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		body, err := json.Marshal(map[string]any{"language": "python", "code": code})
		if err != nil {
			return "", err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.base+"/v1/executions", bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		req.Header.Set("Authorization", "Bearer "+g.key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("%s: %s", resp.Status, text)
		}
		var answer struct {
			Stdout string `json:"stdout"`
			Usage  struct {
				Warm bool `json:"warm"`
			} `json:"usage"`
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return "", err
		}
		if answer.Usage.Warm != warm {
			return "", fmt.Errorf("warm is %t, want %t", answer.Usage.Warm, warm)
		}
		return answer.Stdout, nil
	}
}

func (g *gateway) stop() {
	g.process.Process.Signal(syscall.SIGTERM)
	g.process.Wait()
	os.RemoveAll(g.state)
}
