package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/execgate/execgate/images"
	"github.com/spf13/cobra"
)

// shownImage is a line of the list.
type shownImage struct {
	Name      string   `json:"name"`
	Reference string   `json:"reference"`
	Digest    string   `json:"digest,omitempty"` // of what the engine has; empty: it has none
	Languages []string `json:"languages"`
	Source    string   `json:"source"`  // shipped, file, added
	Tenants   []string `json:"tenants"` // that the policy's data.json grants it to
}

func newImageList() *cobra.Command {
	var s settings
	var output format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the images that policy may grant, and what the engine has of them",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := s.config(cmd)
			if err != nil {
				return err
			}
			list, err := shownImages(cmd, cfg)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"images": list})
			}
			return showImages(cmd.OutOrStdout(), list)
		},
	}
	s.registerImage(cmd, "policy")
	output.register(cmd, "text, or json")
	return cmd
}

// shownImages asks the engine and the policy's data about the listed images.
func shownImages(cmd *cobra.Command, cfg Config) ([]shownImage, error) {
	listed, err := cfg.listedImages()
	if err != nil {
		return nil, err
	}
	granted, err := grantedImages(cfg)
	if err != nil {
		return nil, err
	}
	var all []images.Image
	for _, image := range listed {
		all = append(all, image.Image)
	}
	e, err := newImageExecutor(cfg, all, cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	digests, err := e.Present(cmd.Context())
	if err != nil {
		return nil, imageError(err)
	}
	var list []shownImage
	for _, image := range listed {
		list = append(list, shownImage{
			Name: image.Name, Reference: image.Reference, Digest: digests[image.Name], Source: image.source,
			Languages: languageNames(image.Image), Tenants: append([]string{}, granted[image.Name]...),
		})
	}
	return list, nil
}

// grantedImages are the tenants by image, as data.json of the shipped policy and
// of those made from it has them. What another policy decides by, only it knows.
func grantedImages(cfg Config) (map[string][]string, error) {
	files, _, err := policyFiles(cfg.Policy.Folder)
	if err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(files, "data.json")
	if err != nil {
		return nil, nil
	}
	var data struct {
		Tenants map[string]struct {
			Images []string `json:"images"`
		} `json:"tenants"`
	}
	if json.Unmarshal(text, &data) != nil {
		return nil, nil
	}
	granted := map[string][]string{}
	for _, tenant := range slices.Sorted(maps.Keys(data.Tenants)) {
		for _, image := range data.Tenants[tenant].Images {
			granted[image] = append(granted[image], tenant)
		}
	}
	return granted, nil
}

func showImages(w io.Writer, list []shownImage) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tREFERENCE\tDIGEST\tLANGUAGES\tSOURCE\tTENANTS")
	for _, i := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", i.Name, i.Reference, cmp.Or(i.Digest, "not on the engine"),
			cmp.Or(strings.Join(i.Languages, ","), "-"), i.Source, cmp.Or(strings.Join(i.Tenants, ","), "-"))
	}
	return table.Flush()
}

// languageNames are the languages of an image, sorted.
func languageNames(image images.Image) []string {
	names := slices.AppendSeq([]string{}, maps.Keys(image.Languages)) // JSON's list and not null
	slices.Sort(names)
	return names
}
