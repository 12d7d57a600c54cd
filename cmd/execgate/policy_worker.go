package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/execgate/execgate/policy"
	"github.com/spf13/cobra"
)

// policyWorker is the name of the command that gateways start as worker processes.
const policyWorker = "policy-worker"

// newPolicyWorker is for the gateway itself, which speaks with it on its standard
// input and output.
func newPolicyWorker() *cobra.Command {
	return &cobra.Command{
		Use: policyWorker + " MEMORY_MIB", Hidden: true, Args: cobra.ExactArgs(1),
		Short: "Evaluate policies of others in a process that can be killed",
		RunE: func(cmd *cobra.Command, args []string) error {
			mib, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || mib < 1 {
				return usage("the memory %q is no number of MiB", args[0])
			}
			return policy.ServeWorker(cmd.InOrStdin(), cmd.OutOrStdout(), mib)
		},
	}
}

// newPolicyWorkers returns worker processes of this same program.
func newPolicyWorkers(cfg PolicyConfig) (*policy.Remote, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program, to start workers: %w", err)
	}
	return policy.NewRemote(policy.RemoteConfig{
		Command: []string{program, policyWorker}, Deadline: milliseconds(cfg.DeadlineMS),
	})
}
