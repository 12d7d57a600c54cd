package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/images"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// candidate is what the flags say of an image that is not listed yet.
type candidate struct {
	settings  settings
	like      string
	languages []string // NAME=FILE
	runtime   string
}

func (c *candidate) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.like, "like", "", "name of a listed image whose languages this one has too, being built from it")
	flags.StringArrayVar(&c.languages, "language", nil, "a language as NAME=FILE, a YAML file that says how its driver is started; may be repeated")
	flags.StringVar(&c.runtime, "runtime", warmRuntime, "OCI runtime to try it on")
	c.settings.registerImage(cmd, "agent")
}

func newImageCheck() *cobra.Command {
	var c candidate
	var output format
	cmd := &cobra.Command{
		Use:   "check REFERENCE [-- COMMAND [ARG...]]",
		Short: "Say whether sandboxes of an image would do, by running some",
		Long: `Say what an image of the engine's becomes in a sandbox, and run sandboxes of it
as the shipped policy's defaults have them: a plain one, one with each language,
and one with COMMAND, which must end with exit code 0. Exit code 1: not fit.`,
		Example: `  execgate image check example/sandbox:1
  execgate image check example/sandbox:1 --like python -- python3 -c 'import humanize'`,
		RunE: func(cmd *cobra.Command, given []string) error {
			reference, command, err := referenceAndCommand(cmd, given)
			if err != nil {
				return err
			}
			cfg, err := c.settings.config(cmd)
			if err != nil {
				return err
			}
			image, err := c.image(cfg, "candidate", reference)
			if err != nil {
				return err
			}
			found, err := c.inspect(cmd, cfg, image, command)
			if err != nil {
				return err
			}
			if output == formatJSON {
				err = printJSON(cmd.OutOrStdout(), checked{found, found.Fit()})
			} else {
				err = showInspection(cmd.OutOrStdout(), found)
			}
			if err == nil && !found.Fit() {
				return exitCode(exitFailed)
			}
			return err
		},
	}
	c.register(cmd)
	output.register(cmd, "text, or json")
	return cmd
}

// checked is an inspection with what it comes to, as JSON.
type checked struct {
	executor.Inspection
	Fit bool `json:"fit"`
}

// referenceAndCommand splits what stands before and after --.
func referenceAndCommand(cmd *cobra.Command, given []string) (reference string, command []string, err error) {
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		given, command = given[:dash], given[dash:]
		if len(command) == 0 {
			return "", nil, usage("no command stands after --; see `%s --help`", cmd.CommandPath())
		}
	}
	if len(given) != 1 {
		return "", nil, usage("one REFERENCE is needed, not %d; a command stands after --; see `%s --help`", len(given), cmd.CommandPath())
	}
	return given[0], command, nil
}

// image is the candidate as it would be listed.
func (c *candidate) image(cfg Config, name, reference string) (images.Image, error) {
	languages := map[string]images.Language{}
	if c.like != "" {
		list, err := cfg.listedImages()
		if err != nil {
			return images.Image{}, err
		}
		at := slices.IndexFunc(list, func(i listedImage) bool { return i.Name == c.like })
		if at < 0 {
			return images.Image{}, usage("--like %s: there is no such image; see `execgate image list`", c.like)
		}
		maps.Copy(languages, list[at].Languages)
	}
	for _, entry := range c.languages {
		language, file, ok := strings.Cut(entry, "=")
		if _, twice := languages[language]; !ok || twice {
			return images.Image{}, usage("--language %s: it must be NAME=FILE, each name once, also with --like", entry)
		}
		read, err := readLanguage(file)
		if err != nil {
			return images.Image{}, usage("--language %s: %w", entry, err)
		}
		languages[language] = read
	}
	return parsedImage(images.Image{Name: name, Reference: reference, Languages: languages})
}

// readLanguage reads what stands under the name of a language in images.yaml.
func readLanguage(file string) (language images.Language, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return language, err
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&language); err != nil && !errors.Is(err, io.EOF) {
		return language, err
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return language, errors.New("there is more than one document in the file")
	}
	return language, nil
}

// parsedImage is an image as the reader of lists has it, which says what is
// wrong with it.
func parsedImage(image images.Image) (images.Image, error) {
	text, err := writeImages([]images.Image{image})
	if err != nil {
		return images.Image{}, err
	}
	list, err := images.Parse(text)
	if err != nil {
		// Where it stands in a list of one is of no use.
		return images.Image{}, usage("%s", strings.TrimPrefix(err.Error(), "images: line 2: images[0]."))
	}
	return list[0], nil
}

// inspect has the executor look at the image. It needs no gateway and holds no
// state, so that one may be running.
func (c *candidate) inspect(cmd *cobra.Command, cfg Config, image images.Image, command []string) (executor.Inspection, error) {
	e, err := newImageExecutor(cfg, []images.Image{image}, cmd.ErrOrStderr())
	if err != nil {
		return executor.Inspection{}, err
	}
	if _, err := e.Present(cmd.Context()); err != nil {
		return executor.Inspection{}, imageError(err) // there is nothing to clean up
	}
	running, stop := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer stop()
	done := make(chan error, 1)
	go func() { done <- e.Run(running) }()
	found, err := e.Inspect(cmd.Context(), image.Name, executor.Trial{Runtime: c.runtime, Limits: warmLimits, Command: command})
	stop()
	return found, errors.Join(imageError(err), <-done)
}

// newImageExecutor makes an executor that keeps nothing parked and belongs to no
// gateway.
func newImageExecutor(cfg Config, list []images.Image, stderr io.Writer) (*executor.Executor, error) {
	agent, err := agentPath(cfg)
	if err != nil {
		return nil, err
	}
	var sandboxes []executor.Image
	for _, image := range list {
		sandboxes = append(sandboxes, sandboxImage(image))
	}
	cfg.Log.Level = "error" // all else is said by the command
	return executor.New(executor.Config{
		Gateway: execution.NewID(gatewayPrefix, time.Now()), Host: cfg.Executor.Engine, Agent: agent,
		Images: sandboxes, Logger: newLogger(cfg.Log, stderr),
		UIDs:      executor.UIDRange{First: cfg.Executor.FirstUID, Count: cfg.Executor.UIDCount},
		StopGrace: milliseconds(cfg.Executor.StopGraceMS), StartTimeout: milliseconds(cfg.Executor.StartTimeoutMS),
	})
}

// imageError gives an error of the executor its exit code, and leaves out what
// is for callers of the API.
func imageError(err error) error {
	e, ok := errors.AsType[*execution.Error](err)
	switch {
	case errors.Is(err, context.Canceled):
		return coded{exitInterrupted, errors.New("interrupted")}
	case ok && e.Kind == execution.KindNotFound:
		return errors.New(e.Detail)
	case ok && e.Kind == execution.KindUnavailable:
		return coded{exitUnavailable, fmt.Errorf("the container engine cannot be asked: %w", e.Err)}
	}
	return err
}

// showInspection prints a table, and what it comes to.
func showInspection(w io.Writer, found executor.Inspection) error {
	head := fmt.Sprintf("reference  %s\ndigest     %s\n", found.Reference, found.Digest)
	if found.ID != found.Digest {
		head += fmt.Sprintf("id         %s\n", found.ID)
	}
	if _, err := fmt.Fprintf(w, "%ssize       %d MiB\n\n", head, found.Bytes>>20); err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CHECK\tFOUND\tVERDICT\tNOTE")
	for _, f := range found.Findings {
		line := []string{f.Subject, cell(f.Found), string(f.Verdict)}
		if f.Note != "" {
			line = append(line, printable(f.Note)) // an empty cell would be padded
		}
		fmt.Fprintln(table, strings.Join(line, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	verdict := "fit"
	if !found.Fit() {
		verdict = "not fit: change what is marked unfit"
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}

// maxCell bounds a cell of a table, in characters.
const maxCell = 60

// cell is text from an image for a table; JSON has the whole of it.
func cell(text string) string {
	if runes := []rune(printable(text)); len(runes) > maxCell {
		return string(runes[:maxCell-1]) + "…"
	}
	return printable(text)
}
