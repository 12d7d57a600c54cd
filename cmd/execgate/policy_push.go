package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newPolicyPush() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "push DIR|FILE",
		Short: "Put a policy, a folder or an archive, in force in a running gateway",
		Long: `Send a policy to a running gateway, which tries it and puts it in force. Where
it is refused, the one in force stays, and this says why.`,
		Example: "  execgate policy push my-policy.tar.gz",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			b, err := readPolicy(given[0])
			if err != nil {
				return err
			}
			archive, err := b.archive()
			if err != nil {
				return err
			}
			return governs(cmd, output, http.MethodPut, "/v1/policy", archive)
		},
	}
	output.register(cmd, "text, or json for all there is to know of the policy in force")
	return cmd
}

func newPolicyRollback() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Put in force in a running gateway what was before",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return governs(cmd, output, http.MethodPost, "/v1/policy/rollback", nil)
		},
	}
	output.register(cmd, "text, or json for all there is to know of the policy in force")
	return cmd
}

func newPolicyStatus() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which policy is in force in a running gateway, and which were before",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return governs(cmd, output, http.MethodGet, "/v1/policy", nil)
		},
	}
	output.register(cmd, "text, or json for all there is to know")
	return cmd
}

// governs makes a request about the policy and shows what is in force after it.
func governs(cmd *cobra.Command, output format, method, path string, archive []byte) error {
	c, err := newClient()
	if err != nil {
		return err
	}
	got, err := c.send(cmd.Context(), method, path, "application/gzip", bytes.NewReader(archive))
	if err != nil {
		return err
	}
	if err := got.err(); err != nil {
		return err
	}
	if output == formatJSON {
		return got.print(cmd.OutOrStdout())
	}
	var state execution.PolicyState
	if err := json.Unmarshal(got.body, &state); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	return showPolicyState(cmd.OutOrStdout(), state)
}

func showPolicyState(w io.Writer, state execution.PolicyState) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if state.Active == nil {
		fmt.Fprintln(table, "no policy is in force")
	} else {
		fmt.Fprintf(table, "revision\t%s\n", state.Revision)
		showActivation(table, "in force", *state.Active)
	}
	for _, before := range state.Before {
		showActivation(table, "before", before)
	}
	if r := state.Refused; r != nil {
		fmt.Fprintf(table, "refused\t%s\t%s\t%s\t%s\n", r.Digest, r.At.Format(time.RFC3339), r.Source, r.Code)
		for _, problem := range r.Errors {
			fmt.Fprintf(table, "\t%q\n", problem) // in quotes: it may repeat what was sent
		}
	}
	return table.Flush()
}

func showActivation(w io.Writer, word string, a execution.PolicyActivation) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%s", word, a.Digest, a.Since.Format(time.RFC3339), a.Source)
	if a.Sequence > 0 {
		fmt.Fprintf(w, "\tsequence %d", a.Sequence)
	}
	if a.By != "" {
		fmt.Fprintf(w, "\tby %s", a.By)
	}
	fmt.Fprintln(w)
}
