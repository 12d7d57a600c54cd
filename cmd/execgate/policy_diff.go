package main

import (
	"github.com/execgate/execgate/policy/replay"
	"github.com/spf13/cobra"
)

func newPolicyDiff() *cobra.Command {
	var r replayed
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Count what two policies decide differently about what was recorded",
		Long: `Ask the policies in two folders about every decision that the gateway has
recorded, and compare what they answer. What was decided at the time does not
count; otherwise it is as "execgate policy replay".`,
		Example: `  execgate policy diff policies-in-force policies --since 24h --fail-on widened`,
		Args:    args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, given []string) error {
			was, err := candidateIn(given[0])
			if err != nil {
				return err
			}
			is, err := candidateIn(given[1])
			if err != nil {
				return err
			}
			return r.run(cmd, replay.Config{Was: &was, Is: &is})
		},
	}
	r.register(cmd, "widened, differing, unreplayable, or classes such as deny-to-allow, separated by commas")
	return cmd
}
