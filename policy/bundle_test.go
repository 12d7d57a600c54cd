package policy_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

const minimal = "package execgate\n\ndecision := {\"effect\": \"deny\"}\n"

func TestBundleThatIsRefused(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	for name, test := range map[string]struct {
		files map[string]string
		says  string
	}{
		"no file":                    {nil, "there is no .rego file"},
		"data alone":                 {map[string]string{"data.json": "{}"}, "there is no .rego file"},
		"tests alone":                {map[string]string{"a_test.rego": minimal}, "there is no .rego file"},
		"another package":            {map[string]string{"a.rego": "package other\n\ndecision := {}"}, "no rule defines data.execgate.decision"},
		"a decision in data":         {map[string]string{"a.rego": "package execgate\n\nx := 1", "execgate/data.json": `{"decision": {"effect": "allow"}}`}, "no rule defines"},
		"rule over data":             {map[string]string{"a.rego": minimal, "data.json": `{"execgate": {"decision": {"x": 1}}}`}, "conflict"},
		"syntax":                     {map[string]string{"a.rego": "package execgate\n\ndecision = {"}, "a.rego:3"},
		"unused import":              {map[string]string{"a.rego": "package execgate\n\nimport data.x\n\ndecision := {}"}, "import data.x unused"},
		"recursion":                  {map[string]string{"a.rego": "package execgate\n\ndecision := decision"}, "recursive"},
		"old Rego":                   {map[string]string{"a.rego": "package execgate\n\nallow { true }\n\ndecision := {}"}, "a.rego:3"},
		"repeated key":               {map[string]string{"a.rego": minimal, "data.json": `{"a": {"b": 1, "b": 2}}`}, `"b" is there twice`},
		"repeated key, escaped":      {map[string]string{"a.rego": minimal, "data.json": `{"a": 1, "\u0061": 2}`}, `"a" is there twice`},
		"1e400":                      {map[string]string{"a.rego": minimal, "data.json": `{"a": 1e400}`}, "out of range"},
		"NaN":                        {map[string]string{"a.rego": minimal, "data.json": `{"a": NaN}`}, "invalid character"},
		"deep data":                  {map[string]string{"a.rego": minimal, "data.json": deep}, "nested more than"},
		"two documents":              {map[string]string{"a.rego": minimal, "data.json": `{} {}`}, "something follows"},
		"cut off":                    {map[string]string{"a.rego": minimal, "data.json": `{"a": [1,`}, "unexpected EOF"},
		"data that is a list":        {map[string]string{"a.rego": minimal, "data.json": `[]`}, "is not an object"},
		"data over data":             {map[string]string{"a.rego": minimal, "data.json": `{"a": {"b": 1}}`, "a/data.json": `{"b": 2}`}, "defined by another"},
		"data under a scalar":        {map[string]string{"a.rego": minimal, "data.json": `{"a": 1}`, "a/data.json": `{"b": 2}`}, "defined by another"},
		"images of its own":          {map[string]string{"a.rego": minimal, "data.json": `{"images": {"python": "sha256:00"}}`}, "data.images is set by the gateway"},
		"tools of its own":           {map[string]string{"a.rego": minimal, "data.json": `{"tools": {}}`}, "data.tools is set by the gateway"},
		"yaml":                       {map[string]string{"a.rego": minimal, "data.yaml": `a: 1`}, "YAML is not read"},
		"another json":               {map[string]string{"a.rego": minimal, "tenants.json": `{}`}, "only files named data.json"},
		"a large file":               {map[string]string{"a.rego": minimal, "data.json": `{"a": "` + strings.Repeat("x", 17<<20) + `"}`}, "larger than"},
		"folders without end":        {map[string]string{"a.rego": minimal, strings.Repeat("d/", 20) + "data.json": `{}`}, "nested more than"},
		"nothing but white space":    {map[string]string{"a.rego": "\n\n"}, "a.rego"},
		"Rego that nests deeply":     {map[string]string{"a.rego": "package execgate\n\ndecision := " + strings.Repeat("[", 200_000)}, "a.rego"},
		"arguments that are swapped": {map[string]string{"a.rego": "package execgate\n\ndecision := {} if startswith(1, \"a\")"}, "rego_type_error"},
	} {
		t.Run(name, func(t *testing.T) {
			files := fstest.MapFS{}
			for name, text := range test.files {
				files[name] = &fstest.MapFile{Data: []byte(text)}
			}
			bundle := policy.Bundle{Files: files, Source: "test"}
			wantRefused(t, bundle, test.says)
			if name == "a large file" {
				return
			}
			engine := newEngine(t, policy.Config{Deadline: time.Minute}, shipped())
			before := engine.Revision()
			_, err := engine.Activate(context.Background(), bundle)
			if fault, ok := errors.AsType[*policy.BundleError](err); !ok || len(fault.Problems) == 0 {
				t.Errorf("error %v names no problem", err)
			}
			if engine.Revision() != before || !engine.Decide(context.Background(), question()).Allowed() {
				t.Error("the last good policy is no longer in force")
			}
		})
	}
}

func TestSymbolicLinksAreRefused(t *testing.T) {
	folder, outside := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(folder, "a.rego", minimal)
	write(outside, "data.json", `{"stolen": true}`)
	for _, link := range []string{"data.json", "sub", "up"} {
		t.Run(link, func(t *testing.T) {
			target := map[string]string{
				"data.json": filepath.Join(outside, "data.json"), "sub": outside, "up": "..",
			}[link]
			if err := os.Symlink(target, filepath.Join(folder, link)); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(filepath.Join(folder, link)) //nolint:errcheck // t.TempDir is removed anyway
			wantRefused(t, policy.Bundle{Files: os.DirFS(folder), Source: "test"}, "symbolic link")
		})
	}
}

// A FIFO waits for a writer for as long as none comes: whoever reads the folder, or
// starts the gateway, would wait with it.
func TestFIFOsAreRefused(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"a.rego", "data.json"} {
		path := filepath.Join(folder, name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		refused := make(chan error, 1)
		go func() {
			_, err := policy.ReadFiles(os.DirFS(folder))
			refused <- err
		}()
		select {
		case err := <-refused:
			if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s is waited for", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// As many files as there may be, each as deep as it may be, cost no more than they
// hold: this took a quarter of a minute, several times for each bundle.
func TestDeepFoldersCostLittle(t *testing.T) {
	files := policy.Files{}
	for i := range 4096 {
		files[strings.Repeat(fmt.Sprintf("d%04d/", i), 15)+"a.rego"] = []byte(minimal)
	}
	soon(t, 2*time.Second, func() {
		if read, err := policy.ReadFiles(files); err != nil || len(read) != len(files) {
			t.Fatalf("%d files, %v", len(read), err)
		}
	})
}

// Files that are held are looked at as those in a folder.
func TestHeldFilesAreReadAsAFolder(t *testing.T) {
	for name, held := range map[string]policy.Files{
		"what counts":    {"a.rego": []byte(minimal), "sub/data.json": []byte("{}"), "README.md": []byte("#")},
		"hidden":         {"a.rego": []byte(minimal), ".git/data.json": []byte("{"), "sub/.x.rego": []byte("?")},
		"YAML":           {"a.rego": []byte(minimal), "data.yaml": []byte("a: 1")},
		"another JSON":   {"a.rego": []byte(minimal), "sub/tenants.json": []byte("{}")},
		"deep":           {strings.Repeat("d/", 16) + "a.rego": []byte(minimal)},
		"too deep":       {strings.Repeat("d/", 17) + "a.rego": []byte(minimal)},
		"a large file":   {"data.json": make([]byte, 17<<20)},
		"too much":       {"a/data.json": make([]byte, 16<<20), "b/data.json": make([]byte, 16<<20), "c/data.json": make([]byte, 16<<20), "d/data.json": make([]byte, 16<<20), "e.rego": []byte(minimal)},
		"nothing at all": {},
	} {
		t.Run(name, func(t *testing.T) {
			folder := fstest.MapFS{}
			for path, text := range held {
				folder[path] = &fstest.MapFile{Data: text}
			}
			want, wantErr := policy.ReadFiles(folder)
			got, err := policy.ReadFiles(held)
			if (err == nil) != (wantErr == nil) || len(got) != len(want) || err == nil && got.Digest() != want.Digest() {
				t.Errorf("%d files, %v; in a folder %d, %v", len(got), err, len(want), wantErr)
			}
		})
	}
	if _, err := policy.ReadFiles(policy.Files{"../a.rego": []byte(minimal)}); err == nil {
		t.Error("a path that leads out is read")
	}
}

// What is not part of a bundle neither counts nor harms, and tests define nothing.
func TestFilesThatDoNotCount(t *testing.T) {
	files := fstest.MapFS{"a.rego": {Data: []byte(minimal)}, "a_test.rego": {Data: []byte(
		"package execgate\n\ndecision := {\"effect\": \"allow\"} if input.v == 1",
	)}}
	bundle := policy.Bundle{Files: files}
	wantDenied(t, decide(t, bundle, question()), "denied")
	before := newEngine(t, policy.Config{}, bundle).Revision()
	files["README.md"] = &fstest.MapFile{Data: []byte("# hello")}
	files[".git/data.json"] = &fstest.MapFile{Data: []byte("{")}
	if after := newEngine(t, policy.Config{}, bundle).Revision(); after != before {
		t.Error("files that do not count change the revision")
	}
}

func TestRevision(t *testing.T) {
	revision := func(files fstest.MapFS, images map[string]string) string {
		t.Helper()
		return newEngine(t, policy.Config{}, policy.Bundle{Files: files, Images: images}).Revision()
	}
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	base := fstest.MapFS{"a.rego": file(minimal), "data.json": file(`{"a": 1}`)}
	first := revision(base, map[string]string{"python": digest, "node": digest})
	if !strings.HasPrefix(first, "sha256:") || len(first) != len("sha256:")+64 {
		t.Fatalf("revision is %q", first)
	}
	for range 5 {
		if again := revision(base, map[string]string{"node": digest, "python": digest}); again != first {
			t.Fatal("the revision of the same bundle changes")
		}
	}
	for name, other := range map[string]string{
		"data":      revision(fstest.MapFS{"a.rego": file(minimal), "data.json": file(`{"a": 2}`)}, map[string]string{"python": digest, "node": digest}),
		"test":      revision(fstest.MapFS{"a.rego": file(minimal), "data.json": file(`{"a": 1}`), "a_test.rego": file(minimal)}, map[string]string{"python": digest, "node": digest}),
		"path":      revision(fstest.MapFS{"b.rego": file(minimal), "data.json": file(`{"a": 1}`)}, map[string]string{"python": digest, "node": digest}),
		"digest":    revision(base, map[string]string{"python": digest + "1", "node": digest}),
		"no images": revision(base, nil),
	} {
		if other == first {
			t.Errorf("another %s has the same revision", name)
		}
	}
}

// Under load a swap is seen by whole answers: each is of one revision, and the
// effect is the one that this revision gives.
func TestSwapUnderLoad(t *testing.T) {
	allow, deny := allowing(nil), answer(`{"effect": "deny"}`)
	engine := newEngine(t, policy.Config{Deadline: time.Minute}, allow)
	allowRevision := engine.Revision()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				d := engine.Decide(context.Background(), question())
				if d.Allowed() != (d.Revision == allowRevision) {
					t.Errorf("effect %s under revision %s", d.Effect, d.Revision)
				}
			}
		})
	}
	for range 20 {
		for _, bundle := range []policy.Bundle{deny, allow, rego("package broken")} {
			_, _ = engine.Activate(context.Background(), bundle)
		}
	}
	stop()
	wg.Wait()
}

func TestActivateEndsWithItsContext(t *testing.T) {
	engine := newEngine(t, policy.Config{}, shipped())
	before := engine.Revision()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	revision, err := engine.Activate(ctx, answer(`{}`))
	if err == nil || engine.Revision() != before {
		t.Fatalf("activated, error %v", err)
	}
	if revision == "" {
		t.Error("the revision that was refused is not told")
	}
}

// The folder of the shipped policy, as it is embedded, is a bundle.
func TestShippedBundle(t *testing.T) {
	var _ fs.FS = policies.Files
	engine := newEngine(t, policy.Config{}, shipped())
	if err := engine.Ready(context.Background()); err != nil {
		t.Error(err)
	}
}
