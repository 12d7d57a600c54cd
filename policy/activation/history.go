package activation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// history is what is kept of policies that came into force: a file that says which
// they were, and an archive of each.
type history struct {
	dir string

	V int `json:"v"`
	// Highest is the highest sequence that was ever in force.
	Highest uint64 `json:"highest_sequence"`
	// Bundles are those in force, the present one first.
	Bundles []execution.PolicyActivation `json:"bundles"`
	// Seen are the digests of the bundles last looked at, by source.
	Seen map[string]string `json:"seen"`
}

const (
	historyName    = "history.json"
	historyVersion = 1
	archiveSuffix  = ".tar.gz"
)

func openHistory(dir string) (history, error) {
	h := history{dir: dir, V: historyVersion, Seen: map[string]string{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return history{}, fmt.Errorf("open the policies that were in force: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, historyName))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &h)
	}
	if err == nil && h.V != historyVersion {
		err = fmt.Errorf("its version is %d, and %d is known", h.V, historyVersion)
	}
	if err != nil {
		// Without it the highest sequence is not known, and an old bundle could come back.
		return history{}, fmt.Errorf("read %s: %w; it must be put right, or moved away to forget which policies were in force", filepath.Join(dir, historyName), err)
	}
	if h.Seen == nil {
		h.Seen = map[string]string{}
	}
	return h, nil
}

func (h *history) active() (execution.PolicyActivation, bool) {
	if len(h.Bundles) == 0 {
		return execution.PolicyActivation{}, false
	}
	return h.Bundles[0], true
}

// before is the latest that differs from the one in force.
func (h *history) before() (execution.PolicyActivation, bool) {
	for _, b := range h.Bundles {
		if b.Digest != h.Bundles[0].Digest {
			return b, true
		}
	}
	return execution.PolicyActivation{}, false
}

// keep writes the archive of a bundle that is about to come into force.
func (h *history) keep(bundle execution.PolicyActivation, files policy.Files, signature *policy.Signature) error {
	var archive bytes.Buffer
	if err := policy.WriteArchive(&archive, files, signature); err != nil {
		return err
	}
	if err := replace(h.archive(bundle.Digest), archive.Bytes()); err != nil {
		return fmt.Errorf("keep the policy %s: %w", bundle.Digest, err)
	}
	return nil
}

// push makes a bundle that is kept the first. One that is there already moves. That it
// is in force, and the highest sequence, is known also where it cannot be written down.
func (h *history) push(bundle execution.PolicyActivation) error {
	others := slices.DeleteFunc(slices.Clone(h.Bundles), func(b execution.PolicyActivation) bool { return b.Digest == bundle.Digest })
	h.Bundles = append([]execution.PolicyActivation{bundle}, others...)
	h.Bundles = h.Bundles[:min(len(h.Bundles), keep)]
	h.Highest = max(h.Highest, bundle.Sequence)
	if err := h.save(); err != nil {
		return err // what is swept could be what the file still names
	}
	return h.sweep()
}

// see remembers what was last looked at in a source.
func (h *history) see(source, digest string) error {
	if h.Seen[source] == digest {
		return nil
	}
	h.Seen[source] = digest
	return h.save()
}

// read returns a bundle that is kept, as it was.
func (h *history) read(bundle execution.PolicyActivation) (policy.Files, *policy.Signature, error) {
	file, err := os.Open(h.archive(bundle.Digest))
	if err != nil {
		return nil, nil, fmt.Errorf("read a policy that was in force: %w", err)
	}
	defer file.Close() //nolint:errcheck // it was only read
	files, signature, err := policy.ReadArchive(file)
	if err != nil {
		return nil, nil, fmt.Errorf("read a policy that was in force: %w", err)
	}
	if digest := files.Digest(); digest != bundle.Digest {
		return nil, nil, fmt.Errorf("the policy kept as %s is %s: it was changed on the disk", bundle.Digest, digest)
	}
	return files, signature, nil
}

func (h *history) archive(digest string) string {
	return filepath.Join(h.dir, strings.TrimPrefix(digest, "sha256:")+archiveSuffix)
}

func (h *history) save() error {
	text, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(h.dir, historyName), append(text, '\n')); err != nil {
		return fmt.Errorf("keep which policies were in force: %w", err)
	}
	return nil
}

// sweep removes archives of bundles that are not kept any more.
func (h *history) sweep() error {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		digest, ok := strings.CutSuffix(entry.Name(), archiveSuffix)
		if ok && !slices.ContainsFunc(h.Bundles, func(b execution.PolicyActivation) bool { return b.Digest == "sha256:"+digest }) {
			errs = append(errs, os.Remove(filepath.Join(h.dir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// replace writes a file so that it is there whole or not at all, whatever happens.
func replace(path string, content []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
