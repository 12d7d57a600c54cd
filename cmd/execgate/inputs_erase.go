package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/execgate/execgate/store"
	"github.com/spf13/cobra"
)

func newPolicyErase() *cobra.Command {
	var state, execution, tenant string
	cmd := &cobra.Command{
		Use:   "erase --execution ID | --tenant TENANT",
		Short: "Erase what policy was asked about an execution or a tenant",
		Long: `Delete the keys that recorded inputs are encrypted under: those of one execution
or session, or a tenant's with everything that is kept of it for replays, its own
policies too. What is erased is counted in replays, and can be read by nobody
who has no older copy of the database. The audit log stays as it is.

The gateway must be stopped: it holds the state folder.`,
		Example: `  execgate policy erase --tenant acme`,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if (execution == "") == (tenant == "") {
				return usage("name either --execution or --tenant")
			}
			if state == "" {
				if state, err = stateFolder(os.LookupEnv); err != nil {
					return err
				}
			}
			erased, err := eraseInputs(cmd.Context(), state, execution, tenant)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d inputs erased\n", erased)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&state, "state", "", "state folder of the gateway, which must be stopped")
	flags.StringVar(&execution, "execution", "", "id of an execution or a session")
	flags.StringVar(&tenant, "tenant", "", "name of a tenant")
	return cmd
}

// eraseInputs erases under the folder's lock.
func eraseInputs(ctx context.Context, dir, execution, tenant string) (erased int64, err error) {
	reader, err := openRecordedInputs(ctx, dir) // which makes nothing where there is nothing
	if err != nil {
		return 0, err
	}
	if err := reader.Close(); err != nil {
		return 0, err
	}
	held, err := openState(dir)
	if err != nil {
		return 0, err
	}
	defer held.close() //nolint:errcheck // it gives up a lock, and the process ends
	db, err := store.Open(ctx, held.path(inputsFile))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	inputs, err := store.NewInputs(store.InputsConfig{Store: db, KeyFile: held.path(inputsKey)})
	if err != nil {
		return 0, err
	}
	if tenant != "" {
		return inputs.EraseTenant(ctx, tenant)
	}
	return inputs.Erase(ctx, execution)
}
