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
	result, err := readResult(start.ResultBytes)
	switch {
	case err != nil:
		exited.ResultError = err.Error()
	case result != nil:
		if err := wire.Write(control, wire.FrameResult, result); err != nil {
			return err
		}
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

// readResult returns the result that the program wrote, nil where it wrote none.
func readResult(max int64) ([]byte, error) {
	folder, name := path.Split(wire.ResultPath)
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("the result cannot be read: %w", err)
	}
	defer root.Close()
	if message, err := readRegular(root, name+wire.ResultErrorSuffix, resultErrorBytes); err == nil {
		return nil, errors.New(string(message))
	}
	result, err := readRegular(root, name, max)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return result, err
}

// readRegular reads a regular file of at most max bytes.
func readRegular(root *os.Root, name string, max int64) ([]byte, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, fmt.Errorf("the result cannot be read: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("the result is not a regular file")
	}
	if info.Size() > max {
		return nil, fmt.Errorf("the result is %d bytes, and at most %d are granted: return less, or ask for a larger result_kib", info.Size(), max)
	}
	return root.ReadFile(name)
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
