package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

// ran is what run reads of the answer.
type ran struct {
	ID          string               `json:"id"`
	Outcome     execution.Outcome    `json:"outcome"`
	ExitCode    *int                 `json:"exit_code"`
	Stdout      string               `json:"stdout"`
	Stderr      string               `json:"stderr"`
	Result      json.RawMessage      `json:"result"`
	ResultError string               `json:"result_error"`
	Truncated   execution.Truncated  `json:"truncated"`
	Artifacts   []execution.Artifact `json:"artifacts"`
}

// send makes the request and shows what came of it.
func (p *program) send(cmd *cobra.Command, c *client, body map[string]any) error {
	got, err := c.call(cmd.Context(), http.MethodPost, "/v1/executions", body)
	if err != nil {
		return err
	}
	if p.output == formatJSON {
		if err := got.print(cmd.OutOrStdout()); err != nil {
			return err
		}
		if got.status == http.StatusAccepted {
			return exitCode(exitBusy)
		}
		if got.status != http.StatusOK {
			return exitCode(codeOfStatus(got.status))
		}
	}
	if err := got.err(); err != nil {
		return err
	}
	if got.status == http.StatusAccepted {
		return awaits(got)
	}
	if got.status != http.StatusOK {
		return fmt.Errorf("the gateway answered %d %s, which this execgate does not understand", got.status, http.StatusText(got.status))
	}
	var r ran
	if err := json.Unmarshal(got.body, &r); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	if err := saveArtifacts(p.artifacts, r.Artifacts); err != nil {
		return err
	}
	if p.output == formatText {
		if err := r.show(cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
			return fmt.Errorf("print the program's output: %w", err)
		}
		if n := len(r.Artifacts); n > 0 && p.artifacts == "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "execgate: %d artifacts are not kept: name a folder by --artifacts\n", n)
		}
	}
	return r.exit()
}

// awaits says that somebody has to approve it first.
func awaits(got answer) error {
	var state struct {
		ID       string `json:"id"`
		Approval string `json:"approval"`
		Expires  string `json:"expires"`
	}
	if err := json.Unmarshal(got.body, &state); err != nil || state.Approval == "" {
		return fmt.Errorf("the gateway answered %d, which this execgate does not understand", got.status)
	}
	return coded{exitBusy, fmt.Errorf("%s awaits approval until %s: execgate approvals approve %s", inLine(state.ID), inLine(state.Expires), inLine(state.Approval))}
}

// show prints what the program printed, and then its result on a line of its
// own. What execgate itself has to say goes to stderr. The error is of stdout:
// output that is lost must not look like success.
func (r ran) show(stdout, stderr io.Writer) error {
	text := r.Stdout
	if len(r.Result) > 0 && string(r.Result) != "null" {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		text += string(r.Result) + "\n"
	}
	_, err := io.WriteString(stdout, text)
	io.WriteString(stderr, r.Stderr)
	if r.Truncated.Stdout || r.Truncated.Stderr {
		fmt.Fprintln(stderr, "execgate: the output was cut at its limit, output_kib")
	}
	if r.ResultError != "" {
		fmt.Fprintln(stderr, "execgate: no result:", r.ResultError)
	}
	if r.Outcome != execution.OutcomeExited {
		fmt.Fprintf(stderr, "execgate: %s: %s\n", r.ID, r.Outcome)
	}
	return err
}

// exit passes the program's end on.
func (r ran) exit() error {
	switch {
	case r.Outcome == execution.OutcomeTimedOut:
		return exitCode(exitTimedOut)
	case r.ExitCode == nil:
		return exitCode(exitStopped)
	case *r.ExitCode != 0:
		return exitCode(*r.ExitCode)
	}
	return nil
}
