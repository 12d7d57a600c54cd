package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

// recordsWanted are the flags that say which records are meant, and where they are.
type recordsWanted struct {
	dir          string
	values       map[execution.TermKind]*string
	since, until string
	after        string
	before       string
}

func (w *recordsWanted) register(cmd *cobra.Command) {
	w.values = map[execution.TermKind]*string{}
	flags := cmd.Flags()
	for _, kind := range execution.TermKinds() {
		w.values[kind] = flags.String(string(kind), "", "only those with this "+string(kind))
	}
	flags.StringVar(&w.since, "since", "", "only those from this time on: 2026-01-31T12:00:00Z, 2026-01-31, or 24h for that long ago")
	flags.StringVar(&w.until, "until", "", "only those before this time")
	flags.StringVar(&w.after, "after", "", "only those after this number")
	flags.StringVar(&w.before, "before", "", "only those before this number")
	w.registerDir(cmd)
}

func (w *recordsWanted) registerDir(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.dir, "dir", "", "read a log at rest in this folder, a state folder or a copy of STATE/audit, in the place of a running gateway")
}

// recordSource is where records are read.
type recordSource interface {
	// page returns records, and the From or Before of what follows them.
	page(ctx context.Context, q execution.RecordQuery) (execution.RecordPage, error)
}

// source is where the records are that are meant.
func (w *recordsWanted) source() (recordSource, error) {
	if w.dir != "" {
		dir, err := logFolder(w.dir)
		return restingLog{dir}, err
	}
	c, err := newClient()
	return &runningLog{client: c}, err
}

// logFolder is the folder of the log that dir is, or has.
func logFolder(dir string) (string, error) {
	if inside := filepath.Join(dir, "audit"); isFolder(inside) {
		dir = inside
	}
	if _, err := audit.IDOf(dir); err != nil {
		return "", usage("--dir: %w", err)
	}
	return dir, nil
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// filter is what the flags mean.
func (w *recordsWanted) filter(now time.Time) (f execution.RecordFilter, err error) {
	f.Values = map[execution.TermKind]string{}
	for kind, value := range w.values {
		if *value != "" {
			f.Values[kind] = *value
		}
	}
	if f.Since, err = timeOf("since", w.since, now); err != nil {
		return f, err
	}
	if f.Until, err = timeOf("until", w.until, now); err != nil {
		return f, err
	}
	if w.after != "" {
		if f.From, err = strconv.ParseUint(w.after, 10, 62); err != nil {
			return f, usage("--after is %q: it must be the number of a record", w.after)
		}
		f.From++
	}
	if w.before != "" {
		if f.Before, err = strconv.ParseUint(w.before, 10, 62); err != nil || f.Before == 0 {
			return f, usage("--before is %q: it must be the number of a record, and not the first", w.before)
		}
	}
	return f, nil
}

// timeOf reads a time, a day, or how long ago it was.
func timeOf(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	if ago, err := parseSince(text); err == nil {
		return now.Add(-ago), nil
	}
	return time.Time{}, usage("--%s is %q: it must be a time such as 2026-01-31T12:00:00Z, a day such as 2026-01-31, or 90m, 24h or 7d ago", flag, text)
}

// restingLog is a log that nobody writes, or a copy.
type restingLog struct{ dir string }

// page implements recordSource: it looks at every record.
func (l restingLog) page(ctx context.Context, q execution.RecordQuery) (execution.RecordPage, error) {
	page := execution.RecordPage{Records: []execution.Record{}}
	for batch, err := range audit.ReadFrom(l.dir, q.Filter.From) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return page, err
		}
		for _, r := range batch {
			page.Indexed = r.Seq + 1
			if !q.Filter.Matches(r) {
				continue
			}
			if len(page.Records) == q.Most && q.Oldest {
				page.More, page.Next = true, page.Records[q.Most-1].Seq+1
				return page, nil
			}
			if len(page.Records) >= 2*q.Most { // the older half is not among the newest
				page.More, page.Records = true, append(page.Records[:0], page.Records[q.Most:]...)
			}
			page.Records = append(page.Records, r)
		}
	}
	if !q.Oldest {
		slices.Reverse(page.Records)
		if len(page.Records) > q.Most {
			page.More, page.Records = true, page.Records[:q.Most]
		}
		if page.More {
			page.Next = page.Records[len(page.Records)-1].Seq
		}
		return page, nil
	}
	page.Next = max(page.Indexed, q.Filter.From)
	return page, nil
}

// runningLog is the log of a running gateway. Its pages are those of one query: each
// goes on where the last one ended.
type runningLog struct {
	client *client
	cursor string
}

// page implements recordSource.
func (l *runningLog) page(ctx context.Context, q execution.RecordQuery) (execution.RecordPage, error) {
	query := url.Values{"limit": {strconv.Itoa(min(q.Most, 200))}, "order": {"newest"}}
	if q.Oldest {
		query.Set("order", "oldest")
	}
	for kind, value := range q.Filter.Values {
		if !utf8.ValidString(value) {
			return execution.RecordPage{}, usage("--%s is not UTF-8", kind)
		}
		query.Set(string(kind), value)
	}
	for name, at := range map[string]time.Time{"since": q.Filter.Since, "until": q.Filter.Until} {
		if !at.IsZero() {
			query.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	if q.Filter.From > 0 {
		query.Set("after", strconv.FormatUint(q.Filter.From-1, 10))
	}
	if q.Filter.Before > 0 {
		query.Set("before", strconv.FormatUint(q.Filter.Before, 10))
	}
	if l.cursor != "" {
		query.Set("cursor", l.cursor)
	}
	var answer struct {
		Records []execution.Record `json:"records"`
		More    bool               `json:"more"`
		Next    string             `json:"next"`
		Indexed uint64             `json:"indexed"`
	}
	if err := l.client.get(ctx, "/v1/records?"+query.Encode(), &answer); err != nil {
		return execution.RecordPage{}, err
	}
	l.cursor = answer.Next
	return execution.RecordPage{Records: answer.Records, More: answer.More, Indexed: answer.Indexed}, nil
}

// get reads one document of the gateway. A refusal is an error.
func (c *client) get(ctx context.Context, path string, into any) error {
	got, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := got.err(); err != nil {
		return err
	}
	if err := json.Unmarshal(got.body, into); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	return nil
}

// eachRecord calls do with up to most records that are meant, page by page, and says
// whether there are more. Zero means all.
func eachRecord(ctx context.Context, from recordSource, q execution.RecordQuery, most int, do func(execution.Record) error) (more bool, err error) {
	q.Most = 200
	if resting, ok := from.(restingLog); ok && !q.Oldest {
		// Each page would read the whole log.
		q.Most = orElseInt(most, 1<<30)
		from = resting
	}
	for done := 0; ; {
		if most > 0 {
			q.Most = min(q.Most, most-done)
		}
		page, err := from.page(ctx, q)
		if err != nil {
			return false, err
		}
		for _, r := range page.Records {
			if err := do(r); err != nil {
				return false, err
			}
		}
		done += len(page.Records)
		if !page.More || most > 0 && done >= most {
			return page.More, nil
		}
		if resting, ok := from.(restingLog); ok {
			q.Filter.From, from = page.Next, resting
		}
	}
}

func orElseInt(value, other int) int {
	if value == 0 {
		return other
	}
	return value
}
