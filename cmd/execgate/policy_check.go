package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/policy"
	"github.com/spf13/cobra"
)

func newPolicyCheck() *cobra.Command {
	var output format
	var images []string
	var tenants bool
	cmd := &cobra.Command{
		Use:   "check [DIR]",
		Short: "Look for what is wrong with a policy before it is released (default: the embedded policy)",
		Long: `Look for what is wrong with a policy before it is released: whether it compiles, whether it
denies what every policy denies, and what makes policies open by default, hard to explain or
hard to change. The policy's own tests are run by the command test.

With --tenants it is one of those in policy.tenants. Such a policy is asked only about what
the organisation's does not deny, so it need not deny by itself what every policy denies.

It exits with 1 where something is found. A comment "# execgate:ignore CODE why" on a line, or
before it, keeps a finding about that line from being shown.`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			files, _, err := policyFiles(strings.Join(given, ""))
			if err != nil {
				return err
			}
			digests, err := pairs("image", images)
			if err != nil {
				return err
			}
			if len(digests) == 0 {
				digests = nil
			}
			report, err := policy.Check(cmd.Context(), files, digests, gateway.Obligations(true))
			if err != nil {
				return err
			}
			if tenants {
				report.Findings = slices.DeleteFunc(report.Findings, func(f policy.Finding) bool {
					return f.Code == policy.FindMustDeny || f.Code == policy.FindUntried
				})
			}
			if output == formatJSON {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				showFindings(cmd.OutOrStdout(), report)
			}
			if err == nil && len(report.Findings) > 0 {
				err = exitCode(exitFailed)
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&images, "image", nil, "digest of an image that the policy reads as data.images, as NAME=sha256:... (default: python alone)")
	cmd.Flags().BoolVar(&tenants, "tenants", false, "it is a tenant's own policy, which only narrows")
	output.register(cmd, "text, or json for programs")
	return cmd
}

func showFindings(w io.Writer, report policy.CheckReport) {
	for _, f := range report.Findings {
		where := ""
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d: ", f.File, f.Line)
		}
		fmt.Fprintf(w, "%s%s: %s\n    %s\n", where, f.Code, f.Message, f.Remedy)
	}
	fmt.Fprintf(w, "%d found\n", len(report.Findings))
}
