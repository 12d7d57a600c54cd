package main

import (
	"fmt"
	"math"
	"os"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/store"
	"github.com/spf13/cobra"
)

func newAuditReindex() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "reindex",
		Short: "Make the index of a stopped gateway's log anew",
		Long: `Make STATE/index.db anew from STATE/audit. A gateway does so by itself where the
index is missing, damaged or of another version; this is for doing it before it
is started. Usage of days whose records are gone is gone then, too.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if dir == "" {
				if dir, err = stateFolder(os.LookupEnv); err != nil {
					return err
				}
			}
			if !isFolder(dir) {
				return usage("there is no state folder %s: name one by --state", dir)
			}
			s, err := openState(dir)
			if err != nil {
				return err
			}
			defer s.close()
			id, err := audit.IDOf(s.path("audit"))
			if err != nil {
				return err
			}
			index, err := store.OpenRecords(cmd.Context(), s.path("index.db"), id, math.MaxInt64)
			if err != nil {
				return err
			}
			defer index.Close()
			if err := index.Rebuild(cmd.Context()); err != nil {
				return err
			}
			count := 0
			for batch, err := range audit.ReadFrom(s.path("audit"), 0) {
				if err != nil {
					return err
				}
				if err := index.Add(cmd.Context(), batch); err != nil {
					return err
				}
				count += len(batch)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d records are indexed\n", count)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "state", "", "state folder of the gateway whose log it is")
	return cmd
}
