package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// Files are those files of a bundle that count, by their paths, held in memory: what
// was read once is what is tried, kept and put in force. They are an fs.FS, and
// must not be changed.
type Files map[string][]byte

// ReadFiles reads the files of folder that count. It fails with a *BundleError
// where there is something that a bundle must not have, or too much.
func ReadFiles(folder fs.FS) (Files, error) {
	if folder == nil {
		return nil, bundleErrorf("there is no folder")
	}
	if held, ok := folder.(Files); ok {
		return held.counted()
	}
	return readFiles(folder)
}

// counted are those that count, as readFiles finds them. It looks at each once, where a
// walk would look at all of them for every folder.
func (f Files) counted() (Files, error) {
	files := make(Files, len(f))
	total := 0
	for _, name := range slices.Sorted(maps.Keys(f)) {
		switch {
		case !fs.ValidPath(name):
			return nil, bundleErrorf("%.100q: is not a plain path within the bundle", name)
		case hidden(name):
			continue
		case strings.Count(name, "/") > maxDepth:
			return nil, tooLargef("%.100q: folders are nested more than %d deep", name, maxDepth)
		}
		wanted, err := counts(name)
		if err != nil {
			return nil, err
		}
		if !wanted {
			continue
		}
		if len(f[name]) > maxFileBytes {
			return nil, tooLargef("%s: is larger than %d MiB", name, maxFileBytes>>20)
		}
		if err := files.add(name, f[name], &total); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// Digest identifies the files, whatever archive or folder they came in and
// whatever images there are: "sha256:" and 64 hex digits.
func (f Files) Digest() string {
	h := sha256.New()
	writePart(h, []byte("execgate policy files 1"))
	writeFiles(h, f)
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// Revision names the bundle as the Engine will that puts it in force: it is of
// the files, of the images' digests and of the tools.
func (b Bundle) Revision() (string, error) {
	files, err := ReadFiles(b.Files)
	if err != nil {
		return "", err
	}
	return b.revisionOf(files)
}

// Open implements fs.FS.
func (f Files) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if content, ok := f[name]; ok {
		return &heldFile{held{path.Base(name), int64(len(content)), false}, bytes.NewReader(content)}, nil
	}
	entries := f.list(name)
	if len(entries) == 0 && name != "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &heldFolder{held: held{path.Base(name), 0, true}, entries: entries}, nil
}

// list returns what is directly in the folder called name.
func (f Files) list(name string) []fs.DirEntry {
	prefix := name + "/"
	if name == "." {
		prefix = ""
	}
	found := map[string]held{}
	for file, content := range f {
		rest, ok := strings.CutPrefix(file, prefix)
		if !ok {
			continue
		}
		if first, _, isFolder := strings.Cut(rest, "/"); isFolder {
			found[first] = held{first, 0, true}
		} else {
			found[first] = held{first, int64(len(content)), false}
		}
	}
	var entries []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(found)) {
		entries = append(entries, fs.FileInfoToDirEntry(found[name]))
	}
	return entries
}

// held describes a file or a folder of Files. It implements fs.FileInfo.
type held struct {
	name   string
	size   int64
	folder bool
}

func (h held) Name() string               { return h.name }
func (h held) Size() int64                { return h.size }
func (h held) ModTime() time.Time         { return time.Time{} }
func (h held) IsDir() bool                { return h.folder }
func (h held) Sys() any                   { return nil }
func (h held) Stat() (fs.FileInfo, error) { return h, nil }
func (h held) Close() error               { return nil }

func (h held) Mode() fs.FileMode {
	if h.folder {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

type heldFile struct {
	held
	*bytes.Reader
}

// Size is of the whole file, which the reader's is too.
func (f *heldFile) Size() int64 { return f.held.size }

type heldFolder struct {
	held
	entries []fs.DirEntry
}

func (f *heldFolder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (f *heldFolder) ReadDir(n int) ([]fs.DirEntry, error) {
	if n <= 0 {
		n = len(f.entries)
	} else if len(f.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.entries))
	some := f.entries[:n]
	f.entries = f.entries[n:]
	return some, nil
}
