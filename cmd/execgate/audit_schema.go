package main

import (
	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newAuditSchema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the log's records",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(execution.RecordSchema)
			return err
		},
	}
}
