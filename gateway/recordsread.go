package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// Records finds records of the audit log, and what usage adds up to in it.
type Records interface {
	// Find returns what q asks for. All of it is what the log has now.
	Find(ctx context.Context, q execution.RecordQuery) (execution.RecordPage, error)
	// Record fails with KindNotFound, record_not_found.
	Record(ctx context.Context, seq uint64) (execution.Record, error)
	// Usage returns at most `most` rows, in the order of their keys, and whether
	// there are more.
	Usage(ctx context.Context, q execution.MeterQuery, most int) (rows []execution.Metered, more bool, err error)
}

// The bounds of one answer of records.
const (
	maxRecordsPage   = 200
	recordsPage      = 50 // where no limit is asked for
	maxRecordsAnswer = 8 << 20
	maxUsageRows     = 1000
)

// listRecords is GET /v1/records: those of the caller's tenant, and for the operator's
// auditors those of all.
func (g *Gateway) listRecords(x *exchange) error {
	query, err := x.recordsQuery()
	if err != nil {
		return err
	}
	read, err := g.mayRead(x, execution.ReadRecords, query.asked)
	if err != nil {
		return err
	}
	return g.reading(x, func() error {
		page, err := g.config.Records.Find(x.ctx(), query.RecordQuery)
		if err != nil {
			return errRecords(err)
		}
		records := make([]json.RawMessage, 0, len(page.Records))
		bytes := 0
		for i, r := range page.Records {
			text, err := json.Marshal(r)
			if err != nil {
				return internal("encode record", err)
			}
			if bytes += len(text); bytes > maxRecordsAnswer && i > 0 {
				page.More, page.Next = true, page.Records[i-1].Seq
				if query.Oldest {
					page.Next++
				}
				break
			}
			records = append(records, text)
		}
		read.Count, read.More = len(records), page.More
		if err := g.recordRead(x, read, query.follows); err != nil {
			return err
		}
		answer := struct {
			Records []json.RawMessage `json:"records"`
			More    bool              `json:"more"`           // there are further ones now
			Next    string            `json:"next,omitempty"` // the cursor of what follows
			Indexed uint64            `json:"indexed"`        // the first number that cannot be found yet
		}{Records: records, More: page.More, Indexed: page.Indexed}
		if page.More || query.Oldest {
			answer.Next = query.cursor(page.Next)
		}
		return x.writeJSON(http.StatusOK, answer)
	})
}

// showRecord is GET /v1/records/{seq}. A record of another tenant is not there.
func (g *Gateway) showRecord(x *exchange) error {
	if err := x.noQuery(); err != nil {
		return err
	}
	notFound := &execution.Error{Kind: execution.KindNotFound, Code: "record_not_found", Detail: "there is no such record"}
	text := x.gin.Param("seq")
	seq, err := strconv.ParseUint(text, 10, 63)
	if err != nil || strconv.FormatUint(seq, 10) != text {
		return notFound
	}
	read, err := g.mayRead(x, execution.ReadRecord, map[string]string{"seq": text})
	if err != nil {
		return err
	}
	return g.reading(x, func() error {
		r, err := g.config.Records.Record(x.ctx(), seq)
		found := err == nil && mayAudit(x.principal, execution.OwnerOf(r))
		if err != nil && execution.KindOf(err) != execution.KindNotFound {
			return errRecords(err)
		}
		if found {
			read.Count = 1
		}
		if err := g.recordRead(x, read, false); err != nil {
			return err
		}
		if !found {
			return notFound
		}
		x.execution = r.Execution
		return x.writeJSON(http.StatusOK, r)
	})
}

// mayAudit reports whether an auditor may read what is the tenant's.
func mayAudit(p execution.Principal, tenant string) bool {
	return p.Tenant == operatorTenant || p.Tenant == tenant
}

// showUsage is GET /v1/usage: for auditors that of their tenant, for others their own.
func (g *Gateway) showUsage(x *exchange) error {
	query, most, asked, err := x.usageQuery()
	if err != nil {
		return err
	}
	var read execution.AuditRead
	audits := x.principal.Has(execution.RoleAuditor)
	if audits { // one's own is nobody's log
		if read, err = g.mayRead(x, execution.ReadUsage, asked); err != nil {
			return err
		}
	}
	return g.reading(x, func() error {
		rows, more, err := g.config.Records.Usage(x.ctx(), query, most)
		if err != nil {
			return errRecords(err)
		}
		if audits {
			read.Count, read.More = len(rows), more
			if err := g.recordRead(x, read, false); err != nil {
				return err
			}
		}
		return x.writeJSON(http.StatusOK, struct {
			Usage []execution.Metered `json:"usage"`
			More  bool                `json:"more"` // ask for fewer days
		}{array(rows), more})
	})
}

// reading calls read where there is something to read, and few do so already.
func (g *Gateway) reading(x *exchange, read func() error) error {
	if g.config.Records == nil {
		return &execution.Error{Kind: execution.KindUnavailable, Code: "records_unavailable", Detail: "this gateway has no index of its records"}
	}
	tenant := x.principal.Tenant
	if !g.searches.take(tenant) {
		return errTooManyReaders()
	}
	defer g.searches.give(tenant)
	return read()
}

// mayRead asks policy whether the caller may read what is asked for, and returns what
// there is to record about it. A denial is recorded, and an error.
func (g *Gateway) mayRead(x *exchange, what string, asked map[string]string) (execution.AuditRead, error) {
	d := g.config.Service.decideRead(x.ctx(), execution.Question{
		ID: x.requestID, Time: time.Now(), TraceID: x.traceID, Principal: x.principal, Action: execution.ActionAuditRead,
	})
	read := execution.AuditRead{What: what, Filter: asked, Effect: d.Effect, Reasons: d.Reasons, Warnings: slices.Concat(d.Warnings, d.Shadowed), Revision: d.Revision}
	if d.Allowed() {
		return read, nil
	}
	if err := g.recordRead(x, read, false); err != nil {
		return read, err
	}
	return read, denied(d)
}

// decideRead asks policy about reading the log. Nothing but an explicit allow allows.
func (s *Service) decideRead(ctx context.Context, q execution.Question) execution.Decision {
	d, err := s.ask(ctx, q)
	if err != nil {
		return execution.Deny("", execution.Reason{Code: execution.CodePolicyError, Message: "the policy could not be evaluated"})
	}
	d.Reasons, d.Revision = boundReasons(d.Reasons, maxReasonsBytes), cut(d.Revision, maxPolicyName)
	d.Warnings, d.Shadowed = boundWarnings(d.Warnings), boundWarnings(d.Shadowed)
	if !d.Allowed() && d.Effect != execution.EffectDeny {
		return refuse(d, execution.CodePolicyInvalid, "the policy did not allow this, and it cannot wait for anything")
	}
	return d
}

// recordRead records that the log was read, before that is answered. A page that
// follows one of the same query has no record of its own where that has one which is
// younger than readInterval.
func (g *Gateway) recordRead(x *exchange, read execution.AuditRead, follows bool) error {
	id, err := json.Marshal([]any{x.principal.Tenant, x.principal.Subject, read.What, read.Effect, read.Filter})
	if err != nil {
		return internal("encode a query", err)
	}
	key := execution.HexSHA256(id)
	if follows && g.reads.recent(key, time.Now()) {
		return nil
	}
	if _, err := g.appendRead(x, read); err != nil {
		return err
	}
	g.reads.note(key, time.Now())
	return nil
}

// appendRead makes the record of a read, and returns its number.
func (g *Gateway) appendRead(x *exchange, read execution.AuditRead) (seq uint64, err error) {
	principal := x.principal
	return g.records.append(x.ctx(), execution.Record{
		Type: execution.RecordAuditRead, Principal: &principal, RequestID: x.requestID, TraceID: x.traceID, AuditRead: &read,
	})
}

// readInterval is how long the record of a read stands for the pages that follow.
const readInterval = time.Minute

// maxReads bounds the reads that are remembered: where there are more, some are
// recorded again.
const maxReads = 10_000

// reads remembers which reads were recorded lately.
type reads struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (r *reads) recent(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.at[key]
	return ok && now.Sub(at) < readInterval
}

func (r *reads) note(key string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.at) >= maxReads {
		for old, at := range r.at {
			if now.Sub(at) >= readInterval {
				delete(r.at, old)
			}
		}
		if len(r.at) >= maxReads {
			clear(r.at)
		}
	}
	if r.at == nil {
		r.at = map[string]time.Time{}
	}
	r.at[key] = now
}

// errRecords is the error of Records that failed: an execution.Error as it is, and
// any other as one that trying again may help.
func errRecords(err error) error {
	if _, ok := errors.AsType[*execution.Error](err); ok {
		return err
	}
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: "records_unavailable", Detail: "the records cannot be searched now", RetryAfter: 5 * time.Second, Err: err,
	}
}
