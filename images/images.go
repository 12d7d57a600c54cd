// Package images lists the sandbox images policy may grant.
//
// The folder also holds what they are built from: Dockerfile, build/ and the language drivers.
package images

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed images.yaml
var embedded []byte

// An Image is a container image under the name that requests and policy use for it.
type Image struct {
	// Name is unique in a list; lower-case letters, digits and inner hyphens.
	Name string `yaml:"name"`
	// Reference is what the engine knows the image by. Whoever runs it resolves it to a digest
	// first: a tag can move between the decision and the run.
	Reference string `yaml:"reference"`
	// Languages are those that a driver in the image runs, by name. An image without any still
	// runs commands.
	Languages map[string]Language `yaml:"languages"`
}

// A Language says how an image runs source text.
type Language struct {
	// Command starts the driver. Its first element is an absolute path in the image, because a
	// search path is the program's to change and the command must not be.
	Command []string `yaml:"command"`
	// Job is the form in which the driver reads its job from descriptor 3. Parse sets JobJSON where
	// a list gives none.
	Job JobForm `yaml:"job"`
	// Session says that the driver can stay for a session: it takes one job after another and
	// keeps what they bound.
	Session bool `yaml:"session"`
	// Fork says that the driver can be parked as a process that forks: each copy of it runs one
	// program, under a user of its own. Its job is JSON, because text is no job to park for.
	Fork bool `yaml:"fork"`
}

// A JobForm says how a driver gets its job. docs/images.md has the whole contract.
type JobForm string

const (
	// JobJSON is one JSON object, ended by EOF: code, input, env and result, the path to write the
	// result to. Such a driver can be started ahead of its job.
	JobJSON JobForm = "json"
	// JobText is the code as it is, ended by EOF. The input is the variable INPUT_DATA, as JSON, the
	// path for the result is EXECGATE_RESULT; both and the program's own variables must be in the
	// environment when the driver starts, so that it cannot be started ahead of its job.
	JobText JobForm = "text"
)

// Embedded returns the images Execgate ships with. The caller owns the slice.
func Embedded() ([]Image, error) { return Parse(embedded) }

// Parse reads a list of images in the form of images.yaml. It is strict: an unknown or repeated
// key, a second document and a value out of form are errors that name the line and the key.
func Parse(text []byte) ([]Image, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	var list struct {
		Images []Image `yaml:"images"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&list); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("images: %w", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("images: more than one document; keep all images in the first")
	}
	if len(list.Images) == 0 {
		return nil, errors.New("images: none listed; give at least one under the key images")
	}
	lines := entryLines(&document)
	names := make(map[string]bool, len(list.Images))
	for i, image := range list.Images {
		err := image.check()
		if err == nil && names[image.Name] {
			err = fmt.Errorf("name: %q is taken by an entry above", image.Name)
		}
		if err != nil {
			where := fmt.Sprintf("images[%d]", i)
			if i < len(lines) {
				where = fmt.Sprintf("line %d: %s", lines[i], where)
			}
			return nil, fmt.Errorf("images: %s.%w", where, err)
		}
		names[image.Name] = true
		for name, language := range image.Languages {
			if language.Job == "" {
				language.Job = JobJSON
				image.Languages[name] = language
			}
		}
	}
	return list.Images, nil
}

// entryLines returns the line each entry of the key images begins on.
func entryLines(document *yaml.Node) []int {
	if len(document.Content) == 0 {
		return nil
	}
	root := document.Content[0]
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value != "images" {
			continue
		}
		var lines []int
		for _, entry := range root.Content[i+1].Content {
			lines = append(lines, entry.Line)
		}
		return lines
	}
	return nil
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
	// No whitespace, control character or leading hyphen: the engine decides the rest.
	referenceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$`)
)

func (image Image) check() error {
	if !nameForm.MatchString(image.Name) {
		return fmt.Errorf("name: %q; use 1 to 63 of a-z, 0-9 and inner hyphens", image.Name)
	}
	if !referenceForm.MatchString(image.Reference) {
		return fmt.Errorf("reference: %q; give an image reference such as execgate/sandbox:latest", image.Reference)
	}
	for _, name := range slices.Sorted(maps.Keys(image.Languages)) {
		if !nameForm.MatchString(name) {
			return fmt.Errorf("languages: %q; use 1 to 63 of a-z, 0-9 and inner hyphens", name)
		}
		if err := image.Languages[name].check(); err != nil {
			return fmt.Errorf("languages.%s.%w", name, err)
		}
	}
	return nil
}

func (language Language) check() error {
	if len(language.Command) == 0 {
		return errors.New("command: empty; give the command that starts the driver")
	}
	if program := language.Command[0]; !path.IsAbs(program) || path.Clean(program) != program {
		return fmt.Errorf("command[0]: %q; give an absolute path, without . or ..", program)
	}
	for i, argument := range language.Command {
		if argument == "" || strings.ContainsRune(argument, 0) {
			return fmt.Errorf("command[%d]: %q; arguments must have text, and no NUL", i, argument)
		}
	}
	if job := language.Job; job != "" && job != JobJSON && job != JobText {
		return fmt.Errorf("job: %q; use json or text", job)
	}
	if language.Fork && language.Job == JobText {
		return errors.New("fork: true with job: text; a driver that forks takes its job as json")
	}
	return nil
}
