package main

import (
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/execgate/execgate/export"
	"github.com/spf13/cobra"
)

func newAuditExporters() *cobra.Command {
	var state string
	var output format
	cmd := &cobra.Command{
		Use:   "exporters",
		Short: "Show how far each exporter has come",
		Long: `Show how far each exporter has come: NEXT is the number of the first record that
its receiver has not acknowledged. It is read from the state folder, also while
the gateway runs, and has exporters too that are configured no more.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if state == "" {
				var err error
				if state, err = stateFolder(os.LookupEnv); err != nil {
					return err
				}
			}
			cursors, err := export.Cursors(filepath.Join(state, exportFolder))
			if err != nil {
				return err
			}
			if output == formatJSON {
				return printJSON(cmd.OutOrStdout(), exporterList(cursors))
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "NAME\tTYPE\tFORMAT\tNEXT\tSAVED\tLOG")
			for _, c := range cursors {
				fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\n", inLine(c.Name), inLine(string(c.Type)), inLine(string(c.Format)), c.Next, c.Saved.Format(time.RFC3339), inLine(c.Log))
			}
			return table.Flush()
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "state folder of the gateway whose exporters they are")
	output.register(cmd, "text, or json")
	return cmd
}

// shownExporter is a cursor as it is printed.
type shownExporter struct {
	Name   string        `json:"name"`
	Type   export.Type   `json:"type"`
	Format export.Format `json:"format"`
	Next   uint64        `json:"next"`
	Saved  time.Time     `json:"saved"`
	Log    string        `json:"log"`
}

func exporterList(cursors []export.Cursor) any {
	list := []shownExporter{}
	for _, c := range cursors {
		list = append(list, shownExporter{c.Name, c.Type, c.Format, c.Next, c.Saved, c.Log})
	}
	return map[string]any{"exporters": list}
}
