package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newApprovalsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "approvals",
		Short: "List, look at, approve and deny what awaits approval at a running gateway",
	}
	group(cmd, newApprovalsList(), newApprovalsShow(), newVerdict("approve", "Approve what is asked, once: it is decided anew, and runs if policy allows it then"),
		newVerdict("deny", "Deny what is asked"))
	return cmd
}

// shownApproval is what the commands read of an approval. Every text in it may be
// hostile.
type shownApproval struct {
	ID        string                  `json:"id"`
	Execution string                  `json:"execution"`
	State     execution.ApprovalState `json:"state"`
	Requester string                  `json:"requester"`
	Expires   time.Time               `json:"expires"`
	By        string                  `json:"by"`
	Comment   string                  `json:"comment"`
	Why       string                  `json:"why"`
	Roles     []string                `json:"roles"`
	Reasons   []execution.Reason      `json:"reasons"`
	Language  string                  `json:"language"`
	Image     string                  `json:"image"`
	Request   *execution.Request      `json:"request"`

	ExecutionState string   `json:"execution_state"`
	Problem        *problem `json:"problem"`
}

func newApprovalsList() *cobra.Command {
	var output format
	var state, after string
	var wait time.Duration
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List approvals, oldest first",
		Example: "  execgate approvals list --state all\n  execgate approvals list --wait 60s",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{"state": {state}}
			if after != "" {
				query.Set("after", after)
			}
			if wait != 0 {
				query.Set("wait", wait.String())
			}
			got, err := callGateway(cmd, http.MethodGet, "/v1/approvals?"+query.Encode(), nil)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return got.print(cmd.OutOrStdout())
			}
			var list struct {
				Approvals []shownApproval `json:"approvals"`
				More      bool            `json:"more"`
			}
			if err := json.Unmarshal(got.body, &list); err != nil {
				return fmt.Errorf("read the gateway's answer: %w", err)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "ID\tREQUESTER\tSTATE\tLANGUAGE\tEXPIRES")
			for _, a := range list.Approvals {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", inLine(a.ID), inLine(a.Requester), inLine(string(a.State)), inLine(a.Language), a.Expires.Format(time.RFC3339))
			}
			if err := table.Flush(); err != nil {
				return err
			}
			if list.More {
				fmt.Fprintf(cmd.ErrOrStderr(), "execgate: there are more: --after %s\n", inLine(list.Approvals[len(list.Approvals)-1].ID))
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&state, "state", "pending", "pending, approved, denied, expired, voided or all")
	flags.StringVar(&after, "after", "", "only those that were asked for after this one")
	flags.DurationVar(&wait, "wait", 0, "how long to wait until there is one, at most 60s")
	output.register(cmd, "text, or json")
	return cmd
}

func newApprovalsShow() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show what is asked",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			got, err := callGateway(cmd, http.MethodGet, "/v1/approvals/"+url.PathEscape(given[0]), nil)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return got.print(cmd.OutOrStdout())
			}
			var a shownApproval
			if err := json.Unmarshal(got.body, &a); err != nil {
				return fmt.Errorf("read the gateway's answer: %w", err)
			}
			return a.show(cmd.OutOrStdout())
		},
	}
	output.register(cmd, "text, or json for all of it")
	return cmd
}

// show writes what is asked so that none of it can pass for something else: what
// cannot be printed stands escaped, and code stands last.
func (a shownApproval) show(w io.Writer) error {
	var out strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&out, "%-12s %s\n", name, inLine(value))
		}
	}
	line("id", a.ID)
	line("state", string(a.State))
	line("execution", a.Execution)
	line("requester", a.Requester)
	line("expires", a.Expires.Format(time.RFC3339))
	line("roles", strings.Join(a.Roles, ", "))
	line("by", a.By)
	line("comment", a.Comment)
	line("why", a.Why)
	for _, r := range a.Reasons {
		line("reason", strings.TrimSpace(r.Code+": "+r.Message))
	}
	line("image", a.Image)
	line("language", a.Language)
	if r := a.Request; r != nil {
		line("command", strings.Join(r.Command, " "))
		line("session", r.Session)
		line("input", string(r.Input))
		for _, name := range slices.Sorted(maps.Keys(r.Env)) {
			line("variable", name)
		}
		for _, f := range r.Files {
			line("file", f.Path+" "+strconv.Itoa(len(f.Content))+" bytes, "+execution.HexSHA256(f.Content))
		}
		for _, d := range r.Network {
			line("network", d.Host+":"+strconv.Itoa(d.Port))
		}
		line("tools", strings.Join(r.Tools, ", "))
		for _, name := range slices.Sorted(maps.Keys(r.Metadata)) {
			line("claims", name+": "+r.Metadata[name])
		}
		line("stdin", r.Stdin)
		if r.Code != "" {
			fmt.Fprintf(&out, "\n%s\n", inText(r.Code))
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func newVerdict(verdict, short string) *cobra.Command {
	var output format
	var comment string
	cmd := &cobra.Command{
		Use:     verdict + " ID",
		Short:   short,
		Example: "  execgate approvals " + verdict + " ap_01H... --comment 'as discussed'",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			body := map[string]any{"decision": verdict}
			if comment != "" {
				body["comment"] = comment
			}
			got, err := callGateway(cmd, http.MethodPost, "/v1/approvals/"+url.PathEscape(given[0]), body)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return got.print(cmd.OutOrStdout())
			}
			var a shownApproval
			if err := json.Unmarshal(got.body, &a); err != nil {
				return fmt.Errorf("read the gateway's answer: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s; the execution %s is %s\n", inLine(string(a.State)), inLine(a.Execution), inLine(a.ExecutionState))
			if a.Problem != nil && verdict == "approve" {
				fmt.Fprintf(cmd.ErrOrStderr(), "execgate: it does not run: %s\n", inLine(a.Problem.Detail))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&comment, "comment", "", "why; policy and the record have it")
	output.register(cmd, "text, or json")
	return cmd
}

// inText is text as it can be shown on a terminal: what is not printed stands
// escaped, but for ends of lines and tabs.
func inText(text string) string { return escaped(text, "\n\t") }

// inLine is text as it can be shown in one line of a terminal.
func inLine(text string) string { return escaped(text, "") }

func escaped(text, allowed string) string {
	var out strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)): // no UTF-8: a byte
			fmt.Fprintf(&out, `\x%02x`, text[i])
		case strings.ContainsRune(allowed, r), unicode.IsPrint(r):
			out.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			out.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return out.String()
}
