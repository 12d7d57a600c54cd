package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newAuditTail() *cobra.Command {
	var wanted recordsWanted
	var output format
	var follow bool
	var lines int
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the last records, and with --follow those that come",
		Long: `Show the last records, and with --follow those that come, until interrupted. A
gateway that cannot be reached meanwhile, or that is busy, is asked again, ever
less often up to each half minute, from where the last answer ended: no record is
left out or shown twice. That it cannot be reached is said once on stderr.`,
		Example: "  execgate audit tail --follow --effect deny\n  execgate audit tail --output json | jq .type",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 0 || lines > 10_000 {
				return usage("--lines is %d: it must be from 0 to 10000", lines)
			}
			filter, err := wanted.filter(time.Now())
			if err != nil {
				return err
			}
			from, err := wanted.source()
			if err != nil {
				return err
			}
			show := showLines(cmd.OutOrStdout(), output)
			next, err := showLast(cmd.Context(), from, filter, lines, show)
			if err != nil || !follow {
				return err
			}
			if _, running := from.(*runningLog); running {
				from, err = wanted.source() // another query, with cursors of its own
			}
			if err != nil {
				return err
			}
			filter.From = max(filter.From, next)
			return follower{from: from, filter: filter, show: show, tell: cmd.ErrOrStderr()}.run(cmd.Context())
		},
	}
	wanted.register(cmd)
	flags := cmd.Flags()
	flags.BoolVarP(&follow, "follow", "f", false, "go on with what comes, until interrupted")
	flags.IntVarP(&lines, "lines", "n", 20, "how many of the last to begin with")
	output.register(cmd, "text for a table, or json for a whole record on each line")
	return cmd
}

// showLines returns what shows records in the order they come, some at a time.
func showLines(w io.Writer, output format) func([]execution.Record) error {
	begun := false
	return func(records []execution.Record) error {
		if output == formatJSON {
			for _, r := range records {
				if err := printRecords(w, r, false); err != nil {
					return err
				}
			}
			return nil
		}
		if len(records) == 0 && begun {
			return nil
		}
		table := newRecordTable(w)
		if begun {
			table = continuedTable(w)
		}
		begun = true
		for _, r := range records {
			if err := table.add(r); err != nil {
				return err
			}
		}
		if err := table.flush(); err != nil {
			return fmt.Errorf("print the records: %w", err)
		}
		return nil
	}
}

// showLast shows the last records, and returns the number that comes after all of them.
func showLast(ctx context.Context, from recordSource, filter execution.RecordFilter, lines int, show func([]execution.Record) error) (next uint64, err error) {
	var last []execution.Record
	first, err := from.page(ctx, execution.RecordQuery{Filter: filter, Most: max(lines, 1)})
	if err != nil {
		return 0, err
	}
	last = first.Records
	for page := first; page.More && len(last) < lines; {
		filter.Before = last[len(last)-1].Seq
		if running, ok := from.(*runningLog); ok {
			running.cursor = "" // the bound says where to go on
		}
		if page, err = from.page(ctx, execution.RecordQuery{Filter: filter, Most: lines - len(last)}); err != nil {
			return 0, err
		}
		last = append(last, page.Records...)
	}
	last = last[:min(len(last), lines)]
	slices.Reverse(last)
	return first.Indexed, show(last)
}
