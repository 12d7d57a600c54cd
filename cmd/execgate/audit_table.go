package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/execgate/execgate/audit/inspection"
	"github.com/execgate/execgate/execution"
)

// recordTable writes records as a table, a line each. Every text in a record may be
// hostile: what is not printed stands escaped, and a cell is cut where it is too long.
type recordTable struct{ table *tabwriter.Writer }

func newRecordTable(w io.Writer) recordTable {
	t := continuedTable(w)
	fmt.Fprintln(t.table, "SEQ\tTIME\tTENANT\tSUBJECT\tTYPE\tWHAT\tRESULT\tID")
	return t
}

// continuedTable is one whose head was shown before.
func continuedTable(w io.Writer) recordTable {
	return recordTable{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
}

// maxColumn is how much of a text a table shows, in characters.
const maxColumn = 60

func (t recordTable) add(r execution.Record) error {
	subject, tenant := "-", execution.OwnerOf(r)
	if r.Principal != nil {
		subject = r.Principal.Subject
	}
	_, err := fmt.Fprintf(t.table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Seq, r.Time.UTC().Format("2006-01-02T15:04:05.000Z"),
		columnOf(tenant), columnOf(subject), columnOf(string(r.Type)), columnOf(whatOf(r)), columnOf(resultOf(r)), columnOf(idOf(r)))
	return err
}

func (t recordTable) flush() error { return t.table.Flush() }

// columnOf is text as it can stand in a table.
func columnOf(text string) string {
	if text == "" {
		return "-"
	}
	n, cut := 0, 0
	for i := range text {
		if n++; n == maxColumn {
			cut = i
		}
	}
	if n > maxColumn {
		text = text[:cut] + "…"
	}
	return inLine(text)
}

// idOf is what a record is about.
func idOf(r execution.Record) string {
	switch {
	case r.Execution != "":
		return r.Execution
	case r.Session != nil:
		return r.Session.ID
	case r.Decided != nil:
		return r.Decided.Session
	case r.Key != nil:
		return r.Key.ID
	case r.AuthenticationFailed != nil:
		return r.AuthenticationFailed.KeyID
	}
	return ""
}

// whatOf says in a few words what was asked for, or done.
func whatOf(r execution.Record) string {
	switch {
	case r.Decided != nil:
		d := r.Decided
		words := []string{string(cmp.Or(d.Action, execution.ActionExecute)), cmp.Or(d.Tool, d.Language, d.Image)}
		for _, to := range d.Network {
			words = append(words, fmt.Sprintf("%s:%d", to.Host, to.Port))
		}
		return strings.TrimSpace(strings.Join(append(words, d.Tools...), " "))
	case r.Started != nil:
		return fmt.Sprintf("after %d ms", r.Started.WaitMS)
	case r.Ended != nil:
		return fmt.Sprintf("%d ms, cpu %d ms, %d MiB", r.Ended.Usage.WallMS, r.Ended.Usage.CPUMS, r.Ended.Usage.PeakMemoryMiB)
	case r.Session != nil:
		if r.Session.File != nil {
			return string(r.Session.What) + " " + r.Session.File.Path
		}
		return string(r.Session.What)
	case r.AuthenticationFailed != nil:
		return "from " + r.AuthenticationFailed.Remote
	case r.Policy != nil:
		return strings.TrimSpace(r.Policy.Source + " " + r.Policy.Tenant)
	case r.Key != nil:
		var roles []string
		for _, role := range r.Key.Roles {
			roles = append(roles, string(role))
		}
		return r.Key.Tenant + " " + strings.Join(roles, ",")
	case r.Approval != nil:
		return r.Approval.ID
	case r.Flip != nil:
		return strings.Join(r.Flip.Classes, ",")
	case r.Lease != nil:
		return r.Lease.Tool + " " + r.Lease.ID
	case r.EgressDecided != nil:
		e := r.EgressDecided
		if e.Port == 0 {
			return "looks up " + e.Host
		}
		return strings.TrimSpace(fmt.Sprintf("%s %s:%d%s", e.Method, e.Host, e.Port, e.Path))
	case r.EgressEnded != nil:
		return fmt.Sprintf("out %d bytes, in %d bytes", r.EgressEnded.BytesOut, r.EgressEnded.BytesIn)
	case r.AuditRead != nil:
		return fmt.Sprintf("%s, %d", r.AuditRead.What, r.AuditRead.Count)
	case r.SegmentsRemoved != nil:
		return fmt.Sprintf("%d to %d are removed", r.SegmentsRemoved.First, r.SegmentsRemoved.Last)
	case r.Heartbeat != nil:
		return fmt.Sprintf("%d records in %d s", r.Heartbeat.Records, r.Heartbeat.UptimeS)
	case r.Gap != nil:
		return fmt.Sprintf("%d to %d are void", r.Gap.FirstVoid, r.Gap.LastVoid)
	}
	return ""
}

// resultOf is what came of it: an effect, an outcome, a code.
func resultOf(r execution.Record) string {
	switch {
	case r.Decided != nil:
		if effect := r.Decided.Decision.Effect; effect != execution.EffectAllow && len(r.Decided.Decision.Reasons) > 0 {
			return string(effect) + " " + r.Decided.Decision.Reasons[0].Code
		}
		return string(r.Decided.Decision.Effect)
	case r.Started != nil:
		return string(r.Started.Start)
	case r.Ended != nil:
		if r.Ended.ExitCode != nil {
			return fmt.Sprintf("%s %d", r.Ended.Outcome, *r.Ended.ExitCode)
		}
		return strings.TrimSpace(string(r.Ended.Outcome) + " " + r.Ended.Error)
	case r.Session != nil:
		return string(r.Session.Reason)
	case r.AuthenticationFailed != nil:
		return r.AuthenticationFailed.Reason
	case r.Flip != nil:
		return string(r.Flip.Was) + " to " + string(r.Flip.Is)
	case r.Approval != nil:
		return r.Approval.Why
	case r.Lease != nil:
		return r.Lease.Error
	case r.SegmentsRemoved != nil:
		return string(r.SegmentsRemoved.Reason)
	case r.EgressDecided != nil:
		return strings.TrimSpace(string(r.EgressDecided.Effect) + " " + r.EgressDecided.Code)
	case r.EgressEnded != nil:
		if r.EgressEnded.Status != 0 {
			return strings.TrimSpace(fmt.Sprintf("%d %s", r.EgressEnded.Status, r.EgressEnded.Error))
		}
		return r.EgressEnded.Error
	}
	return ""
}

// printRecords writes v as JSON in which nothing stands that a terminal obeys;
// indented, or on one line.
func printRecords(w io.Writer, v any, indent bool) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode records: %w", err)
	}
	if indent {
		var out bytes.Buffer
		if err := json.Indent(&out, text, "", "  "); err != nil {
			return fmt.Errorf("encode records: %w", err)
		}
		text = out.Bytes()
	}
	_, err = w.Write(append(inspection.TerminalJSON(text), '\n'))
	return err
}

// seconds is a duration as a timeline shows it.
func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
