package executor_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// agentBinary is built once for all tests.
var agentBinary = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "execgate-agent-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "execgate-agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/execgate/execgate/cmd/execgate-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w: %s", err, out)
	}
	return path, nil
})

const reference = "execgate/sandbox:latest"

// newExecutor returns an executor on the machine's engine under a gateway id of
// its own, running until the test ends, when none of its containers may be left.
func newExecutor(t testing.TB, change ...func(*executor.Config)) *executor.Executor {
	t.Helper()
	agent, err := agentBinary()
	if err != nil {
		t.Fatal(err)
	}
	cfg := executor.Config{
		Gateway: execution.NewID("test_", time.Now()), Agent: agent,
		Images: []executor.Image{{Name: "python", Reference: reference, Languages: map[string]executor.Language{
			"bash":   {Command: []string{"/usr/bin/env", "--chdir=/opt/execgate/drivers", "/bin/bash", "main.sh"}, Text: true, Session: true},
			"python": {Command: []string{"/usr/bin/python3", "-I", "/opt/execgate/drivers/python.py"}, Session: true, Fork: true},
		}}},
		StartTimeout: patience, // also on a machine that does a lot beside
		Logger:       slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	e, err := executor.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.CleanWithin(patience)
	needEngine(t, e)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		untilNoneIsLeft(t, cfg.Gateway)
	})
	return e
}

// untilNoneIsLeft waits until the engine has removed what a gateway that is gone had
// it remove; of that nothing runs any more.
func untilNoneIsLeft(t testing.TB, gateway string) {
	t.Helper()
	if running := docker(t, "ps", "-q", "--filter", "label=execgate.gateway="+gateway); running != "" {
		t.Errorf("containers run on: %s", running)
	}
	until(t, "no container is left", func() bool { return len(containers(t, "label=execgate.gateway="+gateway)) == 0 })
}

// needEngine skips loudly where there is no engine, and fails under CI.
func needEngine(t testing.TB, e *executor.Executor) {
	t.Helper()
	err := e.Ready(t.Context())
	for tries := 0; tries < 10 && execution.KindOf(err) == execution.KindUnavailable; tries++ {
		err = e.Ready(t.Context()) // one that has much to do may not answer in time
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no Docker engine with the sandbox image, and this is CI: %v", err)
		}
		t.Skipf("NOT TESTED: no Docker engine with the sandbox image (run `make setup`): %v", err)
	}
}

// resolve is the image of that name, once the engine says it: one that has much to do
// may not answer at first.
func resolve(t testing.TB, e *executor.Executor, name string) execution.Image {
	t.Helper()
	var found execution.Image
	var err error
	until(t, "the engine answers", func() bool {
		found, err = e.Resolve(t.Context(), "", name)
		return execution.KindOf(err) != execution.KindUnavailable
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
