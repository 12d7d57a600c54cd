package gateway

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
)

// maxQueryValue bounds each value of a query, in bytes. All of them stand in the record
// about a read, and a time or a number can be written as long as one likes.
const maxQueryValue = 512

// recordsQuery is what a caller asks of the records.
type recordsQuery struct {
	execution.RecordQuery
	// asked is the query as it stands in the record about it: without what says which
	// part of the answer is wanted.
	asked   map[string]string
	follows bool // it goes on where an answer ended
}

// recordsQuery reads the query of the request. The tenant is always one that the caller
// may audit; none: all, for the operator's auditors.
func (x *exchange) recordsQuery() (recordsQuery, error) {
	f := &faults{}
	values, err := x.query(f)
	if err != nil {
		return recordsQuery{}, err
	}
	q := recordsQuery{RecordQuery: execution.RecordQuery{Most: recordsPage}, asked: map[string]string{}}
	q.Filter.Values = map[execution.TermKind]string{}
	cursor := ""
	for name, value := range values {
		switch {
		case slices.Contains(execution.TermKinds(), execution.TermKind(name)):
			if value == "" {
				f.add(pointerTo(name), "must not be empty")
			}
			q.Filter.Values[execution.TermKind(name)] = value
		case name == "since":
			q.Filter.Since = queryTime(name, value, f)
		case name == "until":
			q.Filter.Until = queryTime(name, value, f)
		case name == "after":
			q.Filter.From = queryNumber(name, value, 0, 1<<62, f) + 1
		case name == "before":
			q.Filter.Before = queryNumber(name, value, 1, 1<<62, f)
		case name == "order" && (value == "newest" || value == "oldest"):
			q.Oldest = value == "oldest"
		case name == "order":
			f.add("/order", "must be newest or oldest")
		case name == "limit":
			q.Most = int(queryNumber(name, value, 1, maxRecordsPage, f))
			continue
		case name == "cursor":
			cursor = value
			continue
		default:
			f.add(pointerTo(name), "is not a parameter of this route")
		}
		q.asked[name] = value
	}
	if err := f.err(); err != nil {
		return q, err
	}
	if tenant, ok := q.Filter.Values[execution.TermTenant]; ok && !mayAudit(x.principal, tenant) {
		return q, &execution.Error{Kind: execution.KindDenied, Code: "other_tenant", Detail: "records of another tenant are for its own auditors"}
	}
	if x.principal.Tenant != operatorTenant {
		q.Filter.Values[execution.TermTenant] = x.principal.Tenant
	}
	if cursor != "" {
		seq, err := q.seqOf(cursor)
		if err != nil {
			return q, err
		}
		q.follows = true
		if q.Oldest {
			q.Filter.From = max(q.Filter.From, seq)
		} else if q.Filter.Before == 0 || seq < q.Filter.Before {
			q.Filter.Before = seq
		}
	}
	return q, nil
}

// A cursor is a version, the place where an answer ended, and the beginning of the
// digest of the query that it is of. Whoever makes one up sees nothing that the query
// would not show: what may be seen is decided anew with each request.
const (
	cursorVersion = 1
	cursorBytes   = 1 + 8 + 8
)

// cursor returns the cursor of what follows seq in q.
func (q recordsQuery) cursor(seq uint64) string {
	raw := binary.BigEndian.AppendUint64([]byte{cursorVersion}, seq)
	return base64.RawURLEncoding.EncodeToString(append(raw, q.digest()...))
}

func (q recordsQuery) digest() []byte {
	text, _ := json.Marshal(q.asked) // a map of strings, in the order of its keys
	return []byte(execution.HexSHA256(text))[:8]
}

func (q recordsQuery) seqOf(cursor string) (uint64, error) {
	wrong := &execution.Error{
		Kind: execution.KindInvalid, Code: "cursor_invalid", Detail: "the cursor is not one of this query: ask without one, or as you did when you were given it",
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(raw) != cursorBytes || raw[0] != cursorVersion || !slices.Equal(raw[9:], q.digest()) {
		return 0, wrong
	}
	seq := binary.BigEndian.Uint64(raw[1:])
	// A newest page never ends at 0: there is nothing before it, and 0 is no bound.
	if seq > 1<<62 || seq == 0 && !q.Oldest {
		return 0, wrong
	}
	return seq, nil
}

// usageQuery reads the query of the request, of what the caller may see.
func (x *exchange) usageQuery() (q execution.MeterQuery, most int, asked map[string]string, err error) {
	f := &faults{}
	asked, err = x.query(f)
	if err != nil {
		return q, 0, nil, err
	}
	most = maxUsageRows
	for name, value := range asked {
		switch name {
		case "tenant":
			q.Tenant = value
		case "subject":
			q.Subject = value
		case "since":
			q.Since = queryDay(name, value, f)
		case "until":
			q.Until = queryDay(name, value, f)
		case "limit":
			most = int(queryNumber(name, value, 1, maxUsageRows, f))
		default:
			f.add(pointerTo(name), "is not a parameter of this route")
		}
		if (name == "tenant" || name == "subject") && value == "" {
			f.add(pointerTo(name), "must not be empty")
		}
	}
	if err := f.err(); err != nil {
		return q, 0, nil, err
	}
	p := x.principal
	if q.Tenant != "" && !mayAudit(p, q.Tenant) {
		return q, 0, nil, &execution.Error{Kind: execution.KindDenied, Code: "other_tenant", Detail: "usage of another tenant is for its own auditors"}
	}
	switch {
	case !p.Has(execution.RoleAuditor):
		if q.Tenant != "" && q.Tenant != p.Tenant || q.Subject != "" && q.Subject != p.Subject {
			return q, 0, nil, errRole(execution.RoleAuditor)
		}
		q.Tenant, q.Subject = p.Tenant, p.Subject
	case p.Tenant != operatorTenant:
		q.Tenant = p.Tenant
	}
	return q, most, asked, nil
}

// query returns the query of the request, in which each name stands once, and no value is
// long.
func (x *exchange) query(f *faults) (map[string]string, error) {
	all, err := url.ParseQuery(x.gin.Request.URL.RawQuery)
	if err != nil {
		return nil, &execution.Error{Kind: execution.KindInvalid, Code: "query_invalid", Detail: "the query of the URL cannot be read"}
	}
	values := map[string]string{}
	for name, each := range all {
		if len(each) > 1 {
			f.add(pointerTo(name), "stands twice in the query")
		}
		if len(each[0]) > maxQueryValue || !utf8.ValidString(each[0]) {
			f.addf(pointerTo(name), "must be UTF-8 of at most %d bytes", maxQueryValue)
		}
		values[name] = each[0]
	}
	return values, nil
}

// noQuery is the error of a query where there must be none.
func (x *exchange) noQuery() error {
	f := &faults{}
	values, err := x.query(f)
	for name := range values {
		f.add(pointerTo(name), "is not a parameter of this route")
	}
	if err != nil {
		return err
	}
	return f.err()
}

func queryTime(name, value string, f *faults) time.Time {
	at, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		at, err = time.Parse(time.DateOnly, value)
	}
	if err != nil || at.IsZero() {
		f.add(pointerTo(name), "must be a time such as 2026-01-31T12:00:00Z, or a day such as 2026-01-31")
	}
	return at
}

func queryDay(name, value string, f *faults) string {
	if _, err := time.Parse(time.DateOnly, value); err != nil {
		f.add(pointerTo(name), "must be a day such as 2026-01-31")
	}
	return value
}

func queryNumber(name, value string, least, most uint64, f *faults) uint64 {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n < least || n > most {
		f.addf(pointerTo(name), "must be from %d to %d", least, most)
		return least
	}
	return n
}
