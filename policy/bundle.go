package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
)

// What a bundle may be at most. The figures leave a policy of 5,000 tenants,
// some 4 MiB of data, room to grow.
const (
	maxFileBytes   = 16 << 20
	maxBundleBytes = 64 << 20
	maxFiles       = 4096
	maxDepth       = 16 // folders, one inside the other
)

// testSuffix marks the files that hold a bundle's own tests.
const testSuffix = "_test.rego"

// Bundle is a policy before it is compiled.
type Bundle struct {
	// Files is a folder of .rego files and of data.json files. The members of a
	// data.json in a sub-folder a/b stand under data.a.b. Names that start with a
	// dot and files of other kinds are not read, but a .json or .yaml file of
	// another name is refused: it looks as if it counted. So is YAML, in which
	// a repeated key silently replaces the first, and so are symbolic links,
	// which lead out of the folder.
	//
	// Use os.Root.FS rather than os.DirFS for a folder that others write: it
	// holds also against a link that is put there while it is read.
	Files fs.FS
	// Source names where the files are from, for messages and records.
	Source string
	// Images are the digests that the names of images resolve to now. Policies
	// read them as data.images[name]; the files must not define data.images.
	Images map[string]string
	// Tools are the gateway's tools. Policies read them as data.tools[name]; the files
	// must not define data.tools.
	Tools map[string]execution.ToolFacts
}

// BundleError lists what is wrong with a bundle.
type BundleError struct {
	Problems []string // each with its file and line, where it has one
	// TooLarge is set where a bound on size or number is passed.
	TooLarge bool
}

// Error implements error.
func (e *BundleError) Error() string { return strings.Join(e.Problems, "; ") }

func bundleErrorf(format string, args ...any) error {
	return &BundleError{Problems: []string{fmt.Sprintf(format, args...)}}
}

func tooLargef(format string, args ...any) error {
	return &BundleError{Problems: []string{fmt.Sprintf(format, args...)}, TooLarge: true}
}

// source is a bundle that has been read: its Rego by path, and its data.
type source struct {
	modules  map[string]string
	data     map[string]any
	revision string
}

// load reads a bundle and gives it its revision. It compiles nothing.
func load(bundle Bundle) (*source, error) {
	files, err := ReadFiles(bundle.Files)
	if err != nil {
		return nil, err
	}
	s := &source{
		modules: make(map[string]string),
		data:    make(map[string]any),
	}
	if s.revision, err = bundle.revisionOf(files); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".rego") {
			s.modules[name] = string(files[name])
			continue
		}
		if err := s.addData(name, files[name]); err != nil {
			return nil, err
		}
	}
	for _, key := range []string{imagesKey, toolsKey} {
		if _, taken := s.data[key]; taken {
			return nil, bundleErrorf("data.%s is set by the gateway and must not be in the bundle", key)
		}
	}
	images := make(map[string]any, len(bundle.Images))
	for name, digest := range bundle.Images {
		images[name] = digest
	}
	s.data[imagesKey] = images
	s.data[toolsKey], err = toolsData(bundle.Tools)
	return s, err
}

// The names under data of what the gateway adds.
const (
	imagesKey = "images" // digests by name
	toolsKey  = "tools"  // facts by name
)

// toolsData are the facts of tools as data.
func toolsData(tools map[string]execution.ToolFacts) (map[string]any, error) {
	data := make(map[string]any, len(tools))
	for name, facts := range tools {
		text, err := json.Marshal(facts)
		if err != nil {
			return nil, fmt.Errorf("encode the tool %q: %w", name, err)
		}
		if data[name], err = strictJSON(text); err != nil {
			return nil, fmt.Errorf("encode the tool %q: %w", name, err)
		}
	}
	return data, nil
}

// readFiles returns the files of a bundle that count, by path.
func readFiles(folder fs.FS) (Files, error) {
	files := make(Files)
	total := 0
	err := fs.WalkDir(folder, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir():
			if strings.Count(name, "/") >= maxDepth {
				return tooLargef("%s: folders are nested more than %d deep", name, maxDepth)
			}
			return nil
		case entry.Type()&fs.ModeSymlink != 0:
			return bundleErrorf("%s: is a symbolic link", name)
		}
		wanted, err := counts(name)
		if err != nil || !wanted {
			return err
		}
		if !entry.Type().IsRegular() { // to open a FIFO would wait for who writes to it
			return bundleErrorf("%s: is not a regular file", name)
		}
		content, err := readFile(folder, name)
		if err != nil {
			return err
		}
		return files.add(name, content, &total)
	})
	if err != nil {
		return nil, fmt.Errorf("read files: %w", err)
	}
	return files, nil
}

// add adds a file, as long as there are not too many, and total, of their bytes, is not
// too large.
func (f Files) add(name string, content []byte, total *int) error {
	if len(f) == maxFiles {
		return tooLargef("there are more than %d files", maxFiles)
	}
	if *total += len(content); *total > maxBundleBytes {
		return tooLargef("the files hold more than %d MiB together", maxBundleBytes>>20)
	}
	f[name] = content
	return nil
}

// counts reports whether the file is part of a bundle.
func counts(name string) (bool, error) {
	switch ext := path.Ext(name); {
	case ext == ".rego" || path.Base(name) == "data.json":
		return true, nil
	case ext == ".yaml" || ext == ".yml":
		return false, bundleErrorf("%s: YAML is not read, because a repeated key goes unnoticed there: use data.json", name)
	case ext == ".json":
		return false, bundleErrorf("%s: only files named data.json are read as data", name)
	default:
		return false, nil
	}
}

func readFile(folder fs.FS, name string) ([]byte, error) {
	file, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it was only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, bundleErrorf("%s: is not a regular file", name)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(content) > maxFileBytes {
		return nil, tooLargef("%s: is larger than %d MiB", name, maxFileBytes>>20)
	}
	return content, nil
}

// revisionOf identifies a bundle of these files. Every part is preceded by its length,
// so that no two bundles run together to the same bytes. One without tools has the
// revision that it had before there were any, under which it may be kept.
func (b Bundle) revisionOf(files Files) (string, error) {
	h := sha256.New()
	writePart(h, []byte("execgate policy 1"))
	writeFiles(h, files)
	writeCount(h, len(b.Images))
	for _, name := range slices.Sorted(maps.Keys(b.Images)) {
		writePart(h, []byte(name))
		writePart(h, []byte(b.Images[name]))
	}
	if len(b.Tools) > 0 {
		writeCount(h, len(b.Tools))
	}
	for _, name := range slices.Sorted(maps.Keys(b.Tools)) {
		facts, err := json.Marshal(b.Tools[name])
		if err != nil {
			return "", fmt.Errorf("encode the tool %q: %w", name, err)
		}
		writePart(h, []byte(name))
		writePart(h, facts)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func writeFiles(h hash.Hash, files Files) {
	writeCount(h, len(files))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		writePart(h, []byte(name))
		writePart(h, files[name])
	}
}

func writePart(h hash.Hash, part []byte) {
	writeCount(h, len(part))
	h.Write(part) // a hash never returns an error
}

func writeCount(h hash.Hash, n int) {
	var count [8]byte
	binary.BigEndian.PutUint64(count[:], uint64(n))
	h.Write(count[:])
}
