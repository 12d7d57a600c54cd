package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
	"github.com/spf13/cobra"
)

func newAuditErase() *cobra.Command {
	var which execution.Erasure
	var s settings
	var before string
	var output format
	cmd := &cobra.Command{
		Use:   "erase --execution ID | --tenant TENANT [--subject NAME] | --before TIME",
		Short: "Erase what is kept of executions beside the log",
		Long: `Delete the keys that recorded inputs, and what the obligation record_full keeps,
are encrypted under, the results that are remembered, and void the approvals that
are pending, with the requests that await them: of one execution or session, of a tenant with its own policies, of one principal of it, or of what
was decided before a time; flags together narrow. What is erased can be read by
nobody who has no older copy of the files. The log stays as it is, and gets a
record first.

The gateway at EXECGATE_URL does it, for an admin's key; with --state it is done
here, and the gateway must be stopped. Its witnesses are told of the record, so that
its configuration is needed where that names any.`,
		Example: `  execgate audit erase --tenant acme --subject ak_01J8ZQ4YJ5T1V2W3X4Y5Z6A7B8`,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if before != "" {
				at, err := time.Parse(time.RFC3339, before)
				if err != nil {
					return usage("--before is %q: it must be a time such as 2030-01-31T12:00:00Z", before)
				}
				at = at.UTC()
				which.Before = &at
			}
			switch {
			case which == (execution.Erasure{}):
				return usage("name --execution, --tenant or --before")
			case which.Subject != "" && which.Tenant == "":
				return usage("--subject needs its --tenant")
			}
			if s.state == "" {
				if s.file != "" {
					return usage("--config is for --state")
				}
				return eraseAtGateway(cmd, which, output)
			}
			cfg, err := s.config(cmd)
			if err != nil {
				return err
			}
			erased, err := eraseHere(cmd.Context(), cfg, which, newLogger(cfg.Log, cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			return showErasure(cmd.OutOrStdout(), erased, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.state, "state", "", "state folder of a gateway that is stopped (default: ask the one that runs)")
	flags.StringVar(&s.file, "config", "", "with --state: configuration file of the gateway: it may name witnesses")
	flags.StringVar(&which.Execution, "execution", "", "id of an execution or a session")
	flags.StringVar(&which.Tenant, "tenant", "", "name of a tenant")
	flags.StringVar(&which.Subject, "subject", "", "principal of the tenant, such as the id of a key")
	flags.StringVar(&before, "before", "", "time before which it was decided, such as 2030-01-31T12:00:00Z")
	output.register(cmd, "text, or json")
	return cmd
}

func eraseAtGateway(cmd *cobra.Command, which execution.Erasure, output format) error {
	body := map[string]any{}
	for name, value := range map[string]string{"execution": which.Execution, "tenant": which.Tenant, "subject": which.Subject} {
		if value != "" {
			body[name] = value
		}
	}
	if which.Before != nil {
		body["before"] = which.Before
	}
	got, err := callGateway(cmd, http.MethodPost, "/v1/erasures", body)
	if err != nil {
		return err
	}
	if output == formatJSON {
		return got.print(cmd.OutOrStdout())
	}
	var erased execution.Erasure
	if err := json.Unmarshal(got.body, &erased); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	return showErasure(cmd.OutOrStdout(), erased, output)
}

func showErasure(w io.Writer, e execution.Erasure, output format) error {
	if output == formatJSON {
		return printJSON(w, e)
	}
	_, err := fmt.Fprintf(w, "erased: %d inputs, %d materials, %d results, %d approvals\n", e.Inputs, e.Materials, e.Results, e.Approvals)
	return err
}

// eraseHere erases under the folder's lock, as the operator of this machine.
func eraseHere(ctx context.Context, cfg Config, which execution.Erasure, logger *slog.Logger) (erased execution.Erasure, err error) {
	reader, err := openRecordedInputs(ctx, cfg.State) // which makes nothing where there is nothing
	if err != nil {
		return erased, err
	}
	if err := reader.Close(); err != nil {
		return erased, err
	}
	held, err := openState(cfg.State)
	if err != nil {
		return erased, err
	}
	defer held.close() //nolint:errcheck // it gives up a lock, and the process ends
	inputsDB, err := store.Open(ctx, held.path(inputsFile))
	if err != nil {
		return erased, err
	}
	defer func() { err = errors.Join(err, inputsDB.Close()) }()
	db, err := store.Open(ctx, held.path("store.db"))
	if err != nil {
		return erased, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	inputs, err := store.NewInputs(store.InputsConfig{Store: inputsDB, KeyFile: held.path(inputsKey)})
	if err != nil {
		return erased, err
	}
	executions, err := store.NewExecutions(db, 0)
	if err != nil {
		return erased, err
	}
	principal, err := operator{}.Authenticate(ctx, execution.Secret{})
	if err != nil {
		return erased, err
	}
	approvals, err := newApprovals(cfg.Approvals, db, held)
	if err != nil {
		return erased, err
	}
	err = withLogAtRest(ctx, cfg, held, logger, func(log *audit.Log) error {
		pending, err := approvals.Selected(ctx, which)
		if err != nil {
			return err
		}
		if err := (eraser{inputs: inputs, executions: executions}).Erase(ctx, which, func(e execution.Erasure) error {
			e.Approvals = int64(len(pending))
			erased = e
			_, err := log.Append(ctx, execution.Record{
				Type: execution.RecordErased, Execution: executionOf(e.Execution), Principal: &principal, Erasure: &e,
			})
			return err
		}); err != nil {
			return err
		}
		for _, a := range pending {
			record, voided, ended, err := gateway.VoidErased(principal, a, milliseconds(cfg.Requests.KeepResultsMS))
			if err != nil {
				return err
			}
			if _, err := log.Append(ctx, record); err != nil {
				return err
			}
			if err := approvals.Settle(ctx, voided, &ended); err != nil {
				return err
			}
		}
		return approvals.Shred(ctx)
	})
	return erased, err
}
