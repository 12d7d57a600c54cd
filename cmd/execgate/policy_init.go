package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/execgate/execgate/examples"
	"github.com/execgate/execgate/policies"
	"github.com/spf13/cobra"
)

func newPolicyInit() *cobra.Command {
	var example string
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Write a policy to start from: the embedded one or an example, with its data and tests",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			dir := given[0]
			if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
				return usage("%s is not empty: name a folder that is not there yet", dir)
			} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return usage("policy folder: %w", err)
			}
			var files fs.FS = policies.Files
			if example != "" {
				var err error
				if files, err = examples.Policy(example); err != nil {
					return usage("--example: %w", err)
				}
			}
			if err := os.CopyFS(dir, files); err != nil {
				return fmt.Errorf("write the policy: %w", err)
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s has a policy: name the tenants in %s/data.json, then run execgate policy check %s and execgate policy test %s\n", dir, dir, dir, dir)
			return err
		},
	}
	cmd.Flags().StringVar(&example, "example", "", "policy for a kind of work: "+strings.Join(examples.Policies(), ", "))
	return cmd
}
