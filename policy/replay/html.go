package replay

import (
	_ "embed"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
)

//go:embed report.html
var reportHTML string

// page escapes whatever stands in a report for the place where it stands: rules,
// messages and names are written by others.
var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"words": func(c Class) string { return strings.ReplaceAll(string(c), "_", " ") },
}).Parse(reportHTML))

// row is one line of a table: a label and its counts, in the order of Classes.
type row struct {
	Label  string
	Counts []uint64
}

// table is one breakdown of a report.
type table struct {
	Title   string
	Classes []Class
	Rows    []row
}

// WriteHTML writes the report as one file that loads nothing and runs nothing.
func WriteHTML(w io.Writer, r *Report) error {
	return page.Execute(w, struct {
		*Report
		All    []Class
		Tables []table
	}{r, Classes(), []table{
		tableOf("tenant", r.ByTenant), tableOf("tool or action", r.ByAction), tableOf("rule", r.ByRule),
	}})
}

func tableOf(title string, by map[string]map[Class]uint64) table {
	t := table{Title: title}
	for _, class := range Classes() {
		for _, counts := range by {
			if counts[class] > 0 {
				t.Classes = append(t.Classes, class)
				break
			}
		}
	}
	for _, label := range slices.Sorted(maps.Keys(by)) {
		one := row{Label: label}
		for _, class := range t.Classes {
			one.Counts = append(one.Counts, by[label][class])
		}
		t.Rows = append(t.Rows, one)
	}
	return t
}
