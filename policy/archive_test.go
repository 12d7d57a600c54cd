package policy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var aBundle = Files{"p.rego": []byte("package execgate\n\ndecision := {\"effect\": \"deny\"}\n"), "a/data.json": []byte(`{"b": 1}`)}

func archiveOf(t testing.TB, files Files, s *Signature) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteArchive(&b, files, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tarOf is an archive of these entries, as they are.
func tarOf(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	w := tar.NewWriter(zipped)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "package x"
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchiveHoldsTheBundle(t *testing.T) {
	text := archiveOf(t, aBundle, &Signature{V: 1, Sequence: 3, Digest: "d", Key: "k", Signature: []byte("s")})
	files, s, err := ReadArchive(bytes.NewReader(text))
	if err != nil || s == nil || s.Sequence != 3 {
		t.Fatalf("%v, %+v", err, s)
	}
	if diff := cmp.Diff(aBundle, files); diff != "" || files.Digest() != aBundle.Digest() {
		t.Errorf("another bundle (-want +got):\n%s", diff)
	}
	if !bytes.Equal(text, archiveOf(t, files, s)) {
		t.Error("the same bundle has two archives")
	}
}

// As OPA writes them, from the root, and tar, from where it stands.
func TestArchivesOfOthers(t *testing.T) {
	text := tarOf(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "./"}, tar.Header{Typeflag: tar.TypeReg, Name: "./a.rego"},
		tar.Header{Typeflag: tar.TypeReg, Name: "/b/c.rego"}, tar.Header{Typeflag: tar.TypeReg, Name: ".manifest"},
		tar.Header{Typeflag: tar.TypeReg, Name: "README.md"},
	)
	files, _, err := ReadArchive(bytes.NewReader(text))
	if got := slices.Sorted(maps.Keys(files)); err != nil || !slices.Equal(got, []string{"a.rego", "b/c.rego"}) {
		t.Errorf("%v: %q", err, got)
	}
}

func TestArchivesThatAreRefused(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	whole := archiveOf(t, aBundle, nil)
	bomb := func() []byte {
		var b bytes.Buffer
		zipped := gzip.NewWriter(&b)
		w := tar.NewWriter(zipped)
		for i := range 6 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("a", i+1) + ".rego", Size: 16 << 20}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(make([]byte, 16<<20)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), zipped.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	many := make([]tar.Header, 0, 9000)
	for i := range cap(many) {
		many = append(many, file(strings.Repeat("x", 1+i%200)+string(rune('a'+i%26))+strings.Repeat("y", i/200)+".md"))
	}
	for name, test := range map[string]struct {
		text  []byte
		says  string
		large bool
	}{
		"empty":          {nil, "not compressed", false},
		"not gzip":       {[]byte("hello"), "not compressed", false},
		"cut":            {whole[:len(whole)-9], "broken", false},
		"flipped":        {flipped(whole), "", false},
		"more after it":  {append(slices.Clone(whole), 'x'), "follows", false},
		"two of them":    {append(slices.Clone(whole), whole...), "follows", false},
		"climbs":         {tarOf(t, file("../p.rego")), "plain path", false},
		"climbs inside":  {tarOf(t, file("a/../../p.rego")), "plain path", false},
		"backslash":      {tarOf(t, file("p\\.rego")), "plain path", false},
		"twice":          {tarOf(t, file("p.rego"), file("./p.rego")), "twice", false},
		"file as folder": {tarOf(t, file("p.rego"), file("p.rego/q.rego")), "a file too", false},
		"symlink":        {tarOf(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "p.rego", Linkname: "/etc/passwd"}), "neither", false},
		"hard link":      {tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "p.rego", Linkname: "q"}), "neither", false},
		"device":         {tarOf(t, tar.Header{Typeflag: tar.TypeChar, Name: "p.rego"}), "neither", false},
		"FIFO":           {tarOf(t, tar.Header{Typeflag: tar.TypeFifo, Name: "p.rego"}), "neither", false},
		"YAML":           {tarOf(t, file("data.yaml")), "YAML", false},
		"deep":           {tarOf(t, file(strings.Repeat("a/", 17)+"p.rego")), "nested", true},
		"long name":      {tarOf(t, file(strings.Repeat("a", 600)+".rego")), "longer", true},
		"bomb":           {bomb(), "more than", true},
		"many":           {tarOf(t, many...), "", true},
		"bad signature":  {tarOf(t, file(SignatureName)), SignatureName, false},
	} {
		t.Run(name, func(t *testing.T) {
			files, _, err := ReadArchive(bytes.NewReader(test.text))
			fault, ok := errors.AsType[*BundleError](err)
			if !ok || !strings.Contains(err.Error(), test.says) || fault.TooLarge != test.large {
				t.Errorf("%v of %d files: want a bundle error that says %q, too large: %v", err, len(files), test.says, test.large)
			}
		})
	}
}

// flipped is an archive with one bit of its checksum turned.
func flipped(text []byte) []byte {
	text = slices.Clone(text)
	text[len(text)-6] ^= 1
	return text
}

// Whatever is sent, reading it ends, keeps to the bounds, and gives nothing that a
// folder would not give.
func FuzzArchive(f *testing.F) {
	f.Add(archiveOf(f, aBundle, nil))
	f.Add(tarOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "../x.rego"}))
	f.Fuzz(func(t *testing.T, text []byte) {
		files, _, err := ReadArchive(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := ReadFiles(files)
		if err != nil || again.Digest() != files.Digest() {
			t.Errorf("as a folder it is another bundle: %v", err)
		}
	})
}
