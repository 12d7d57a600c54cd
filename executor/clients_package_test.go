package executor_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// pipIndex is an index of Python packages (PEP 503) that has one, tiny.
func pipIndex(t *testing.T) http.Handler {
	t.Helper()
	const file = "tiny-1.0-py3-none-any.whl"
	var wheel bytes.Buffer
	w := zip.NewWriter(&wheel)
	files := []struct{ name, text string }{
		{"tiny/__init__.py", "greeting = 'hello from a wheel'\n"},
		{"tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"},
		{"tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
	}
	record := ""
	for _, f := range files {
		sum := sha256.Sum256([]byte(f.text))
		record += fmt.Sprintf("%s,sha256=%s,%d\n", f.name, base64.RawURLEncoding.EncodeToString(sum[:]), len(f.text))
	}
	files = append(files, struct{ name, text string }{"tiny-1.0.dist-info/RECORD", record + "tiny-1.0.dist-info/RECORD,,\n"})
	for _, f := range files {
		entry, err := w.Create(f.name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := entry.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /simple/tiny/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!DOCTYPE html><a href="../../files/%s#sha256=%x">%[1]s</a>`, file, sha256.Sum256(wheel.Bytes()))
	})
	mux.HandleFunc("GET /files/"+file, func(w http.ResponseWriter, _ *http.Request) { w.Write(wheel.Bytes()) })
	return mux
}

// npmRegistry is a registry of npm's, known by a name, that has each package whose name
// ends in "tiny".
func npmRegistry(t *testing.T, host string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, tarball := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/-/tiny-1.0.0.tgz")
		if r.Method != http.MethodGet || !strings.HasSuffix(name, "tiny") {
			http.NotFound(w, r)
			return
		}
		manifest := map[string]any{"name": name, "version": "1.0.0", "main": "index.js"}
		archive := npmPackage(t, manifest, fmt.Sprintf("module.exports = 'hello from %s';\n", name))
		if tarball {
			w.Write(archive)
			return
		}
		sum := sha512.Sum512(archive)
		manifest["dist"] = map[string]any{
			"tarball":   (&url.URL{Scheme: "https", Host: r.Host, Path: "/" + name + "/-/tiny-1.0.0.tgz"}).String(),
			"integrity": "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
		}
		if !strings.HasPrefix(r.Host, host+":") {
			t.Errorf("asked as %s", r.Host)
		}
		json.NewEncoder(w).Encode(map[string]any{
			"name": name, "dist-tags": map[string]string{"latest": "1.0.0"}, "versions": map[string]any{"1.0.0": manifest},
		})
	})
}

// npmPackage is the archive of a package with one module.
func npmPackage(t *testing.T, manifest map[string]any, module string) []byte {
	text, err := json.Marshal(manifest)
	if err != nil {
		t.Error(err)
	}
	var archive bytes.Buffer
	packed := gzip.NewWriter(&archive)
	w := tar.NewWriter(packed)
	for _, f := range []struct{ name, text string }{{"package/package.json", string(text)}, {"package/index.js", module}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.text))}); err != nil {
			t.Error(err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			t.Error(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := packed.Close(); err != nil {
		t.Error(err)
	}
	return archive.Bytes()
}
