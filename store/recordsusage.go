package store

import (
	"context"
	"database/sql"
	"strings"

	"github.com/execgate/execgate/execution"
)

// outcomePrefix begins the names of the amounts that count outcomes.
const outcomePrefix = "outcome "

// amountsOf are the amounts of m by the names that are stored, which never change.
func amountsOf(m *execution.Metered) map[string]*int64 {
	return map[string]*int64{
		"denied": &m.Denied, "tool_calls": &m.ToolCalls, "sessions": &m.Sessions, "wall_ms": &m.WallMS, "cpu_ms": &m.CPUMS,
		"memory_mib_ms": &m.MemoryMiBMS, "egress_requests": &m.EgressRequests, "egress_bytes": &m.EgressBytes, "leases": &m.Leases,
	}
}

// addUsage adds what records used. A sum that is too large for SQLite stays at the
// largest number.
func addUsage(ctx context.Context, tx *sql.Tx, usage map[execution.MeterKey]*execution.Metered) error {
	if len(usage) == 0 {
		return nil
	}
	put, err := tx.PrepareContext(ctx, `INSERT INTO metered (day, tenant, subject, what, amount) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET amount = CASE WHEN amount > 9223372036854775807 - excluded.amount THEN 9223372036854775807 ELSE amount + excluded.amount END`)
	if err != nil {
		return err
	}
	defer put.Close()
	for key, m := range usage {
		add := func(what string, amount int64) error {
			if amount == 0 {
				return nil
			}
			_, err := put.ExecContext(ctx, key.Day, key.Tenant, key.Subject, what, amount)
			return err
		}
		for what, amount := range amountsOf(m) {
			if err := add(what, *amount); err != nil {
				return err
			}
		}
		for outcome, n := range m.Outcomes {
			if err := add(outcomePrefix+string(outcome), n); err != nil {
				return err
			}
		}
	}
	return nil
}

// Usage calls do with what each principal used on each day, in the order of days,
// tenants and subjects, until it returns false. Where a tenant is named, what that takes
// grows with the days that there are, and not with what others used on them.
func (r *Records) Usage(ctx context.Context, q execution.MeterQuery, do func(execution.Metered) bool) error {
	return r.reading("read usage", func(db *Store) error {
		tx, err := db.read.BeginTx(ctx, nil) // all of it is of one moment
		if err != nil {
			return err
		}
		defer tx.Rollback() // it has changed nothing
		if q.Tenant != "" {
			return usageByDay(ctx, tx, q, do)
		}
		_, err = usageOf(ctx, tx, do, "day >= ?1 AND (?2 = '' OR day <= ?2) AND (?3 = '' OR subject = ?3)", q.Since, q.Until, q.Subject)
		return err
	})
}

// usageByDay is Usage of a tenant: it goes from one day to the next that there is, and
// passes over what is of others.
func usageByDay(ctx context.Context, tx *sql.Tx, q execution.MeterQuery, do func(execution.Metered) bool) error {
	next, err := tx.PrepareContext(ctx, "SELECT day FROM metered WHERE day >= ? ORDER BY day LIMIT 1")
	if err != nil {
		return err
	}
	defer next.Close()
	for from := q.Since; ; {
		var day string
		err := next.QueryRowContext(ctx, from).Scan(&day)
		if err == sql.ErrNoRows || err == nil && q.Until != "" && day > q.Until {
			return nil
		}
		if err != nil {
			return err
		}
		where, args := "day = ? AND tenant = ?", []any{day, q.Tenant}
		if q.Subject != "" {
			where, args = where+" AND subject = ?", append(args, q.Subject)
		}
		if more, err := usageOf(ctx, tx, do, where, args...); err != nil || !more {
			return err
		}
		from = day + " " // behind it, and before the next
	}
}

// usageOf calls do with the usage for which where holds, and says whether do always
// returned true.
func usageOf(ctx context.Context, tx *sql.Tx, do func(execution.Metered) bool, where string, args ...any) (more bool, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT day, tenant, subject, what, amount FROM metered WHERE "+where+" ORDER BY day, tenant, subject", args...)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	var m execution.Metered
	for rows.Next() {
		var key execution.MeterKey
		var what string
		var amount int64
		if err := rows.Scan(&key.Day, &key.Tenant, &key.Subject, &what, &amount); err != nil {
			return false, err
		}
		if key != m.MeterKey {
			if m.Day != "" && !do(m) {
				return false, nil
			}
			m = execution.Metered{MeterKey: key, Outcomes: map[execution.Outcome]int64{}}
		}
		if outcome, ok := strings.CutPrefix(what, outcomePrefix); ok {
			m.Outcomes[execution.Outcome(outcome)] = amount
			m.Executions += amount
		} else if into := amountsOf(&m)[what]; into != nil {
			*into = amount
		}
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	return m.Day == "" || do(m), nil
}
