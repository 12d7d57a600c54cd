package egress

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
)

// defaultRecordBudget is how long one record may take to become durable, unless the
// configuration says otherwise.
const defaultRecordBudget = 2 * time.Second

// unreadyAfterFailure is how long the broker calls itself unready after a record
// failed, unless one goes well in the meantime. It then offers itself, because
// nothing but work shows whether the log has recovered.
const unreadyAfterFailure = 30 * time.Second

// The bounds of what a program, or a policy, chose of a record, in bytes.
const (
	maxRecordHost   = 256
	maxRecordMethod = 32
	maxRecordPath   = 1 << 10
	maxRecordCode   = 128
)

// Recorder is the audit log.
type Recorder interface {
	// Append returns the record's sequence number once the record is durable. It
	// returns when ctx ends, whatever the disk does.
	Append(ctx context.Context, r execution.Record) (uint64, error)
}

// records writes the records of what leaves sandboxes.
type records struct {
	recorder Recorder
	log      *slog.Logger
	// budget is how long one record may take to become durable. It does not shrink
	// with the execution: one that ends does not cost a record.
	budget   time.Duration
	failures atomic.Uint64
	// failed is when an append last failed, in Unix nanoseconds; zero where the
	// last one went well.
	failed atomic.Int64
}

// append makes a record durable. A failure is logged here.
func (w *records) append(ctx context.Context, r execution.Record) (uint64, error) {
	r.Time = time.Now().UTC()
	within, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.budget)
	defer cancel()
	seq, err := w.recorder.Append(within, r)
	if err != nil {
		w.failures.Add(1)
		w.failed.Store(time.Now().UnixNano())
		w.log.ErrorContext(ctx, "egress is not recorded", "execution", r.Execution, "record", r.Type, "error", err)
		return 0, fmt.Errorf("append %s record: %w", r.Type, err)
	}
	w.failed.Store(0)
	return seq, nil
}

// allowed records that address is about to be connected to; of what the gateway answers
// itself there is none. q and binding are of a request.
func (w *records) allowed(ctx context.Context, job *execution.Job, d destination, q question, binding string, address netip.AddrPort) (uint64, error) {
	decided := d.decided(q)
	decided.Effect, decided.Binding = execution.EffectAllow, binding
	if address.IsValid() {
		decided.Address = address.String()
	}
	record := job.Record(execution.RecordEgressDecided)
	record.EgressDecided = decided
	return w.append(ctx, record)
}

func (w *records) denied(ctx context.Context, job *execution.Job, d destination, q question, code string) {
	decided := d.decided(q)
	decided.Effect, decided.Code = execution.EffectDeny, clip(code, maxRecordCode)
	record := job.Record(execution.RecordEgressDecided)
	record.EgressDecided = decided
	_, _ = w.append(ctx, record) // it is denied all the same, and append has logged it
}

// decided is what records say of a destination, and of a request to it.
func (d destination) decided(q question) *execution.EgressDecided {
	decided := &execution.EgressDecided{
		Host: d.host, Port: d.port, Mode: d.rule.Mode, Method: clip(q.method, maxRecordMethod), Path: clip(q.path, maxRecordPath),
		Cut: len(q.method) > maxRecordMethod || len(q.path) > maxRecordPath,
	}
	if q.method != "" {
		decided.Rule = d.rule.Host
	}
	return decided
}

func (w *records) ended(ctx context.Context, job *execution.Job, e execution.EgressEnded) {
	record := job.Record(execution.RecordEgressEnded)
	record.EgressEnded = &e
	_, _ = w.append(ctx, record) // there is nothing left to stop, and append has logged it
}

func (w *records) ready() error {
	if at := w.failed.Load(); at != 0 && time.Since(time.Unix(0, at)) < unreadyAfterFailure {
		return &execution.Error{Kind: execution.KindUnavailable, Code: "audit_unavailable", Detail: "a record of egress could not be written"}
	}
	return nil
}

// printable returns host as it may stand in a record, where it has no normal form.
func printable(host string) string { return clip(host, maxRecordHost) }

// clip cuts text that a record has.
func clip(text string, most int) string {
	if len(text) > most {
		text = text[:most]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
