package policy

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/execgate/execgate/execution"
)

// packed is a bundle as one document: JSON, compressed by gzip. It is for bundles
// that were loaded before and are kept under their revision; what comes from
// outside is an archive of another form.
type packed struct {
	V      int                            `json:"v"`
	Source string                         `json:"source"`
	Images map[string]string              `json:"images"`
	Tools  map[string]execution.ToolFacts `json:"tools,omitempty"`
	Files  Files                          `json:"files"`
}

// maxPackedBytes bounds a document of Pack, unpacked: base64 takes a third more.
const maxPackedBytes = 2 * maxBundleBytes

// Pack makes one document of a bundle. What it returns beside is the same bundle
// with the very files that were packed, whatever becomes of the folder they are
// from, and its revision. It fails with a *BundleError where the bundle is at fault.
func Pack(bundle Bundle) (document []byte, read Bundle, revision string, err error) {
	files, err := ReadFiles(bundle.Files)
	if err != nil {
		return nil, Bundle{}, "", err
	}
	if revision, err = bundle.revisionOf(files); err != nil {
		return nil, Bundle{}, "", err
	}
	var text bytes.Buffer
	zipped := gzip.NewWriter(&text)
	if err := errors.Join(json.NewEncoder(zipped).Encode(packed{1, bundle.Source, bundle.Images, bundle.Tools, files}), zipped.Close()); err != nil {
		return nil, Bundle{}, "", fmt.Errorf("pack policy from %s: %w", bundle.Source, err)
	}
	bundle.Files = files
	return text.Bytes(), bundle, revision, nil
}

// Unpack returns the bundle of a document of Pack, which must have that revision.
func Unpack(document []byte, revision string) (Bundle, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(document))
	if err != nil {
		return Bundle{}, fmt.Errorf("unpack policy %s: %w", revision, err)
	}
	text, err := io.ReadAll(io.LimitReader(unzipped, maxPackedBytes+1))
	if err != nil {
		return Bundle{}, fmt.Errorf("unpack policy %s: %w", revision, err)
	}
	var p packed
	if err := json.Unmarshal(text, &p); err != nil {
		return Bundle{}, fmt.Errorf("unpack policy %s: %w", revision, err)
	}
	if p.V != 1 {
		return Bundle{}, fmt.Errorf("unpack policy %s: it is of the version %d, and this program knows only 1", revision, p.V)
	}
	bundle := Bundle{Files: p.Files, Source: p.Source, Images: p.Images, Tools: p.Tools}
	if is, err := bundle.revisionOf(p.Files); err != nil || is != revision {
		return Bundle{}, errors.Join(fmt.Errorf("unpack policy %s: what is packed is %s", revision, is), err)
	}
	return bundle, nil
}
