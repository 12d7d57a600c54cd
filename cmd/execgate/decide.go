package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

// decided is what --decide reads of the answer.
type decided struct {
	Effect   execution.Effect         `json:"effect"`
	Revision string                   `json:"revision"`
	Reasons  []execution.Reason       `json:"reasons"`
	Warnings []execution.Reason       `json:"warnings"`
	Clamped  []execution.Clamp        `json:"clamped"`
	Approval *execution.ApprovalTerms `json:"approval"`
}

// ask shows what policy would say to the request. The exit code is that of a
// denial where it is no allow.
func (p *program) ask(cmd *cobra.Command, c *client, body map[string]any) error {
	got, err := c.call(cmd.Context(), http.MethodPost, "/v1/decisions", body)
	if err != nil {
		return err
	}
	if err := got.err(); err != nil {
		return err
	}
	var d decided
	if err := json.Unmarshal(got.body, &d); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	if p.output == formatJSON {
		err = got.print(cmd.OutOrStdout())
	} else {
		err = d.show(cmd.OutOrStdout())
	}
	if err != nil {
		return fmt.Errorf("print the decision: %w", err)
	}
	if d.Effect != execution.EffectAllow {
		return exitCode(exitDenied)
	}
	return nil
}

func (d decided) show(w io.Writer) error {
	text := fmt.Sprintf("%s, by policy %s\n", d.Effect, d.Revision)
	for _, r := range d.Reasons {
		text += fmt.Sprintf("  %s (%s): %s %s\n", r.Code, r.Rule, r.Message, r.Remediation)
	}
	for _, r := range d.Warnings {
		text += fmt.Sprintf("  warning %s (%s): %s %s\n", r.Code, r.Rule, r.Message, r.Remediation)
	}
	for _, c := range d.Clamped {
		text += fmt.Sprintf("  %s is %d and not %d\n", c.Limit, c.Granted, c.Requested)
	}
	if d.Approval != nil {
		text += fmt.Sprintf("  needs the approval of somebody with a role of %q within %d s\n", d.Approval.Roles, d.Approval.ExpiresS)
	}
	_, err := io.WriteString(w, inText(text))
	return err
}
