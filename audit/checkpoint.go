package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	checkpointName     = "checkpoint"
	checkpointSuffix   = ".checkpoint"
	maxCheckpointBytes = 64 << 10
)

// signedTree is what a checkpoint states: that the log's first size numbers
// have this root.
type signedTree struct {
	size uint64
	root tlog.Hash
	file string // the checkpoint's
}

// signCheckpoint returns a signed note that states the tree, as in C2SP
// tlog-checkpoint.
func signCheckpoint(id logIdentity, size uint64, root tlog.Hash) ([]byte, error) {
	signed, err := note.Sign(&note.Note{Text: checkpointText(id, size, root)}, id.signer)
	if err != nil {
		return nil, fmt.Errorf("sign a checkpoint: %w", err)
	}
	return signed, nil
}

func checkpointText(id logIdentity, size uint64, root tlog.Hash) string {
	return fmt.Sprintf("%s\n%d\n%s\n", id.origin(), size, root)
}

// parseCheckpoint returns what the text of a checkpoint states.
func parseCheckpoint(text, origin string) (signedTree, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[0] != origin {
		return signedTree{}, errors.New("the checkpoint is of another log")
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] || size > maxSeq {
		return signedTree{}, errors.New("the checkpoint's size is malformed")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return signedTree{}, fmt.Errorf("the checkpoint's root: %w", err)
	}
	return signedTree{size: size, root: root}, nil
}

// sealedCheckpointName returns the name of the checkpoint that was taken after
// segment index was sealed.
func sealedCheckpointName(index uint64) string {
	return strings.TrimSuffix(segmentName(index), segmentSuffix) + checkpointSuffix
}

// checkpointFile is one file with a checkpoint.
type checkpointFile struct {
	name string
	data []byte
}

// listCheckpoints reads the checkpoints in the log's folder, sorted by name.
func listCheckpoints(fsys FileSystem, dir string) (files []checkpointFile, err error) {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the log's folder: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		if name != checkpointName && !strings.HasSuffix(name, checkpointSuffix) {
			continue
		}
		data, err := readHead(fsys, filepath.Join(dir, name), maxCheckpointBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the log is in use, and its owner removed it since
		}
		if err != nil {
			return nil, fmt.Errorf("read the checkpoint %s: %w", name, err)
		}
		files = append(files, checkpointFile{name, data})
	}
	return files, nil
}

// rotationsIn returns the rotations of the key that files state.
func rotationsIn(files []checkpointFile) (rotations []keyRotation) {
	for _, f := range files {
		if rotation, ok := rotationOf(f.data); ok {
			rotation.file = f.name
			rotations = append(rotations, rotation)
		}
	}
	return rotations
}
