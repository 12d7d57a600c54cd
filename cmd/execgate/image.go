package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/images"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// addedFile is the list, in the state folder, of the images that the operator
// has added, in the form of images.yaml.
const addedFile = "images.yaml"

// Where an image is listed.
const (
	sourceShipped = "shipped" // in the embedded list
	sourceFile    = "file"    // in executor.images, which replaces the embedded one
	sourceAdded   = "added"   // in the state folder
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Check, add and list images that policy may grant",
		Long: `Check, add and list images that policy may grant.

They work on this machine: its engine, its configuration and its state folder,
which a running gateway may be using. Nothing is fetched from a registry.`,
	}
	group(cmd, newImageAdd(), newImageCheck(), newImageList())
	return cmd
}

// listedImage is an image and where it is listed.
type listedImage struct {
	images.Image
	source string
}

// listedImages are those that a gateway of this configuration knows, in the
// order in which a request that names none of them is given one: what was added
// takes no language from what was there.
func (c Config) listedImages() ([]listedImage, error) {
	source, from := sourceShipped, "the shipped list"
	list, err := images.Embedded()
	if path := c.Executor.Images; path != "" {
		source, from = sourceFile, path
		list, err = readImages(path)
	}
	if err != nil {
		return nil, usage("list of images: %w", err)
	}
	path := filepath.Join(c.State, addedFile)
	added, err := readImages(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, usage("list of added images: %w", err)
	}
	var all []listedImage
	names := map[string]bool{}
	for _, image := range list {
		names[image.Name] = true
		all = append(all, listedImage{image, source})
	}
	for _, image := range added {
		if names[image.Name] {
			return nil, usage("the image %q is listed in %s and in %s: give one of the two another name", image.Name, from, path)
		}
		all = append(all, listedImage{image, sourceAdded})
	}
	return all, nil
}

// sandboxImages are the images as the executor takes them.
func (c Config) sandboxImages() ([]executor.Image, error) {
	list, err := c.listedImages()
	if err != nil {
		return nil, err
	}
	var out []executor.Image
	for _, image := range list {
		out = append(out, sandboxImage(image.Image))
	}
	return out, nil
}

// sandboxImage is an image as the executor takes it.
func sandboxImage(image images.Image) executor.Image {
	languages := map[string]executor.Language{}
	for name, language := range image.Languages {
		languages[name] = executor.Language{
			Command: language.Command, Text: language.Job == images.JobText,
			Session: language.Session, Fork: language.Fork,
		}
	}
	return executor.Image{Name: image.Name, Reference: image.Reference, Languages: languages}
}

// readImages reads a list of images; its error names the file.
func readImages(path string) ([]images.Image, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := images.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// writeImages is the text of a list of images, as readImages reads it.
func writeImages(list []images.Image) ([]byte, error) {
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	err := encoder.Encode(struct {
		Images []images.Image `yaml:"images"`
	}{list})
	if err != nil {
		return nil, fmt.Errorf("write a list of images: %w", err)
	}
	return text.Bytes(), nil
}

// agentPath is where execgate-agent is.
func agentPath(cfg Config) (string, error) {
	if cfg.Executor.Agent != "" {
		return cfg.Executor.Agent, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find execgate-agent: %w; name it by --agent", err)
	}
	return filepath.Join(filepath.Dir(self), "execgate-agent"), nil
}

// registerImage adds those flags of a gateway that decide which images there are.
func (s *settings) registerImage(cmd *cobra.Command, more ...string) {
	all := &cobra.Command{}
	s.register(all)
	for _, name := range append(more, "config", "state") {
		cmd.Flags().AddFlag(all.Flags().Lookup(name))
	}
}

// printable is text from an image, safe for a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}
