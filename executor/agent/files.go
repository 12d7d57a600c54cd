//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// outFolder, in the workspace, is where a program leaves its artifacts.
const outFolder = "out"

// lay writes a file into the workspace, for the next program and as its user.
func (a *agent) lay(frame wire.Frame) error {
	name, content, err := frame.File()
	if err != nil {
		return err
	}
	return as(a.users.of(a.last+1), func() error { return layFile(name, content) })
}

// layFile replaces a file or makes it. os.Root keeps it in the workspace
// whatever its path says, and a file is all that it replaces.
func layFile(name string, content []byte) error {
	root, err := os.OpenRoot(wire.Workspace)
	if err != nil {
		return fmt.Errorf("open the workspace: %w", err)
	}
	defer root.Close()
	if err := plain(root, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lay file: %w", err)
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("lay file: %w", err)
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return fmt.Errorf("lay file: %w", err)
	}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("lay file: %w", err)
	}
	return nil
}

// openAtOnce opens a file to read it, and fails where that would wait: for the
// other end of a pipe, or for a program that stands still to give up its lease
// (fcntl(2), F_SETLEASE).
func openAtOnce(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// plain fails unless name is a regular file with no link on the way to it. No
// program runs meanwhile that could change that.
func plain(root *os.Root, name string) error {
	for folder := path.Dir(name); folder != "."; folder = path.Dir(folder) {
		info, err := root.Lstat(folder)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is no folder", folder)
		}
	}
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", name)
	}
	return nil
}

// fetch sends a file of the workspace, or why it cannot.
func (a *agent) fetch(frame wire.Frame) error {
	var want wire.Fetch
	if err := frame.Decode(&want); err != nil {
		return err
	}
	file, size, err := openPlain(want.Path, want.Max)
	if err != nil {
		return wire.WriteJSON(a.control, wire.FrameDone, wire.Done{Problem: problemOf(err)})
	}
	defer file.Close()
	return wire.WriteFile(a.control, wire.FrameContent, want.Path, size, file)
}

func openPlain(name string, most int64) (*os.File, int64, error) {
	root, err := os.OpenRoot(wire.Workspace)
	if err != nil {
		return nil, 0, fmt.Errorf("open the workspace: %w", err)
	}
	defer root.Close()
	if err := plain(root, name); err != nil {
		return nil, 0, err
	}
	file, err := openAtOnce(root, name)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && info.Size() > most {
		err = errTooLarge
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// collect sends the result and the artifacts. Every process of the program is
// gone or frozen by now, so nothing changes under the reader, but what they left
// is hostile: links, devices, pipes and deep trees are passed over.
func (r *round) collect(exited *wire.Exited) error {
	if err := sendResult(r.agent.control, r.start.ResultBytes, exited); err != nil {
		return err
	}
	out, err := openOut()
	if err != nil {
		return nil // the program removed it, put a link in its place, or took its own right to read it
	}
	defer out.Close()
	return r.sendArtifacts(out, exited)
}

// openOut opens the folder for artifacts, where it is one and no link to another.
func openOut() (*os.Root, error) {
	workspace, err := os.OpenRoot(wire.Workspace)
	if err != nil {
		return nil, err
	}
	defer workspace.Close()
	info, err := workspace.Lstat(outFolder)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, errors.New("the folder for artifacts is none")
	}
	return workspace.OpenRoot(outFolder)
}

// fileTimes tell files apart from what they were: by path, the file's number and
// the time of its last change, which a program cannot set.
type fileTimes map[string][3]int64

// artifactTimes lists what is in the folder for artifacts.
func artifactTimes() fileTimes {
	times := fileTimes{}
	root, err := openOut()
	if err != nil {
		return times
	}
	defer root.Close()
	fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir
		case entry.IsDir() && strings.Count(name, "/") >= maxDepth:
			return fs.SkipDir
		}
		if info, err := entry.Info(); err == nil {
			times[name] = timeOf(info)
		}
		return nil
	})
	return times
}

func timeOf(info fs.FileInfo) [3]int64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return [3]int64{}
	}
	return [3]int64{int64(stat.Ino), int64(stat.Ctim.Sec), int64(stat.Ctim.Nsec)}
}

// resultErrorBytes bounds what a driver may say about a result it cannot write.
const resultErrorBytes = 1024

// sendResult sends the result that the program wrote, if it wrote one, or why
// it cannot be sent. It is not held in memory, which is the sandbox's own.
func sendResult(control io.Writer, max int64, exited *wire.Exited) error {
	folder, name := path.Split(wire.ResultPath)
	root, err := os.OpenRoot(folder)
	if err != nil {
		exited.ResultError = "the result cannot be read: " + err.Error()
		return nil
	}
	defer root.Close()
	if file, size, err := openRegular(root, name+wire.ResultErrorSuffix, resultErrorBytes); err == nil {
		defer file.Close()
		message, err := io.ReadAll(io.LimitReader(file, size))
		exited.ResultError = strings.ToValidUTF8(string(message), "\uFFFD")
		if err == nil && exited.ResultError != "" {
			return nil
		}
	}
	file, size, err := openRegular(root, name, max)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		exited.ResultError = err.Error()
		return nil
	}
	defer file.Close()
	return wire.WriteFrom(control, wire.FrameResult, size, file)
}

// openRegular opens a regular file of at most max bytes and returns its size.
func openRegular(root *os.Root, name string, max int64) (*os.File, int64, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, 0, fmt.Errorf("the result cannot be read: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("the result is not a regular file")
	}
	if info.Size() > max {
		return nil, 0, fmt.Errorf("the result is %d bytes, and at most %d are granted: return less, or ask for a larger result_kib", info.Size(), max)
	}
	file, err := openAtOnce(root, name)
	if err != nil {
		return nil, 0, fmt.Errorf("the result cannot be read: %w", err)
	}
	return file, info.Size(), nil
}

// maxDepth bounds how deep artifacts may lie: each level costs a lookup of all
// those above it.
const maxDepth = 16

// sendArtifacts sends the regular files below root within their limits: of a
// session those that are new or have changed.
func (r *round) sendArtifacts(root *os.Root, exited *wire.Exited) error {
	bytes, count := r.start.FilesBytes, r.start.FilesCount
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir
		case entry.IsDir() && strings.Count(name, "/") >= maxDepth:
			exited.FilesTruncated = true
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		if before, ok := r.out[name]; ok && before == timeOf(info) {
			return nil
		}
		if count == 0 || info.Size() > bytes || !utf8.ValidString(name) {
			exited.FilesTruncated = true
			return nil
		}
		file, err := openAtOnce(root, name)
		if err != nil {
			exited.FilesTruncated = true // the program took its own right to read it, or holds a lease
			return nil
		}
		defer file.Close()
		count--
		bytes -= info.Size()
		return wire.WriteFile(r.agent.control, wire.FrameArtifact, name, info.Size(), file)
	})
}
