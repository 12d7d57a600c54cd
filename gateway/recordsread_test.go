package gateway_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// archive is gateway.Records over a few records, and says what it was asked.
type archive struct {
	records []execution.Record
	rows    []execution.Metered
	fail    error
	asked   []execution.RecordQuery
	metered []execution.MeterQuery
}

func (s *archive) Find(_ context.Context, q execution.RecordQuery) (execution.RecordPage, error) {
	s.asked = append(s.asked, q)
	page := execution.RecordPage{Indexed: uint64(len(s.records))}
	all := slices.Clone(s.records)
	if !q.Oldest {
		slices.Reverse(all)
	}
	for _, r := range all {
		if !q.Filter.Matches(r) {
			continue
		}
		if len(page.Records) == q.Most {
			page.More = true
			break
		}
		page.Records = append(page.Records, r)
	}
	if page.Next = page.Indexed; page.More {
		page.Next = page.Records[q.Most-1].Seq
		if q.Oldest {
			page.Next++
		}
	}
	return page, s.fail
}

func (s *archive) Record(_ context.Context, seq uint64) (execution.Record, error) {
	if s.fail != nil {
		return execution.Record{}, s.fail
	}
	if seq < uint64(len(s.records)) {
		return s.records[seq], nil
	}
	return execution.Record{}, &execution.Error{Kind: execution.KindNotFound, Code: "record_not_found", Detail: "there is no such record"}
}

func (s *archive) Usage(_ context.Context, q execution.MeterQuery, most int) (rows []execution.Metered, more bool, err error) {
	s.metered = append(s.metered, q)
	for _, row := range s.rows {
		if q.Means(row.MeterKey) {
			rows = append(rows, row)
		}
	}
	return rows[:min(most, len(rows))], len(rows) > most, s.fail
}

// shelved are records of two tenants in turns.
func shelved(n int) *archive {
	s := &archive{}
	for i := range n {
		tenant := []string{"acme", "umbrella"}[i%2]
		s.records = append(s.records, execution.Record{
			Seq: uint64(i), Type: execution.RecordDecided, Time: time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC), Execution: fmt.Sprintf("ex_%s_%d", tenant, i),
			Principal: &execution.Principal{Tenant: tenant, Subject: "ak_" + tenant},
			Decided:   &execution.Decided{Decision: execution.Decision{Effect: execution.EffectAllow}},
		})
	}
	for _, tenant := range []string{"acme", "umbrella"} {
		for _, subject := range []string{"ak_caller", "ak_other"} {
			s.rows = append(s.rows, execution.Metered{MeterKey: execution.MeterKey{Day: "2026-01-01", Tenant: tenant, Subject: subject}, Executions: 1})
		}
	}
	return s
}

func serveRecords(t *testing.T, s gateway.Records) *site {
	return serve(t, newWorld(), func(c *gateway.Config) { c.Records = s })
}

type recordsAnswer struct {
	Records []execution.Record `json:"records"`
	More    bool               `json:"more"`
	Next    string             `json:"next"`
	Indexed uint64             `json:"indexed"`
}

func (s *site) listRecords(query, token string) (got recordsAnswer) {
	s.t.Helper()
	a := s.do("GET", "/v1/records?"+query, token, "")
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.StatusCode != 200 {
		s.t.Fatalf("%s: %d %s", query, a.StatusCode, a.body)
	}
	return got
}

// reads are the records of reads so far.
func (s *site) reads() (all []execution.AuditRead) {
	for _, r := range s.recorded() {
		if r.Type == execution.RecordAuditRead {
			all = append(all, *r.AuditRead)
		}
	}
	return all
}

// A read is recorded, with who read and what was asked, before it is answered; the
// pages that follow are not, and other queries are.
func TestReadsAreRecordedBeforeTheyAreAnswered(t *testing.T) {
	s := serveRecords(t, shelved(100))
	got := s.listRecords("tenant=acme&limit=20&type=decided", "auditor/default")
	want := execution.AuditRead{What: "records", Filter: map[string]string{"tenant": "acme", "type": "decided"}, Count: 20, More: true, Effect: "allow", Reasons: []execution.Reason{}, Revision: "sha256:rev"}
	if diff := cmp.Diff([]execution.AuditRead{want}, s.reads()); diff != "" {
		t.Fatal(diff)
	}
	if r := s.recorded()[0]; r.Principal.Subject != "ak_auditor" || r.RequestID == "" || execution.OwnerOf(r) != "default" {
		t.Errorf("%+v", r)
	}
	pages := 1
	for ; got.More; pages++ {
		got = s.listRecords("tenant=acme&limit=20&type=decided&cursor="+got.Next, "auditor/default")
	}
	if pages != 3 || len(s.reads()) != 1 {
		t.Errorf("%d pages, and %d records of reads", pages, len(s.reads()))
	}
	// Whoever made the cursor: this caller's own query was not recorded.
	first := s.listRecords("tenant=acme&limit=20&type=decided", "auditor/acme")
	s.listRecords("tenant=acme&limit=20&type=decided&cursor="+first.Next, "admin/acme")
	s.listRecords("type=decided", "auditor/default")
	if n := len(s.reads()); n != 4 {
		t.Errorf("%d records of reads", n)
	}
	s.do("GET", "/v1/records/7", "auditor/default", "")
	s.do("GET", "/v1/records/7", "auditor/acme", "")
	s.do("GET", "/v1/usage?since=2026-01-01", "auditor/default", "")
	if diff := cmp.Diff([]execution.AuditRead{
		{What: "record", Filter: map[string]string{"seq": "7"}, Count: 1, Effect: "allow", Reasons: []execution.Reason{}, Revision: "sha256:rev"},
		{What: "record", Filter: map[string]string{"seq": "7"}, Effect: "allow", Reasons: []execution.Reason{}, Revision: "sha256:rev"},
		{What: "usage", Filter: map[string]string{"since": "2026-01-01"}, Count: 4, Effect: "allow", Reasons: []execution.Reason{}, Revision: "sha256:rev"},
	}, s.reads()[4:]); diff != "" {
		t.Error(diff)
	}

	s.append = func(context.Context, execution.Record) error { return errors.New("full") }
	for _, path := range []string{"/v1/records", "/v1/records/7", "/v1/usage"} {
		if a := s.do("GET", path, "auditor/default", ""); a.StatusCode != 503 || a.problem(t).Code != "audit_unavailable" || strings.Contains(a.body, "ex_") {
			t.Errorf("%s while the log is full: %d %s", path, a.StatusCode, a.body)
		}
	}
}

// Policy is asked about each read by an auditor, as who asks. What is no allow is
// recorded, and shows nothing; it is the same whatever would have been found.
func TestPolicyDecidesWhoReads(t *testing.T) {
	denial := execution.Reason{Code: "local", Rule: "local.audit", Message: "not today"}
	answers := map[string]execution.Decision{
		"deny":     execution.Deny("sha256:rev", denial),
		"approval": {Effect: execution.EffectRequireApproval, Reasons: []execution.Reason{denial}},
		"nothing":  {},
		"unknown":  {Effect: "perhaps"},
	}
	for name, answer := range answers {
		s := serveRecords(t, shelved(10))
		var asked execution.Question
		s.decide = func(q execution.Question) execution.Decision { asked = q; return answer }
		for n, path := range []string{"/v1/records", "/v1/records/1", "/v1/records/1000", "/v1/usage"} {
			a := s.do("GET", path, "auditor/default", "")
			if a.StatusCode != 403 || strings.Contains(a.body, "ex_") || len(a.problem(t).Reasons) == 0 {
				t.Errorf("%s: %s: %d %s", name, path, a.StatusCode, a.body)
			}
			if asked.Action != execution.ActionAuditRead || asked.Principal.Subject != "ak_auditor" || asked.ID != a.Header.Get("X-Request-Id") {
				t.Errorf("asked %+v", asked)
			}
			reads := s.reads()
			if len(reads) != n+1 || reads[n].Effect != execution.EffectDeny || len(reads[n].Reasons) == 0 || reads[n].Count != 0 {
				t.Errorf("%s: %s: recorded %+v", name, path, reads)
			}
		}
		if a := s.do("GET", "/v1/usage", "caller/acme", ""); a.StatusCode != 200 {
			t.Errorf("one's own usage: %d %s", a.StatusCode, a.body)
		}
	}
	s := serveRecords(t, shelved(10))
	s.decide = func(execution.Question) execution.Decision {
		return execution.Deny("", execution.Reason{Code: execution.CodePolicyTimeout})
	}
	if a := s.do("GET", "/v1/records", "auditor/default", ""); a.StatusCode != 503 {
		t.Errorf("without an answer: %d %s", a.StatusCode, a.body)
	}
	s.decide = func(execution.Question) execution.Decision { panic("no") }
	if a := s.do("GET", "/v1/records", "auditor/default", ""); a.StatusCode != 403 {
		t.Errorf("with a panic: %d %s", a.StatusCode, a.body)
	}
}

// An auditor sees the own tenant's and no other's, whatever is asked for; the
// operator's auditors see all.
func TestRecordsOfOtherTenantsAreNotThere(t *testing.T) {
	shelf := shelved(100)
	s := serveRecords(t, shelf)
	for _, query := range []string{"", "tenant=acme", "order=oldest", "subject=ak_umbrella", "execution=ex_umbrella_1", "after=0&before=90", "limit=200"} {
		a := s.do("GET", "/v1/records?"+query, "auditor/acme", "")
		if a.StatusCode != 200 || strings.Contains(a.body, "umbrella") {
			t.Errorf("%q: %d %.200s", query, a.StatusCode, a.body)
		}
	}
	for path, token := range map[string]string{
		"/v1/records?tenant=umbrella":                "auditor/acme",
		"/v1/records?tenant=default":                 "auditor/acme",
		"/v1/usage?tenant=umbrella":                  "auditor/acme",
		"/v1/usage?tenant=umbrella&limit=1":          "caller/acme",
		"/v1/usage?subject=ak_other":                 "caller/acme",
		"/v1/usage?tenant=umbrella&subject=ak_other": "caller/default",
	} {
		if a := s.do("GET", path, token, ""); a.StatusCode != 403 {
			t.Errorf("%s as %s: %d %s", path, token, a.StatusCode, a.body)
		}
	}
	other, missing := s.do("GET", "/v1/records/1", "auditor/acme", ""), s.do("GET", "/v1/records/1000", "auditor/acme", "")
	strip := func(a answer) string { return strings.ReplaceAll(a.body, a.Header.Get("X-Request-Id"), "") }
	if other.StatusCode != 404 || strip(other) != strip(missing) {
		t.Errorf("another's: %s\nmissing: %s", other.body, missing.body)
	}
	if a := s.do("GET", "/v1/records/0", "auditor/acme", ""); a.StatusCode != 200 || !strings.Contains(a.body, "ex_acme_0") {
		t.Errorf("own: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("GET", "/v1/records/1", "auditor/default", ""); a.StatusCode != 200 || !strings.Contains(a.body, "ex_umbrella_1") {
		t.Errorf("as the operator: %d %s", a.StatusCode, a.body)
	}
	// A cursor of another tenant's query shows no more.
	theirs := s.listRecords("limit=3", "auditor/umbrella")
	for _, r := range s.listRecords("limit=3&cursor="+theirs.Next, "auditor/acme").Records {
		if execution.OwnerOf(r) != "acme" {
			t.Errorf("%+v", r)
		}
	}
	if n := len(s.listRecords("limit=200", "auditor/default").Records); n != 100 {
		t.Errorf("the operator sees %d records", n)
	}

	usage := func(query, token string) string {
		var got struct{ Usage []execution.Metered }
		a := s.do("GET", "/v1/usage?"+query, token, "")
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		var seen []string
		for _, m := range got.Usage {
			seen = append(seen, m.Tenant+"/"+m.Subject)
		}
		return strings.Join(seen, " ")
	}
	before := len(s.reads())
	for _, c := range []struct{ query, token, want string }{
		{"", "caller/acme", "acme/ak_caller"},
		{"tenant=acme&subject=ak_caller", "caller/acme", "acme/ak_caller"},
		{"", "auditor/acme", "acme/ak_caller acme/ak_other"},
		{"tenant=umbrella", "auditor/default", "umbrella/ak_caller umbrella/ak_other"},
		{"since=2026-01-02", "auditor/default", ""},
	} {
		if got := usage(c.query, c.token); got != c.want {
			t.Errorf("usage %q as %s: %s", c.query, c.token, got)
		}
	}
	if n := len(s.reads()) - before; n != 3 { // one's own is nobody's log
		t.Errorf("%d records of reads", n)
	}
}

func TestRecordsPaging(t *testing.T) {
	shelf := shelved(100)
	s := serveRecords(t, shelf)
	for _, order := range []string{"newest", "oldest"} {
		var seqs []uint64
		got := s.listRecords("limit=7&order="+order, "auditor/acme")
		for {
			for _, r := range got.Records {
				seqs = append(seqs, r.Seq)
			}
			if !got.More {
				break
			}
			got = s.listRecords("limit="+fmt.Sprint(1+len(seqs)%9)+"&order="+order+"&cursor="+got.Next, "auditor/acme")
		}
		if order == "newest" {
			slices.Reverse(seqs)
		}
		if len(seqs) != 50 || !slices.IsSorted(seqs) || len(slices.Compact(seqs)) != 50 {
			t.Errorf("%s first: %v", order, seqs)
		}
		if (got.Next == "") != (order == "newest") {
			t.Errorf("%s first: the last page's cursor is %q", order, got.Next)
		}
		if order == "oldest" { // and on, with what comes
			shelf.records = append(shelf.records, shelved(102).records[100:]...)
			if on := s.listRecords("order=oldest&cursor="+got.Next, "auditor/acme"); len(on.Records) != 1 || on.Records[0].Seq != 100 {
				t.Errorf("what came: %+v", on)
			}
		}
	}
}

// A cursor that is not the gateway's, or of another query, is refused.
func TestCursorsAreOfTheirQuery(t *testing.T) {
	s := serveRecords(t, shelved(100))
	cursor := s.listRecords("limit=5&type=decided", "auditor/acme").Next
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(raw []byte) []byte) string {
		return base64.RawURLEncoding.EncodeToString(change(slices.Clone(raw)))
	}
	queries := map[string]string{
		"another filter":  "type=ended&cursor=" + cursor,
		"no filter":       "cursor=" + cursor,
		"another order":   "type=decided&order=oldest&cursor=" + cursor,
		"another version": "type=decided&cursor=" + with(func(raw []byte) []byte { raw[0]++; return raw }),
		"zero":            "type=decided&cursor=" + with(func(raw []byte) []byte { clear(raw[1:9]); return raw }),
		"huge":            "type=decided&cursor=" + with(func(raw []byte) []byte { raw[1] = 0xff; return raw }),
		"another digest":  "type=decided&cursor=" + with(func(raw []byte) []byte { raw[16] ^= 1; return raw }),
		"short":           "type=decided&cursor=" + with(func(raw []byte) []byte { return raw[:16] }),
		"long":            "type=decided&cursor=" + with(func(raw []byte) []byte { return append(raw, 0) }),
		"not base64":      "type=decided&cursor=" + url.QueryEscape("%%%"),
		"text":            "type=decided&cursor=" + url.QueryEscape("' OR 1=1 --"),
	}
	for name, query := range queries {
		if a := s.do("GET", "/v1/records?"+query, "auditor/acme", ""); a.StatusCode != 400 || a.problem(t).Code != "cursor_invalid" {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	// A place of its own choice shows nothing more than the query does.
	forged := s.listRecords("type=decided&cursor="+with(func(raw []byte) []byte { raw[8] ^= 3; return raw }), "auditor/acme")
	for _, r := range forged.Records {
		if execution.OwnerOf(r) != "acme" {
			t.Errorf("%+v", r)
		}
	}
}

func TestWrongRecordQueries(t *testing.T) {
	shelf := shelved(10)
	s := serveRecords(t, shelf)
	for query, pointer := range map[string]string{
		"nobody=1":                         "/nobody",
		"type=":                            "/type",
		"type=decided&type=ended":          "/type",
		"host=" + strings.Repeat("x", 513): "/host",
		"host=%ff":                         "/host",
		"since=yesterday":                  "/since",
		"since=2026-01-01T00:00:00." + strings.Repeat("1", 600) + "Z": "/since",
		"after=" + strings.Repeat("0", 600) + "1":                     "/after",
		"until=2026-02-30":            "/until",
		"after=-1":                    "/after",
		"before=0":                    "/before",
		"before=99999999999999999999": "/before",
		"order=random":                "/order",
		"limit=0":                     "/limit",
		"limit=201":                   "/limit",
		"~a/b=1":                      "/~0a~1b",
	} {
		a := s.do("GET", "/v1/records?"+query, "auditor/acme", "")
		if p := a.problem(t); a.StatusCode != 400 || len(p.Errors) != 1 || p.Errors[0].Pointer != pointer {
			t.Errorf("%s: %d %s", query, a.StatusCode, a.body)
		}
	}
	for _, path := range []string{"/v1/usage?since=2026", "/v1/usage?limit=0", "/v1/usage?x=1", "/v1/usage?tenant=", "/v1/usage?limit=" + strings.Repeat("0", 600) + "1", "/v1/records/1?x=1", "/v1/records?%zz"} {
		if a := s.do("GET", path, "auditor/acme", ""); a.StatusCode != 400 {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	for _, seq := range []string{"x", "-1", "01", "1.0", "+1", "18446744073709551616", "9223372036854775808", "%00"} {
		if a := s.do("GET", "/v1/records/"+seq, "auditor/acme", ""); a.StatusCode != 404 {
			t.Errorf("record %s: %d %s", seq, a.StatusCode, a.body)
		}
	}
	if len(shelf.asked) > 0 || len(s.reads()) > 0 {
		t.Errorf("asked %v, recorded %v", shelf.asked, s.reads())
	}
	// What is right arrives as it was meant.
	s.do("GET", "/v1/records?since=2026-01-31&until=2026-02-01T10:00:00%2B02:00&after=5&before=9&order=oldest&limit=3&host=a.example&key=ak_1", "auditor/acme", "")
	want := execution.RecordQuery{Oldest: true, Most: 3, Filter: execution.RecordFilter{
		Values: map[execution.TermKind]string{"tenant": "acme", "host": "a.example", "key": "ak_1"},
		Since:  time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 2, 1, 8, 0, 0, 0, time.UTC), From: 6, Before: 9,
	}}
	if diff := cmp.Diff([]execution.RecordQuery{want}, shelf.asked); diff != "" {
		t.Error(diff)
	}
}

// What fails says nothing of how.
func TestRecordsThatCannotBeSearched(t *testing.T) {
	shelf := shelved(3)
	shelf.fail = errors.New("open /var/lib/execgate/index.db")
	s := serveRecords(t, shelf)
	none := serve(t, newWorld(), nil)
	for _, path := range []string{"/v1/records", "/v1/records/1", "/v1/usage"} {
		for _, s := range []*site{s, none} {
			if a := s.do("GET", path, "auditor/default", ""); a.StatusCode != 503 || a.problem(t).Code != "records_unavailable" || strings.Contains(a.body, "/var") {
				t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
			}
		}
	}
}

// An answer is bounded in bytes, too; the rest is on the next page.
func TestRecordsAnswerIsBounded(t *testing.T) {
	shelf := shelved(40)
	for i := range shelf.records {
		shelf.records[i].Decided.Metadata = map[string]string{"purpose": strings.Repeat("x", 1<<20)}
	}
	s := serveRecords(t, shelf)
	var seqs []uint64
	query := "limit=200&order=oldest"
	for got := s.listRecords(query, "auditor/default"); ; got = s.listRecords(query+"&cursor="+got.Next, "auditor/default") {
		if n := len(got.Records); n > 8 {
			t.Fatalf("%d records of 1 MiB", n)
		}
		for _, r := range got.Records {
			seqs = append(seqs, r.Seq)
		}
		if !got.More {
			break
		}
	}
	if len(seqs) != 40 || !slices.IsSorted(seqs) || len(slices.Compact(seqs)) != 40 {
		t.Errorf("%v", seqs)
	}
}
