package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
	"golang.org/x/sys/unix"
)

// stateVersion is the version of the state folder's layout. A folder of a newer
// one is refused; migrations from older ones would stand in openState.
const stateVersion = "1"

// state is the folder of everything that lasts, held by this process alone.
type state struct {
	dir     string
	gateway string // this gateway's id
	lock    *os.File
}

// stateFolder is where state lives unless it is said: $XDG_STATE_HOME/execgate
// (XDG Base Directory Specification), /var/lib/execgate for root, and
// ~/.local/state/execgate.
func stateFolder(lookup func(string) (string, bool)) (string, error) {
	if home, ok := lookup("XDG_STATE_HOME"); ok && filepath.IsAbs(home) {
		return filepath.Join(home, "execgate"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/execgate", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usage("no folder for the state: name one by --state: %w", err)
	}
	return filepath.Join(home, ".local", "state", "execgate"), nil
}

// openState makes the folder where there is none, and takes its lock.
func openState(dir string) (*state, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, coded{exitUnavailable, fmt.Errorf("the state folder %s is in use by another execgate: stop it, talk to it by EXECGATE_URL, or name another folder by --state", dir)}
		}
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	s := &state{dir: dir, lock: lock}
	if err := s.identify(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// identify checks the folder's version and reads the gateway's id, writing
// both where the folder is new.
func (s *state) identify() error {
	version, err := s.remember("version", stateVersion)
	if err != nil {
		return err
	}
	if version != stateVersion {
		return fmt.Errorf("the state folder %s has layout version %q and this execgate knows %q: use the execgate that wrote it, or a newer one", s.dir, version, stateVersion)
	}
	s.gateway, err = s.remember("gateway-id", execution.NewID("gw_", time.Now()))
	return err
}

// remember returns what the file name holds, having written value first where
// there is no such file.
func (s *state) remember(name, value string) (string, error) {
	path := s.path(name)
	content, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(content)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the state folder: %w", err)
	}
	// Under the lock, so nobody sees the file half written; a crash leaves the
	// temporary one.
	if err := os.WriteFile(path+".new", []byte(value+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the state folder: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("write the state folder: %w", err)
	}
	return value, nil
}

func (s *state) path(name string) string { return filepath.Join(s.dir, name) }

// close gives the lock up.
func (s *state) close() error { return s.lock.Close() }
