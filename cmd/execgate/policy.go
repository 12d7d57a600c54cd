package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/policy"
	"github.com/spf13/cobra"
)

func newPolicy() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check, test, try out, sign and release policies",
	}
	group(cmd, newPolicyInit(), newPolicyCheck(), newPolicyTest(), newPolicyEval(), newPolicyReplay(), newPolicyDiff(), newPolicySuggest(),
		newPolicyBundle(), newPolicyKeygen(), newPolicySign(),
		newPolicyPush(), newPolicyRollback(), newPolicyStatus())
	return cmd
}

func newPolicyTest() *cobra.Command {
	var output format
	var minCoverage float64
	cmd := &cobra.Command{
		Use:   "test [DIR]",
		Short: "Run a policy's own tests, with coverage (default: the embedded policy)",
		Args:  args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			files, _, err := policyFiles(strings.Join(given, ""))
			if err != nil {
				return err
			}
			report, err := policy.Test(cmd.Context(), files)
			if err != nil {
				return err
			}
			if output == formatJSON {
				err = printJSON(cmd.OutOrStdout(), report)
			} else {
				showTests(cmd.OutOrStdout(), report)
			}
			if err != nil {
				return err
			}
			if !report.Passed() || report.Coverage < minCoverage {
				return exitCode(exitFailed)
			}
			return nil
		},
	}
	cmd.Flags().Float64Var(&minCoverage, "min-coverage", 0, "fail where the tests cover less of the rules, in percent")
	output.register(cmd, "text, or json for every test")
	return cmd
}

func showTests(w io.Writer, report policy.TestReport) {
	failed := 0
	for _, t := range report.Results {
		if t.Outcome == policy.TestPassed {
			continue
		}
		line := fmt.Sprintf("%-5s %s.%s (%s) %s", t.Outcome, t.Package, t.Name, t.Location, t.Error)
		fmt.Fprintln(w, strings.TrimSpace(line))
		if t.Outcome != policy.TestSkipped {
			failed++
		}
	}
	fmt.Fprintf(w, "%d tests, %d failed, %.1f %% of the rules covered\n", len(report.Results), failed, report.Coverage)
	for _, line := range report.NotCovered {
		fmt.Fprintf(w, "not covered: %s\n", line)
	}
}

func newPolicyEval() *cobra.Command {
	var input, tools string
	var images []string
	var explain bool
	cmd := &cobra.Command{
		Use:   "eval [DIR]",
		Short: "Ask a policy about one input document (default: the embedded policy)",
		Long: `Ask a policy about one input document, and print what it answers and what the
gateway makes of that. With --explain the steps of the evaluation are printed
to standard error, each with the file and line of its rule: Enter and Exit of a
rule, Eval of a condition, Fail where it does not hold, Redo of what may hold
otherwise.`,
		Example: `  execgate policy eval policies --input question.json --image python=sha256:0123...`,
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			files, source, err := policyFiles(strings.Join(given, ""))
			if err != nil {
				return err
			}
			var text []byte
			if input == "-" {
				text, err = io.ReadAll(cmd.InOrStdin())
			} else {
				text, err = os.ReadFile(input)
			}
			if err != nil {
				return usage("--input: %w", err)
			}
			digests, err := pairs("image", images)
			if err != nil {
				return err
			}
			facts, err := toolFacts(tools)
			if err != nil {
				return err
			}
			eval := policy.Eval
			if explain {
				eval = policy.EvalExplained
			}
			answer, err := eval(cmd.Context(), policy.Bundle{Files: files, Source: source, Images: digests, Tools: facts}, gateway.Obligations(true), text)
			if err != nil {
				return err
			}
			if _, err := io.WriteString(cmd.ErrOrStderr(), answer.Trace); err != nil {
				return fmt.Errorf("print the steps: %w", err)
			}
			if answer.Truncated {
				fmt.Fprintln(cmd.ErrOrStderr(), "# there were more steps")
			}
			answer.Trace, answer.Truncated = "", false // it is read in lines
			if err := printJSON(cmd.OutOrStdout(), answer); err != nil {
				return err
			}
			if !answer.Decision.Allowed() {
				return exitCode(exitDenied)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&input, "input", "-", "file with the input document, as docs/policy-input.md describes it; - is standard input")
	cmd.Flags().StringArrayVar(&images, "image", nil, "digest of an image, as NAME=sha256:...")
	cmd.Flags().BoolVar(&explain, "explain", false, "print the steps of the evaluation too, on standard error")
	cmd.Flags().StringVar(&tools, "tools", "", "configuration file of a gateway, whose tools the policy reads as data.tools")
	return cmd
}
