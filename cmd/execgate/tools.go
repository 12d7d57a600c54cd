package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newTools() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tools",
		Short: "List and call the tools of a running gateway",
	}
	group(cmd, newToolsList(), newToolsCall())
	return cmd
}

func newToolsList() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tools that policy lets the caller use; json has the schemas of their arguments",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, err := callGateway(cmd, http.MethodGet, "/v1/tools", nil)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return got.print(cmd.OutOrStdout())
			}
			var list struct {
				Tools []struct {
					Name        string             `json:"name"`
					Kind        execution.ToolKind `json:"kind"`
					Description string             `json:"description"`
				} `json:"tools"`
			}
			if err := json.Unmarshal(got.body, &list); err != nil {
				return fmt.Errorf("read the gateway's answer: %w", err)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "NAME\tKIND\tDESCRIPTION")
			for _, t := range list.Tools {
				fmt.Fprintf(table, "%s\t%s\t%s\n", inLine(t.Name), inLine(string(t.Kind)), inLine(t.Description))
			}
			return table.Flush()
		},
	}
	output.register(cmd, "text, or json")
	return cmd
}

func newToolsCall() *cobra.Command {
	var output format
	var arguments string
	cmd := &cobra.Command{
		Use:   "call NAME",
		Short: "Call a tool, print what it writes, and exit as it exits",
		Example: `  execgate tools call adder --arguments '{"a": 1, "b": 2}'
  execgate tools call adder --arguments @arguments.json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			text, err := readArguments(cmd, arguments)
			if err != nil {
				return err
			}
			c, err := newClient()
			if err != nil {
				return err
			}
			body := struct {
				Arguments json.RawMessage `json:"arguments"`
			}{text}
			got, err := c.call(cmd.Context(), http.MethodPost, "/v1/tools/"+url.PathEscape(given[0])+"/calls", body)
			if err != nil {
				return err
			}
			return showToolCall(cmd, got, output)
		},
	}
	cmd.Flags().StringVar(&arguments, "arguments", "{}", "the arguments as a JSON object; @FILE is read from a file, @- from standard input")
	output.register(cmd, "text: what the tool writes; or json")
	return cmd
}

// readArguments reads the flag. What is no JSON could not even be sent.
func readArguments(cmd *cobra.Command, given string) (json.RawMessage, error) {
	text := []byte(given)
	if path, isFile := strings.CutPrefix(given, "@"); isFile {
		var err error
		if path == "-" {
			text, err = io.ReadAll(cmd.InOrStdin())
		} else {
			text, err = os.ReadFile(path)
		}
		if err != nil {
			return nil, usage("--arguments: %w", err)
		}
	}
	if !json.Valid(text) {
		return nil, usage("--arguments is not JSON")
	}
	return text, nil
}

// showToolCall prints what came of a call, and passes the tool's end on.
func showToolCall(cmd *cobra.Command, got answer, output format) error {
	if output == formatJSON {
		if err := got.print(cmd.OutOrStdout()); err != nil {
			return err
		}
		if got.status != http.StatusOK {
			return exitCode(codeOfStatus(got.status))
		}
	}
	if err := got.err(); err != nil {
		return err
	}
	var call struct {
		ID        string            `json:"id"`
		Content   string            `json:"content"`
		Outcome   execution.Outcome `json:"outcome"`
		ExitCode  *int              `json:"exit_code"`
		Status    *int              `json:"status"`
		IsError   bool              `json:"is_error"`
		Truncated bool              `json:"truncated"`
	}
	if err := json.Unmarshal(got.body, &call); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	if call.ExitCode == nil && call.Outcome == execution.OutcomeExited { // a request, and no program
		call.ExitCode = new(int)
		if call.IsError {
			*call.ExitCode = 1
		}
	}
	r := ran{
		ID: call.ID, Outcome: call.Outcome, ExitCode: call.ExitCode, Stdout: call.Content,
		Truncated: execution.Truncated{Stdout: call.Truncated},
	}
	if output == formatText {
		if call.Status != nil && call.IsError {
			fmt.Fprintf(cmd.ErrOrStderr(), "execgate: the tool was answered %d %s\n", *call.Status, http.StatusText(*call.Status))
		}
		if err := r.show(cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
			return fmt.Errorf("print the tool's output: %w", err)
		}
	}
	return r.exit()
}
