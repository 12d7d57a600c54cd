package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/execgate/execgate/execution"
	"golang.org/x/sys/unix"
)

// stateVersion is the version of the state folder's layout. A folder of a newer
// one is refused; migrations from older ones would stand in openState.
const stateVersion = "1"

// gatewayPrefix begins a gateway's id, which is on each of its containers.
const gatewayPrefix = "gw_"

// errStateInUse is of a folder that another process holds.
var errStateInUse = errors.New("in use by another execgate")

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
	if err := checkPrivate(dir); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, coded{exitUnavailable, fmt.Errorf("the state folder %s is %w: stop it, talk to it by EXECGATE_URL, or name another folder by --state", dir, errStateInUse)}
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

// checkPrivate refuses a folder that others may write: they could put another
// admin key, or another gateway's id, in its place.
func checkPrivate(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the state folder: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return usage("the state folder %s can be written by others (mode %04o): run chmod 700 %[1]s, or name a folder in it", dir, mode)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return usage("the state folder %s belongs to user %d and this is user %d: run execgate as its owner, or name another folder by --state", dir, owner.Uid, os.Geteuid())
	}
	return nil
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
	s.gateway, err = s.remember("gateway-id", execution.NewID(gatewayPrefix, time.Now()))
	if err == nil && !execution.ValidID(gatewayPrefix, s.gateway) {
		return fmt.Errorf("%s does not hold a gateway's id: restore it; without it the containers of this gateway are not known as its own", s.path("gateway-id"))
	}
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
	if err := replaceFile(path, value+"\n"); err != nil {
		return "", fmt.Errorf("write the state folder: %w", err)
	}
	return value, nil
}

// replaceFile writes text to path so that after a crash or a power loss there
// is the whole of it or what was there before. It runs under the folder's lock,
// so that the temporary name is its own.
func replaceFile(path, text string) error {
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (s *state) path(name string) string { return filepath.Join(s.dir, name) }

// close gives the lock up, also where a process that is being started has a copy of its
// descriptor still (flock(2)).
func (s *state) close() error {
	return errors.Join(unix.Flock(int(s.lock.Fd()), unix.LOCK_UN), s.lock.Close())
}
