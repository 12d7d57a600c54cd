package vaulttest

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Options is what a test wants of its Vault. The zero value is one in memory,
// unsealed, over plain HTTP, with an engine kv of version 2 at secret/.
type Options struct {
	// LeasedKV makes every engine kv one of version 1 whose reads have a lease,
	// secret/ too: there is no version 2 then. Not with Durable.
	LeasedKV bool
	// KV1 and KV2 are the paths of more engines kv, of either version.
	KV1, KV2 []string
	// TLS serves over TLS, for 127.0.0.1, localhost and Names.
	TLS   bool
	Names []string
	// Audit enables an audit device that writes to a file.
	Audit bool
	// Durable keeps everything in files (raft, one node), as a Vault in production
	// does, so that it is there, sealed, after a restart. In memory a restart
	// loses it all. It takes longer to start.
	Durable bool
}

// Server is a Vault that runs. Do and DoAs may be called at once; the other
// methods are for one test at a time, and what they do is done when they return.
type Server struct {
	options Options
	binary  string
	folder  string // of its own, empty if it needs none
	address string
	ports   []port
	client  *http.Client
	caFile  string
	process *process

	rootToken string
	unsealKey string
}

// Start runs a Vault of the test's own until the test ends. Without a binary
// the test is skipped, and fails under CI=true.
func Start(tb testing.TB, options Options) *Server {
	tb.Helper()
	s, err := start(options)
	if err != nil {
		failed(tb, "Vault", err)
	}
	tb.Cleanup(s.close)
	return s
}

// shared starts the one of this process, which ends with it and has nothing on
// disk.
var shared = sync.OnceValues(func() (*Server, error) { return start(Options{KV1: []string{"kv1"}}) })

// Shared is one Vault for all tests of a package: in memory, with an engine kv
// of version 2 at secret/ and of version 1 at kv1/. A test that seals, pauses
// or stops its Vault, or needs it empty, starts its own.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	s, err := shared()
	if err != nil {
		failed(tb, "Vault", err)
	}
	return s
}

func start(options Options) (*Server, error) {
	if options.LeasedKV && (options.Durable || len(options.KV2) > 0) {
		return nil, errors.New("only a Vault in memory has leases on kv, and then none of version 2")
	}
	binary, err := vaultBinary()
	if err != nil {
		return nil, err
	}
	s := &Server{options: options, binary: binary}
	if options.Durable || options.Audit || options.TLS {
		if s.folder, err = os.MkdirTemp("", "vaulttest-"); err != nil {
			return nil, err
		}
	}
	if err := s.run(); err != nil {
		s.close()
		return nil, err
	}
	if err := s.prepare(); err != nil {
		s.close()
		return nil, fmt.Errorf("set up: %w", err)
	}
	return s, nil
}

// reserve is a port for the server's own use, also while it is stopped.
func (s *Server) reserve() (int, error) {
	p, err := reservePort()
	if err == nil {
		s.ports = append(s.ports, p)
	}
	return p.number, err
}

// run starts the process on a port that is free.
func (s *Server) run() error {
	port, err := s.reserve()
	if err != nil {
		return err
	}
	s.address = fmt.Sprintf("127.0.0.1:%d", port)
	if s.options.Durable {
		if err := s.configure(); err != nil {
			return err
		}
	}
	return s.launch()
}

// Addr is the URL of the server, without a path.
func (s *Server) Addr() string {
	if s.options.TLS {
		return "https://" + s.address
	}
	return "http://" + s.address
}

// RootToken may do everything.
func (s *Server) RootToken() string { return s.rootToken }

// CAFile is the file with the authority of the server's certificate, and empty
// without TLS. A restart in memory makes a new one.
func (s *Server) CAFile() string { return s.caFile }

// Log is what the server has said so far since it was last started.
func (s *Server) Log() string { return s.process.output.text() }

// Pause stops the process from running without ending it: connections are
// accepted by the kernel and nothing is ever answered.
func (s *Server) Pause(tb testing.TB) {
	tb.Helper()
	s.mustSignal(tb, syscall.SIGSTOP)
	if err := s.process.await(s.process.paused); err != nil {
		tb.Fatalf("pause Vault: %v", err)
	}
}

// Resume undoes Pause.
func (s *Server) Resume(tb testing.TB) {
	tb.Helper()
	s.mustSignal(tb, syscall.SIGCONT)
}

func (s *Server) mustSignal(tb testing.TB, signal syscall.Signal) {
	tb.Helper()
	if err := s.process.signal(signal); err != nil {
		tb.Fatalf("send %v to Vault: %v", signal, err)
	}
}

// Stop kills the process: connections are refused. Restart undoes it.
func (s *Server) Stop() { s.stop() }

// Restart kills the process and starts it anew at the same address. A durable
// one is sealed then. One in memory is as Start left it: mounted and empty,
// with the same root token.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.stop()
	err := s.launch()
	if err == nil && !s.options.Durable {
		err = s.prepare()
	}
	if err != nil {
		tb.Fatalf("restart Vault: %v", err)
	}
}

func (s *Server) stop() {
	if s.process != nil {
		s.process.end(syscall.SIGKILL)
	}
}

func (s *Server) close() {
	s.stop()
	for _, p := range s.ports {
		p.release()
	}
	if s.folder != "" {
		_ = os.RemoveAll(s.folder)
	}
}

func (s *Server) path(name string) string { return filepath.Join(s.folder, name) }
