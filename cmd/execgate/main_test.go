package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain makes the test binary also the command: called "execgate", by a link
// that is first in PATH, it is the program itself, under the race detector where
// the tests are.
func TestMain(m *testing.M) {
	// A worker process is started by the path of the program, which is this one.
	if filepath.Base(os.Args[0]) == "execgate" || len(os.Args) == 3 && os.Args[1] == policyWorker {
		main()
		return
	}
	os.Exit(withProgram(m.Run))
}

// withProgram puts the program in PATH, and an agent where it finds it, built as
// the Makefile does.
func withProgram(run func() int) int {
	dir, err := os.MkdirTemp("", "execgate-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	agent := filepath.Join(dir, "execgate-agent")
	build := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", agent, "../execgate-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the agent: %v\n%s", err, out)
		return 1
	}
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "execgate"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	// What the developer has set is not what is tested.
	for _, name := range append(strangers(os.Environ()), envURL, envKey) {
		os.Unsetenv(name)
	}
	for _, s := range settingsOf(&Config{}) {
		os.Unsetenv(s.variable())
	}
	os.Setenv("EXECGATE_EXECUTOR_AGENT", agent)
	for name, value := range unhurried {
		os.Setenv(name, value)
	}
	// Tests count containers; those of warm_test.go keep some parked.
	os.Setenv("EXECGATE_EXECUTOR_WARM_TARGET", "0")
	os.Setenv("EXECGATE_EXECUTOR_WARM_PRELOAD_TARGET", "0")
	return run()
}
