package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newUsage() *cobra.Command {
	var output format
	var q execution.MeterQuery
	var dir string
	var asCSV bool
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Show what was used, by day, tenant and principal",
		Long: `Show what was used, by day (UTC), tenant and principal, as the audit log has it:
of a running gateway, or of a log at rest, named by --dir. Auditors see that of
their tenant, others their own.`,
		Example: "  execgate usage --since 2026-01-01 --until 2026-01-31 --csv >january.csv\n  execgate usage --tenant research",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asCSV && output == formatJSON {
				return usage("--csv and --output json are two forms: choose one")
			}
			rows, more, err := usageRows(cmd, q, dir)
			if err != nil {
				return err
			}
			if more {
				fmt.Fprintln(cmd.ErrOrStderr(), "execgate: there are more: ask for fewer days by --since and --until, or for one tenant")
			}
			switch {
			case asCSV:
				return usageCSV(cmd.OutOrStdout(), rows)
			case output == formatJSON:
				return printRecords(cmd.OutOrStdout(), map[string]any{"usage": rows, "more": more}, true)
			}
			return usageTable(cmd.OutOrStdout(), rows)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&q.Tenant, "tenant", "", "only this tenant's")
	flags.StringVar(&q.Subject, "subject", "", "only this principal's")
	flags.StringVar(&q.Since, "since", "", "from this day on, such as 2026-01-31")
	flags.StringVar(&q.Until, "until", "", "up to this day, which is part of it")
	flags.StringVar(&dir, "dir", "", "read a log at rest in this folder, a state folder or a copy of STATE/audit, in the place of a running gateway")
	flags.BoolVar(&asCSV, "csv", false, "comma-separated values (RFC 4180)")
	output.register(cmd, "text for a table, or json")
	return cmd
}

func usageRows(cmd *cobra.Command, q execution.MeterQuery, dir string) (rows []execution.Metered, more bool, err error) {
	if dir != "" {
		rows, err = meterLog(dir, q)
		return rows, false, err
	}
	c, err := newClient()
	if err != nil {
		return nil, false, err
	}
	query := url.Values{}
	for name, value := range map[string]string{"tenant": q.Tenant, "subject": q.Subject, "since": q.Since, "until": q.Until} {
		if value != "" {
			query.Set(name, value)
		}
	}
	var answer struct {
		Usage []execution.Metered `json:"usage"`
		More  bool                `json:"more"`
	}
	err = c.get(cmd.Context(), "/v1/usage?"+query.Encode(), &answer)
	return answer.Usage, answer.More, err
}

// meterLog adds up what the records of a log at rest say.
func meterLog(dir string, q execution.MeterQuery) ([]execution.Metered, error) {
	dir, err := logFolder(dir)
	if err != nil {
		return nil, err
	}
	sums := map[execution.MeterKey]*execution.Metered{}
	for batch, err := range audit.ReadFrom(dir, 0) {
		if err != nil {
			return nil, err
		}
		for _, r := range batch {
			m, ok := execution.Meter(r)
			if !ok || !q.Means(m.MeterKey) {
				continue
			}
			if sums[m.MeterKey] == nil {
				sums[m.MeterKey] = &execution.Metered{MeterKey: m.MeterKey}
			}
			sums[m.MeterKey].Add(m)
		}
	}
	rows := []execution.Metered{}
	for _, key := range slices.SortedFunc(maps.Keys(sums), execution.MeterKey.Compare) {
		rows = append(rows, *sums[key])
	}
	return rows, nil
}

func outcomesOf(m execution.Metered) string {
	var words []string
	for _, outcome := range slices.Sorted(maps.Keys(m.Outcomes)) {
		words = append(words, fmt.Sprintf("%s %d", outcome, m.Outcomes[outcome]))
	}
	return strings.Join(words, ", ")
}

func usageTable(w io.Writer, rows []execution.Metered) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DAY\tTENANT\tSUBJECT\tEXECUTIONS\tDENIED\tTOOL CALLS\tSESSIONS\tCPU S\tWALL S\tMEMORY MIB·S\tEGRESS\tEGRESS MIB\tLEASES")
	for _, m := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%.3f\t%.3f\t%.3f\t%d\t%.3f\t%d\n", columnOf(m.Day), columnOf(m.Tenant), columnOf(m.Subject), columnOf(outcomesOf(m)),
			m.Denied, m.ToolCalls, m.Sessions, float64(m.CPUMS)/1000, float64(m.WallMS)/1000, float64(m.MemoryMiBMS)/1000,
			m.EgressRequests, float64(m.EgressBytes)/(1<<20), m.Leases)
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print usage: %w", err)
	}
	return nil
}

// usageCSV writes a line for each row. A spreadsheet would take what begins with one
// of =+-@ for a formula: such a text stands after an apostrophe.
func usageCSV(w io.Writer, rows []execution.Metered) error {
	out := csv.NewWriter(w)
	text := func(s string) string {
		if s = inLine(s); s != "" && strings.ContainsRune("=+-@", rune(s[0])) {
			s = "'" + s
		}
		return s
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	lines := [][]string{{"day", "tenant", "subject", "executions", "outcomes", "denied", "tool_calls", "sessions", "cpu_ms", "wall_ms", "memory_mib_ms",
		"egress_requests", "egress_bytes", "leases"}}
	for _, m := range rows {
		lines = append(lines, []string{text(m.Day), text(m.Tenant), text(m.Subject), number(m.Executions), text(outcomesOf(m)), number(m.Denied), number(m.ToolCalls),
			number(m.Sessions), number(m.CPUMS), number(m.WallMS), number(m.MemoryMiBMS), number(m.EgressRequests), number(m.EgressBytes), number(m.Leases)})
	}
	if err := out.WriteAll(lines); err != nil {
		return fmt.Errorf("print usage: %w", err)
	}
	return nil
}
