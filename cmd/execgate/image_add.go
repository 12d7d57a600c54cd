package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/execgate/execgate/images"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func newImageAdd() *cobra.Command {
	var c candidate
	var replace bool
	var output format
	cmd := &cobra.Command{
		Use:   "add NAME REFERENCE",
		Short: "Check an image and list it under a name",
		Long: `Check an image as ` + "`execgate image check`" + ` does, and where it is fit list it
under NAME in STATE/images.yaml. A gateway knows it from its next start, and
policy must grant its name.`,
		Example: "  execgate image add humanize example/sandbox-humanize:1 --like python",
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, given []string) error {
			cfg, err := c.settings.config(cmd)
			if err != nil {
				return err
			}
			image, err := c.image(cfg, given[0], given[1])
			if err != nil {
				return err
			}
			if _, err := cfg.withImage(image, replace); err != nil {
				return err // before the sandboxes, which take seconds
			}
			found, err := c.inspect(cmd, cfg, image, nil)
			if err != nil {
				return err
			}
			if !found.Fit() {
				if err := showInspection(cmd.ErrOrStderr(), found); err != nil {
					return err
				}
				return fmt.Errorf("%s is not added", image.Name)
			}
			if err := cfg.addImage(image, replace); err != nil {
				return err
			}
			if output == formatJSON {
				return printJSON(cmd.OutOrStdout(), checked{found, true})
			}
			return showAdded(cmd.OutOrStdout(), cfg, image, found.Digest)
		},
	}
	c.register(cmd)
	cmd.Flags().BoolVar(&replace, "replace", false, "replace the added image of that name")
	output.register(cmd, "text, or json for what the check found")
	return cmd
}

// showAdded says what is left to do.
func showAdded(w io.Writer, cfg Config, image images.Image, digest string) error {
	_, err := fmt.Fprintf(w, "%s is %s\nlisted in %s; a gateway knows it from its next start\nto grant it, add to a tenant in the policy's data.json: \"images\": [%q]",
		image.Name, digest, filepath.Join(cfg.State, addedFile), image.Name)
	if err == nil && len(image.Languages) > 0 {
		_, err = fmt.Fprintf(w, ", \"languages\": [\"%s\"]", strings.Join(languageNames(image), `", "`))
	}
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

// withImage returns the added images with one more, or says why it cannot be.
func (c Config) withImage(image images.Image, replace bool) ([]images.Image, error) {
	list, err := c.listedImages()
	if err != nil {
		return nil, err
	}
	var added []images.Image
	for _, listed := range list {
		switch {
		case listed.Name == image.Name && listed.source != sourceAdded:
			return nil, usage("the name %s is that of an image of the %s list: choose another", image.Name, listed.source)
		case listed.Name == image.Name && !replace:
			return nil, usage("the name %s is taken, by %s: choose another, or use --replace", image.Name, listed.Reference)
		case listed.source == sourceAdded && listed.Name != image.Name:
			added = append(added, listed.Image)
		}
	}
	return append(added, image), nil
}

// addImage writes the list of added images with one more. A gateway that holds
// the state folder does not write that file.
func (c Config) addImage(image images.Image, replace bool) (err error) {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	if err := checkPrivate(c.State); err != nil {
		return err
	}
	// Another add may be at it; the gateway's lock is another file.
	folder, err := os.Open(c.State)
	if err != nil {
		return fmt.Errorf("lock the state folder: %w", err)
	}
	defer folder.Close()
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the state folder: %w", err)
	}
	list, err := c.withImage(image, replace)
	if err != nil {
		return err
	}
	text, err := writeImages(list)
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(c.State, addedFile), string(text)); err != nil {
		return fmt.Errorf("write the list of added images: %w", err)
	}
	return nil
}
