package audit

import (
	"errors"
	"fmt"
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
	text := fmt.Sprintf("%s\n%d\n%s\n", id.origin(), size, root)
	signed, err := note.Sign(&note.Note{Text: text}, id.signer)
	if err != nil {
		return nil, fmt.Errorf("sign a checkpoint: %w", err)
	}
	return signed, nil
}

// openCheckpoint returns what a signed checkpoint states, if verifier signed it.
// Lines after the third and other signatures are allowed and ignored, so that
// witnesses can add theirs.
func openCheckpoint(verifier note.Verifier, signed []byte) (signedTree, error) {
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		if unverified := (*note.UnverifiedNoteError)(nil); errors.As(err, &unverified) {
			return signedTree{}, errors.New("the checkpoint is not signed by the log's key")
		}
		return signedTree{}, fmt.Errorf("the checkpoint's signature does not hold: %w", err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
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

// readCheckpoint reads and checks one checkpoint file; fs.ErrNotExist where it
// is not there.
func readCheckpoint(fsys FileSystem, verifier note.Verifier, dir, name string) (signedTree, error) {
	data, err := readHead(fsys, dir+"/"+name, maxCheckpointBytes)
	if err != nil {
		return signedTree{}, err
	}
	stated, err := openCheckpoint(verifier, data)
	if err != nil {
		return signedTree{}, &damage{0, err}
	}
	stated.file = name
	return stated, nil
}
