package policy

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxArchiveBytes bounds an archive as it is sent, compressed.
const MaxArchiveBytes = 16 << 20

// What an archive may be at most once it is unpacked. Entries are files and
// folders, also those that do not count.
const (
	maxUnpackedBytes = maxBundleBytes + maxEntries*1024 // contents and headers
	maxEntries       = 2 * maxFiles
	maxNameBytes     = 512
)

// ReadArchive reads a bundle from a gzip-compressed tar archive, as OPA writes and
// serves them. Nothing is unpacked to a disk. The same files count as in a folder;
// the signature is the file SignatureName, nil where there is none.
//
// It fails with a *BundleError for an archive that is broken, larger than
// MaxArchiveBytes, or unpacks to more than a bundle may hold; that has anything but
// files and folders, a name that leads out of it, or one name twice; or that goes
// on after its end.
func ReadArchive(r io.Reader) (Files, *Signature, error) {
	packed := &capped{from: r, left: MaxArchiveBytes, what: fmt.Sprintf("the archive has more than %d MiB", MaxArchiveBytes>>20)}
	raw := bufio.NewReader(packed) // which gzip reads byte by byte, and no further than its end
	unzipped, err := gzip.NewReader(raw)
	if err != nil {
		return nil, nil, brokenArchive("it is not compressed by gzip", err)
	}
	unzipped.Multistream(false)
	unpacked := &capped{from: unzipped, left: maxUnpackedBytes, what: fmt.Sprintf("the archive unpacks to more than %d MiB", maxUnpackedBytes>>20)}
	a := archive{files: make(Files), seen: make(map[string]bool)}
	if err := a.read(tar.NewReader(unpacked)); err != nil {
		return nil, nil, err
	}
	// The rest, which is padding, so that the checksum is checked too.
	if err := onlyZeros(unpacked); err != nil {
		return nil, nil, brokenArchive("it does not end as an archive does", err)
	}
	if _, err := raw.ReadByte(); !errors.Is(err, io.EOF) {
		return nil, nil, bundleErrorf("something follows the archive")
	}
	signature, err := parseSignature(a.signature)
	return a.files, signature, err
}

// archive is what has been read of an archive.
type archive struct {
	files     Files
	signature []byte
	seen      map[string]bool // paths, true for folders, also those only implied
	entries   int
	bytes     int
}

func (a *archive) read(t *tar.Reader) error {
	for {
		header, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return brokenArchive("it cannot be read as tar", err)
		}
		if a.entries++; a.entries > maxEntries {
			return tooLargef("the archive has more than %d entries", maxEntries)
		}
		if err := a.add(header, t); err != nil {
			return err
		}
	}
}

// add takes one entry.
func (a *archive) add(header *tar.Header, content io.Reader) error {
	isFolder := header.Typeflag == tar.TypeDir
	if !isFolder && header.Typeflag != tar.TypeReg || sparse(header) {
		return bundleErrorf("%.100q: is neither a plain file nor a folder", header.Name)
	}
	name, err := entryName(header.Name, isFolder)
	if err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	if err := a.claim(name, isFolder); err != nil || isFolder {
		return err
	}
	if name != SignatureName {
		if hidden(name) {
			return nil // as in a folder
		}
		if wanted, err := counts(name); err != nil || !wanted {
			return err
		}
	}
	return a.keep(name, content)
}

// keep reads a file that counts.
func (a *archive) keep(name string, content io.Reader) error {
	most := maxFileBytes
	if name == SignatureName {
		most = maxSignatureBytes
	}
	text, err := io.ReadAll(io.LimitReader(content, int64(most)+1))
	if err != nil {
		return brokenArchive(name+" cannot be read", err)
	}
	if len(text) > most {
		return tooLargef("%s: is larger than %d KiB", name, most>>10)
	}
	if name == SignatureName {
		a.signature = text
		return nil
	}
	if a.bytes += len(text); a.bytes > maxBundleBytes {
		return tooLargef("the files hold more than %d MiB together", maxBundleBytes>>20)
	}
	if len(a.files) == maxFiles {
		return tooLargef("there are more than %d files", maxFiles)
	}
	a.files[name] = text
	return nil
}

// claim refuses a name that stands twice, and one that is both a file and a
// folder: which one counted would depend on who unpacks it.
func (a *archive) claim(name string, isFolder bool) error {
	for folder := path.Dir(name); folder != "."; folder = path.Dir(folder) {
		if was, ok := a.seen[folder]; ok && !was {
			return bundleErrorf("%s: is in a folder that is a file too", name)
		}
		a.seen[folder] = true
	}
	if was, ok := a.seen[name]; ok && !(was && isFolder) {
		return bundleErrorf("%s: is there twice", name)
	}
	a.seen[name] = isFolder
	return nil
}

// entryName is the path of an entry within the bundle, "." for the bundle itself.
// OPA writes names from the bundle's root, /data.json, and tar from where it is
// told to stand, ./data.json: both are the same here. Every other name that is not
// the plain one is refused, though nothing is ever written by it.
func entryName(name string, isFolder bool) (string, error) {
	plain := name
	if rest, ok := strings.CutPrefix(plain, "./"); ok {
		plain = rest
	} else {
		plain = strings.TrimPrefix(plain, "/")
	}
	if isFolder {
		plain = strings.TrimSuffix(plain, "/")
		if plain == "" {
			plain = "."
		}
	}
	odd := func(r rune) bool { return r == '\\' || !unicode.IsPrint(r) }
	switch {
	case len(name) > maxNameBytes:
		return "", tooLargef("%.100q…: the name is longer than %d bytes", name, maxNameBytes)
	case !utf8.ValidString(name), strings.ContainsFunc(plain, odd), !fs.ValidPath(plain), plain == "." && !isFolder:
		return "", bundleErrorf("%.100q: is not a plain path within the bundle", name)
	case strings.Count(plain, "/") > maxDepth:
		return "", tooLargef("%.100q: folders are nested more than %d deep", name, maxDepth)
	}
	return plain, nil
}

// hidden reports whether a path has an element that begins with a dot.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || strings.Contains(name, "/.")
}

// sparse reports whether an entry claims more content than it brings.
func sparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// WriteArchive writes a bundle as ReadArchive reads it. The same bundle gives the
// same bytes.
func WriteArchive(w io.Writer, files Files, signature *Signature) error {
	zipped := gzip.NewWriter(w)
	t := tar.NewWriter(zipped)
	write := func(name string, content []byte) error {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}
		if err := t.WriteHeader(header); err != nil {
			return fmt.Errorf("write %s to the archive: %w", name, err)
		}
		_, err := t.Write(content)
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := write(name, files[name]); err != nil {
			return err
		}
	}
	if signature != nil {
		if err := write(SignatureName, signature.Text()); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), zipped.Close())
}

// capped is a reader that fails past a number of bytes.
type capped struct {
	from io.Reader
	left int64
	what string
}

// Read implements io.Reader.
func (c *capped) Read(p []byte) (int, error) {
	if int64(len(p)) > c.left+1 {
		p = p[:c.left+1]
	}
	n, err := c.from.Read(p)
	if c.left -= int64(n); c.left < 0 {
		c.left = 0
		return 0, tooLargef("%s", c.what)
	}
	return n, err
}

// onlyZeros reads to the end and refuses anything but zeros.
func onlyZeros(r io.Reader) error {
	block := make([]byte, 4096)
	for {
		n, err := r.Read(block)
		for _, b := range block[:n] {
			if b != 0 {
				return errors.New("there is something after the last file")
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// brokenArchive says what is wrong with an archive, and lets a bound that was passed
// speak for itself.
func brokenArchive(what string, err error) error {
	if fault, ok := errors.AsType[*BundleError](err); ok {
		return fault
	}
	return bundleErrorf("the archive is broken: %s: %v", what, err)
}
