package main

import (
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newAuditQuery() *cobra.Command {
	var wanted recordsWanted
	var output format
	var oldest bool
	var limit int
	cmd := &cobra.Command{
		Use:   "query",
		Short: "Find records, newest first",
		Long: `Find records of the audit log, in a running gateway by its index, or in a log at
rest, named by --dir, by looking at each. Filters are joined by "and". A running
gateway records that its log was read.`,
		Example: "  execgate audit query --effect deny --since 24h\n  execgate audit query --host api.github.com --output json --limit 0\n  execgate audit query --dir copy --tenant research",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return usage("--limit is %d: it must not be negative; 0 is all", limit)
			}
			filter, err := wanted.filter(time.Now())
			if err != nil {
				return err
			}
			from, err := wanted.source()
			if err != nil {
				return err
			}
			q := execution.RecordQuery{Filter: filter, Oldest: oldest}
			var more bool
			if output == formatJSON {
				found := struct {
					Records []execution.Record `json:"records"`
					More    bool               `json:"more"`
				}{Records: []execution.Record{}}
				if found.More, err = eachRecord(cmd.Context(), from, q, limit, func(r execution.Record) error {
					found.Records = append(found.Records, r)
					return nil
				}); err != nil {
					return err
				}
				return printRecords(cmd.OutOrStdout(), found, true)
			}
			table := newRecordTable(cmd.OutOrStdout())
			if more, err = eachRecord(cmd.Context(), from, q, limit, table.add); err != nil {
				return err
			}
			if err := table.flush(); err != nil {
				return fmt.Errorf("print the records: %w", err)
			}
			if more {
				fmt.Fprintf(cmd.ErrOrStderr(), "execgate: there are more: raise --limit, or narrow the filter\n")
			}
			return nil
		},
	}
	wanted.register(cmd)
	cmd.Flags().BoolVar(&oldest, "oldest", false, "oldest first")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many; 0: all")
	output.register(cmd, "text for a table, or json for the whole records")
	return cmd
}
