package vaulttest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// holdVariable has this test binary start both servers and keep them.
const holdVariable = "EXECGATE_VAULTTEST_HOLD"

func TestMain(m *testing.M) {
	if os.Getenv(holdVariable) == "" {
		os.Exit(m.Run())
	}
	if err := hold(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hold says where the servers are, and waits for the end of its input.
func hold() error {
	server, err := start(Options{})
	if err != nil {
		return err
	}
	postgres := &Postgres{Name: PostgresName, Password: "held"}
	if err := postgres.start(); err != nil {
		return err
	}
	fmt.Printf("%s 127.0.0.1:%d\n", server.address, postgres.Port)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A test that panics or runs out of time has no cleanup.
func TestServersEndWithAProcessThatIsKilled(t *testing.T) {
	if _, err := vaultBinary(); err != nil {
		failed(t, "Vault", err)
	}
	if _, err := postgresFolder(); err != nil {
		failed(t, "PostgreSQL", err)
	}
	// What the process leaves is its folder, which the server's user must reach.
	folder, err := os.MkdirTemp("", "vaulttest-killed-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holdVariable+"=1", "TMPDIR="+folder)
	holder.Stderr = os.Stderr
	if _, err := holder.StdinPipe(); err != nil { // open for as long as it runs
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	addresses := strings.Fields(said)
	if err != nil || len(addresses) != 2 {
		_ = holder.Process.Kill()
		t.Fatalf("it said %q: %v", said, err)
	}
	for _, address := range addresses {
		if err := dial(address); err != nil {
			t.Errorf("before: %v", err)
		}
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // killed, as it should be
	for _, address := range addresses {
		deadline := time.Now().Add(startTimeout)
		for err := dial(address); !errors.Is(err, syscall.ECONNREFUSED); err = dial(address) {
			if time.Now().After(deadline) {
				t.Fatalf("%s is still served: %v", address, err)
			}
		}
	}
}

func dial(address string) error {
	connection, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		_ = connection.Close()
	}
	return err
}
