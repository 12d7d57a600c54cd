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
	"unicode/utf8"

	"github.com/execgate/execgate/executor/wire"
)

// outFolder, in the workspace, is where a program leaves its artifacts.
const outFolder = "out"

// layFile writes a file of the request into the workspace. os.Root keeps it
// there whatever its path says.
func layFile(frame wire.Frame) error {
	name, content, err := frame.File()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(wire.Workspace)
	if err != nil {
		return fmt.Errorf("open the workspace: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("lay file: %w", err)
	}
	if err := root.WriteFile(name, content, 0o644); err != nil {
		return fmt.Errorf("lay file: %w", err)
	}
	return nil
}

// collect sends the result and the artifacts. Every process of the program is
// gone by now, so nothing changes under the reader, but what they left is
// hostile: links, devices, pipes and deep trees are passed over.
func collect(control io.Writer, start wire.Start, exited *wire.Exited) error {
	if err := sendResult(control, start.ResultBytes, exited); err != nil {
		return err
	}
	workspace, err := os.OpenRoot(wire.Workspace)
	if err != nil {
		return fmt.Errorf("open the workspace: %w", err)
	}
	defer workspace.Close()
	if info, err := workspace.Lstat(outFolder); err != nil || !info.IsDir() {
		return nil // the program removed it, or put a link in its place
	}
	out, err := workspace.OpenRoot(outFolder)
	if err != nil {
		return nil // the program took its own right to read it
	}
	defer out.Close()
	return sendArtifacts(control, out, start, exited)
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
	file, err := root.Open(name)
	if err != nil {
		return nil, 0, fmt.Errorf("the result cannot be read: %w", err)
	}
	return file, info.Size(), nil
}

// maxDepth bounds how deep artifacts may lie: each level costs a lookup of all
// those above it.
const maxDepth = 16

// sendArtifacts sends the regular files below root within their limits.
func sendArtifacts(control io.Writer, root *os.Root, start wire.Start, exited *wire.Exited) error {
	bytes, count := start.FilesBytes, start.FilesCount
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
		if count == 0 || info.Size() > bytes || !utf8.ValidString(name) {
			exited.FilesTruncated = true
			return nil
		}
		file, err := root.Open(name)
		if err != nil {
			exited.FilesTruncated = true // the program took its own right to read it
			return nil
		}
		defer file.Close()
		count--
		bytes -= info.Size()
		return wire.WriteFile(control, wire.FrameArtifact, name, info.Size(), file)
	})
}
