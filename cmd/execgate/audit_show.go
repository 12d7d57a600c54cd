package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/execgate/execgate/audit/inspection"
	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newAuditShow() *cobra.Command {
	var wanted recordsWanted
	var output format
	cmd := &cobra.Command{
		Use:   "show ID|SEQ",
		Short: "Show the whole story of an execution or a session, or one record",
		Long: `Show what the log has of an execution (ex_...) or a session (se_...) as a
timeline: its decision with the rules that decided, leases, how its program began,
requests that it sent out, and its end, with the time that passed. With a number,
show that record.`,
		Example: "  execgate audit show ex_01H...\n  execgate audit show 17",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			id := given[0]
			kind := execution.TermExecution
			switch {
			case execution.ValidID(execution.PrefixExecution, id):
			case execution.ValidID(execution.PrefixSession, id):
				kind = execution.TermSession
			default:
				seq, err := strconv.ParseUint(id, 10, 62)
				if err != nil {
					return usage("%q is neither the id of an execution or a session nor the number of a record", id)
				}
				return showOne(cmd, &wanted, seq)
			}
			from, err := wanted.source()
			if err != nil {
				return err
			}
			story := []execution.Record{}
			q := execution.RecordQuery{Filter: execution.RecordFilter{Values: map[execution.TermKind]string{kind: id}}, Oldest: true}
			if _, err := eachRecord(cmd.Context(), from, q, 0, func(r execution.Record) error {
				story = append(story, r)
				return nil
			}); err != nil {
				return err
			}
			if len(story) == 0 {
				return usage("the log has no record of %s", id)
			}
			if output == formatJSON {
				return printRecords(cmd.OutOrStdout(), map[string]any{"records": story}, true)
			}
			return showStory(cmd.OutOrStdout(), id, story)
		},
	}
	wanted.registerDir(cmd)
	output.register(cmd, "text for a timeline, or json for the whole records")
	return cmd
}

// showOne shows one record, all of it.
func showOne(cmd *cobra.Command, wanted *recordsWanted, seq uint64) error {
	if wanted.dir == "" {
		got, err := callGateway(cmd, http.MethodGet, "/v1/records/"+strconv.FormatUint(seq, 10), nil)
		if err != nil {
			return err
		}
		got.body = inspection.TerminalJSON(got.body)
		return got.print(cmd.OutOrStdout())
	}
	from, err := wanted.source()
	if err != nil {
		return err
	}
	page, err := from.page(cmd.Context(), execution.RecordQuery{Filter: execution.RecordFilter{From: seq, Before: seq + 1}, Oldest: true, Most: 1})
	if err != nil {
		return err
	}
	if len(page.Records) == 0 {
		return usage("the log has no record %d", seq)
	}
	return printRecords(cmd.OutOrStdout(), page.Records[0], true)
}

// showStory writes a timeline: when, how long after the beginning and after the line
// before, what.
func showStory(w io.Writer, id string, story []execution.Record) error {
	var out strings.Builder
	first := story[0]
	fmt.Fprintf(&out, "%s  tenant %s", inLine(id), inLine(execution.OwnerOf(first)))
	if first.Principal != nil {
		fmt.Fprintf(&out, "  subject %s", inLine(first.Principal.Subject))
	}
	fmt.Fprintf(&out, "\nbegan %s, %d records, %s\n\n", first.Time.UTC().Format(time.RFC3339Nano), len(story), seconds(story[len(story)-1].Time.Sub(first.Time)))
	before := first.Time
	for _, r := range story {
		line := strings.TrimRight(fmt.Sprintf("%12s  +%-10s %-16s %s  %s", seconds(r.Time.Sub(first.Time)), seconds(r.Time.Sub(before)),
			inLine(string(r.Type)), inLine(resultOf(r)), inLine(whatOf(r))), " ")
		fmt.Fprintf(&out, "%s  (%d)\n", line, r.Seq)
		for _, detail := range detailsOf(r) {
			fmt.Fprintf(&out, "%28s%s\n", "", inLine(detail))
		}
		before = r.Time
	}
	if _, err := io.WriteString(w, out.String()); err != nil {
		return fmt.Errorf("print the story: %w", err)
	}
	return nil
}

// detailsOf are further lines about a record.
func detailsOf(r execution.Record) (details []string) {
	add := func(name string, values ...string) {
		if text := strings.TrimSpace(strings.Join(values, " ")); text != "" {
			details = append(details, name+" "+text)
		}
	}
	if d := r.Decided; d != nil {
		for _, reason := range d.Decision.Reasons {
			add("because", reason.Code, "("+reason.Rule+")", reason.Message)
		}
		for _, warning := range d.Decision.Warnings {
			add("warning", warning.Code, "("+warning.Rule+")", warning.Message)
		}
		for _, c := range d.Decision.Clamped {
			add("clamped", c.Limit, strconv.FormatInt(c.Requested, 10), "to", strconv.FormatInt(c.Granted, 10))
		}
		add("code", d.CodeSHA256)
		add("policy", d.Decision.Revision)
		add("session", d.Session)
	}
	if e := r.EgressDecided; e != nil {
		add("rule", e.Rule)
		add("credential", e.Binding)
		add("address", e.Address)
	}
	if l := r.Lease; l != nil && r.Type == execution.RecordLeaseIssued {
		add("until", l.Expires.UTC().Format(time.RFC3339))
	}
	if a := r.Approval; a != nil {
		if r.Principal != nil && r.Type != execution.RecordApprovalRequested {
			add("by", r.Principal.Subject)
		}
		add("comment", a.Comment)
	}
	if e := r.Ended; e != nil {
		add("limits met", strings.Join(e.Usage.LimitsHit, ", "))
		if e.Usage.EgressRequests > 0 {
			add("sent out", strconv.FormatInt(e.Usage.EgressRequests, 10), "requests,", strconv.FormatInt(e.Usage.EgressBytes, 10), "bytes")
		}
		for _, l := range e.Leases {
			state := "not taken back"
			if l.Revoked {
				state = "taken back"
			}
			add("lease", l.Tool, l.ID, state)
		}
	}
	return details
}
