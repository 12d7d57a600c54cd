package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/replay"
	"github.com/execgate/execgate/store"
	"github.com/spf13/cobra"
)

// replayed are the flags that policy replay and policy diff share.
type replayed struct {
	state, since, html, json string
	failOn                   []string
	samples                  int
}

func (r *replayed) register(cmd *cobra.Command, failOn string) {
	flags := cmd.Flags()
	flags.StringVar(&r.state, "state", "", "state folder of the gateway; it may be at work")
	flags.StringVar(&r.since, "since", "7d", "how far back, such as 90m, 24h or 7d")
	flags.StringSliceVar(&r.failOn, "fail-on", nil, "what ends with exit code 3: "+failOn)
	flags.StringVar(&r.html, "html", "", "file for the report as a page")
	flags.StringVar(&r.json, "json", "", "file for the report as JSON; - is standard output")
	flags.IntVar(&r.samples, "samples", 10, "samples of each class in the report")
}

// The words of --fail-on beside single classes.
const (
	failWidened      = "widened"
	failDiffering    = "differing"
	failUnreplayable = "unreplayable"
)

func newPolicyReplay() *cobra.Command {
	var r replayed
	var candidate string
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Count what another policy would have decided otherwise",
		Long: `Ask a candidate for the organisation's policy about every decision that the
gateway has recorded, with its exact input, narrowed by the tenants' own
policies and the ceilings of the time.

Without --candidate each decision is asked of its own revision, which must
reproduce it byte for byte; whatever differs then ends with exit code 3.

It reads the state folder and changes nothing there. The key of the inputs is
in it, so this is for the gateway's operator, on the gateway's machine. The
report names tenants, executions and the policies' messages, and no input.`,
		Example: `  execgate policy replay --candidate policies --since 7d --fail-on deny-to-allow,widened --html report.html`,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config := replay.Config{}
			if candidate == "" {
				r.failOn = append(r.failOn, failDiffering)
			} else {
				bundle, err := candidateIn(candidate)
				if err != nil {
					return err
				}
				config.Is = &bundle
			}
			return r.run(cmd, config)
		},
	}
	cmd.Flags().StringVar(&candidate, "candidate", "", "folder of the policy to try")
	r.register(cmd, "widened, differing, unreplayable, or classes such as deny-to-allow, separated by commas")
	return cmd
}

// candidateIn opens a policy that is not in force.
func candidateIn(folder string) (policy.Bundle, error) {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return policy.Bundle{}, usage("policy folder: %w", err)
	}
	defer root.Close()
	files, err := policy.ReadFiles(root.FS())
	if err != nil {
		return policy.Bundle{}, usage("policy folder %s: %w", folder, err)
	}
	return policy.Bundle{Files: files, Source: folder}, nil
}

// run replays, reports, and ends with exit code 3 where there is something that
// is to be failed on.
func (r *replayed) run(cmd *cobra.Command, config replay.Config) error {
	failing, err := parseFailOn(r.failOn)
	if err != nil {
		return err
	}
	since, err := parseSince(r.since)
	if err != nil {
		return err
	}
	if r.samples < 1 || r.samples > 1000 {
		return usage("--samples is %d: it must be from 1 to 1000", r.samples)
	}
	if r.state == "" {
		if r.state, err = stateFolder(os.LookupEnv); err != nil {
			return err
		}
	}
	reader, err := openRecordedInputs(cmd.Context(), r.state)
	if err != nil {
		return err
	}
	defer reader.Close()
	now := time.Now()
	span := store.Span{From: now.Add(-since), Until: now}
	workers, err := newPolicyWorkers(PolicyConfig{DeadlineMS: replayDeadlineMS})
	if err != nil {
		return err
	}
	defer workers.Close()
	recorded, err := readDigests(r.state, span.From)
	if err != nil {
		return err
	}
	config.Source, config.Samples, config.Workers = recordedInputs{reader, span, recorded}, r.samples, workers
	report, err := replayAll(cmd.Context(), config)
	if err != nil {
		return err
	}
	report.From, report.Until = span.From.UTC(), span.Until.UTC()
	if err := r.write(cmd, report); err != nil {
		return err
	}
	if found := failing(report); len(found) > 0 {
		return coded{exitFound, fmt.Errorf("the replay found what --fail-on names: %s", strings.Join(found, ", "))}
	}
	return nil
}

// replayAll replays in this process, which does nothing else: a policy that eats
// memory or time ends this command, and not a gateway.
func replayAll(ctx context.Context, config replay.Config) (*replay.Report, error) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // evaluations leave much behind and keep nothing
	report, err := replay.Run(ctx, config)
	if broken, ok := errors.AsType[*policy.BundleError](err); ok {
		return nil, usage("the policy does not compile:\n  %s", strings.Join(broken.Problems, "\n  "))
	}
	return report, err
}

func (r *replayed) write(cmd *cobra.Command, report *replay.Report) error {
	if r.html != "" {
		if err := writeReport(r.html, func(w io.Writer) error { return replay.WriteHTML(w, report) }); err != nil {
			return err
		}
	}
	if r.json == "-" {
		return printJSON(cmd.OutOrStdout(), report)
	}
	if r.json != "" {
		if err := writeReport(r.json, func(w io.Writer) error { return printJSON(w, report) }); err != nil {
			return err
		}
	}
	showReplay(cmd.OutOrStdout(), report)
	return nil
}

// writeReport writes a file that only its owner may read.
func writeReport(path string, write func(io.Writer) error) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return usage("write the report: %w", err)
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// showReplay prints the counts, for people. What others wrote is quoted: it may
// hold what a terminal obeys.
func showReplay(w io.Writer, r *replay.Report) {
	fmt.Fprintf(w, "%d decisions replayed in %.1f s (%.0f/s): %q compared with %q\n", r.Replayed, r.Seconds, r.PerSecond(), r.Was, r.Is)
	for _, class := range replay.Classes() {
		if n := r.Classes[class]; n > 0 {
			fmt.Fprintf(w, "%10d  %s\n", n, class)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(r.Unreplayable)) {
		fmt.Fprintf(w, "%10d  not replayed: %q\n", r.Unreplayable[why], why)
	}
	for _, by := range []struct {
		name   string
		counts map[string]map[replay.Class]uint64
	}{{"tenant", r.ByTenant}, {"action", r.ByAction}, {"rule", r.ByRule}} {
		for _, label := range slices.Sorted(maps.Keys(by.counts)) {
			fmt.Fprintf(w, "%s %q:", by.name, label)
			for _, class := range replay.Classes() {
				if n := by.counts[label][class]; n > 0 {
					fmt.Fprintf(w, " %s %d", class, n)
				}
			}
			fmt.Fprintln(w)
		}
	}
}

// parseFailOn returns what finds, in a report, whatever the words name.
func parseFailOn(words []string) (func(*replay.Report) []string, error) {
	known := map[string]func(*replay.Report) uint64{
		failWidened:   func(r *replay.Report) uint64 { return r.Found(replay.Widening()...) },
		failDiffering: func(r *replay.Report) uint64 { return r.Differing },
		failUnreplayable: func(r *replay.Report) (n uint64) {
			for _, count := range r.Unreplayable {
				n += count
			}
			return n
		},
	}
	for _, class := range replay.Classes()[1:] { // all but same
		known[strings.ReplaceAll(string(class), "_", "-")] = func(r *replay.Report) uint64 { return r.Found(class) }
	}
	for _, word := range words {
		if known[word] == nil {
			return nil, usage("--fail-on has %q: it knows %s", word, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	return func(r *replay.Report) (found []string) {
		for _, word := range words {
			if n := known[word](r); n > 0 {
				found = append(found, fmt.Sprintf("%d %s", n, word))
			}
		}
		return found
	}, nil
}

// maxSince bounds --since: nothing is kept for longer than ten years.
const maxSince = 3660 * 24 * time.Hour

// parseSince reads a duration, in which d stands for days.
func parseSince(text string) (time.Duration, error) {
	since, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 12)
		since = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || since <= 0 || since > maxSince {
		return 0, usage("--since is %q: it must be a time such as 90m, 24h or 7d", text)
	}
	return since, nil
}
