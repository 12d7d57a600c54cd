package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/execgate/execgate/audit"
	"github.com/spf13/cobra"
)

func newAuditRotateKey() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Give the log a new signing key",
		Long: `Make a new key that signs the audit log, and remove the old one. A record says so,
and the checkpoint that ends with it is signed by both keys: whoever trusts the old
public key checks the whole log with it, what comes later too, and so does whoever
trusts the new one.

The gateway must be stopped: it holds the state folder. Hand the new public key,
STATE/keys/audit.pub, out to whoever checks the log.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg, err := s.config(cmd)
			if err != nil {
				return err
			}
			if _, err := os.Stat(cfg.State); errors.Is(err, fs.ErrNotExist) {
				return usage("there is no state folder %s: name it by --state", cfg.State)
			}
			held, err := openState(cfg.State)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, held.close()) }()
			if err := checkWitnesses(cfg, held); err != nil {
				return err
			}
			config, err := auditConfig(cfg, held, newLogger(cfg.Log, cmd.ErrOrStderr()))
			if err != nil {
				return err
			}
			old, new, err := audit.RotateKey(cmd.Context(), config)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "old  %s\nnew  %s\n", old, new)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.file, "config", "", "configuration file of the gateway: it may name witnesses")
	flags.StringVar(&s.state, "state", "", "state folder of the gateway, which must be stopped")
	return cmd
}
