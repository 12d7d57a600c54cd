package images_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/execgate/execgate/images"
)

// A request that names no image gets the first that has its language.
func TestEmbeddedLanguages(t *testing.T) {
	list, err := images.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for language, want := range map[string]struct {
		image, reference string
		job              images.JobForm
		session, fork    bool
	}{
		"python":     {"python", "execgate/sandbox:latest", images.JobJSON, true, true},
		"javascript": {"node", "execgate/sandbox-node:latest", images.JobJSON, true, false},
		"bash":       {"python", "execgate/sandbox:latest", images.JobText, true, false},
	} {
		i := slices.IndexFunc(list, func(image images.Image) bool { _, ok := image.Languages[language]; return ok })
		if i < 0 {
			t.Errorf("no image has a driver for %s", language)
			continue
		}
		got, entry := list[i], list[i].Languages[language]
		if got.Name != want.image || got.Reference != want.reference || entry.Job != want.job || entry.Session != want.session || entry.Fork != want.fork {
			t.Errorf("%s: got %+v, want %+v", language, got, want)
		}
	}
}

func TestParseRefusesAndSaysWhere(t *testing.T) {
	const good = "images:\n  - name: a\n    reference: r\n"
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "", "none listed"},
		{"no images", "images: []\n", "none listed"},
		{"not YAML", "images: [", "line 1"},
		{"a list", "- a\n", "line 1"},
		{"unknown key", good + "    tag: x\n", "line 4: field tag not found"},
		{"unknown key in a language", good + "    languages: {go: {comand: [/x]}}\n", "field comand not found"},
		{"repeated key", good + "    name: b\n", `"name" already defined`},
		{"second document", good + "---\nimages: []\n", "more than one document"},
		{"no name", "images:\n  - reference: r\n", "line 2: images[0].name"},
		{"upper case", "images:\n  - name: A\n    reference: r\n", "images[0].name"},
		{"trailing hyphen", "images:\n  - name: a-\n    reference: r\n", "images[0].name"},
		{"newline in a name", "images:\n  - name: \"a\\n\"\n    reference: r\n", "images[0].name"},
		{"no reference", "images:\n  - name: a\n", "line 2: images[0].reference"},
		{"option as reference", "images:\n  - name: a\n    reference: --help\n", "images[0].reference"},
		{"duplicate name", good + "  - name: a\n    reference: s\n", "line 4: images[1].name: \"a\" is taken"},
		{"language name", good + "    languages: {C++: {command: [/x]}}\n", "images[0].languages: \"C++\""},
		{"no command", good + "    languages: {go: {}}\n", "images[0].languages.go.command: empty"},
		{"relative command", good + "    languages: {go: {command: [go]}}\n", "images[0].languages.go.command[0]"},
		{"unclean command", good + "    languages: {go: {command: [/a/../go]}}\n", "images[0].languages.go.command[0]"},
		{"form of the job", good + "    languages: {go: {command: [/go], job: xml}}\n", `images[0].languages.go.job: "xml"; use json or text`},
		{"session that is no truth value", good + "    languages: {go: {command: [/go], session: 2}}\n", "into bool"},
		{"fork of a text job", good + "    languages: {go: {command: [/go], job: text, fork: true}}\n", "images[0].languages.go.fork: true with job: text"},
		{"empty argument", good + "    languages: {go: {command: [/go, \"\"]}}\n", "images[0].languages.go.command[1]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list, err := images.Parse([]byte(tc.text))
			if err == nil {
				t.Fatalf("accepted as %+v", list)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not contain %q", err, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("images:\n  - name: a\n    reference: r\n    languages: {go: {command: [/go, run]}}\n")
	f.Add("images:\n  - name: a\n    reference: r\n    languages: {go: {command: [/go], job: text, session: true, fork: true}}\n")
	f.Add("images: &a\n  - name: a\n    <<: *a\n")
	f.Add("images:\n  - name: a\n    reference: r\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := images.Parse([]byte(text))
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, image := range list {
			if image.Name == "" || image.Reference == "" || names[image.Name] {
				t.Errorf("accepted %+v", image)
			}
			names[image.Name] = true
			for name, language := range image.Languages {
				if name == "" || len(language.Command) == 0 || !path.IsAbs(language.Command[0]) {
					t.Errorf("accepted language %q: %+v", name, language)
				}
				if language.Job != images.JobJSON && language.Job != images.JobText {
					t.Errorf("accepted language %q with jobs as %q", name, language.Job)
				}
				if language.Fork && language.Job != images.JobJSON {
					t.Errorf("accepted language %q, which forks for jobs as %q", name, language.Job)
				}
			}
		}
	})
}
