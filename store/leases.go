package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

// Lease is what was asked of Vault for an execution, and has not been ended. It
// holds nothing secret.
type Lease struct {
	ID          string
	Execution   string
	Owner       execution.Owner
	Credentials []execution.Credential
	Accessor    string // empty while it is not known
	Expires     time.Time
}

// Leases remembers what has to be ended whatever happens to the process. It is safe
// for concurrent use.
type Leases struct {
	store   *Store
	batches batches
}

// NewLeases returns the leases remembered in store.
func NewLeases(store *Store) (*Leases, error) {
	if store == nil {
		return nil, errors.New("leases: no store")
	}
	return &Leases{store: store, batches: batches{store: store}}, nil
}

// Begin remembers a lease.
func (l *Leases) Begin(ctx context.Context, begun Lease) error {
	credentials := begun.Credentials
	if credentials == nil {
		credentials = []execution.Credential{}
	}
	text, err := json.Marshal(credentials)
	if err != nil {
		return fmt.Errorf("begin lease: %w", err)
	}
	err = l.batches.write(ctx, statement{
		"INSERT INTO leases (id, execution, tenant, subject, credentials, accessor, expires_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
		[]any{begun.ID, begun.Execution, begun.Owner.Tenant, begun.Owner.Subject, string(text), begun.Accessor, begun.Expires.UnixMilli()},
	})
	if err != nil {
		return fmt.Errorf("begin lease: %w", err)
	}
	return nil
}

// Hold remembers the accessor of the lease called id.
func (l *Leases) Hold(ctx context.Context, id, accessor string) error {
	err := l.batches.write(ctx, statement{"UPDATE leases SET accessor = ? WHERE id = ?", []any{accessor, id}})
	if err != nil {
		return fmt.Errorf("hold lease: %w", err)
	}
	return nil
}

// End forgets the lease called id. Unlike everything else here it is durable only
// with the next write, or Flush: ending again what is ended harms nobody, and costs
// less than a sync for each.
func (l *Leases) End(ctx context.Context, id string) error {
	if err := l.batches.put(ctx, statement{"DELETE FROM leases WHERE id = ?", []any{id}}); err != nil {
		return fmt.Errorf("end lease: %w", err)
	}
	return nil
}

// Flush makes every End durable.
func (l *Leases) Flush(ctx context.Context) error {
	if err := l.batches.write(ctx); err != nil {
		return fmt.Errorf("end leases: %w", err)
	}
	return nil
}

// Open returns the leases that have not been ended, oldest first.
func (l *Leases) Open(ctx context.Context) ([]Lease, error) {
	if err := l.Flush(ctx); err != nil {
		return nil, err
	}
	rows, err := l.store.read.QueryContext(ctx, "SELECT id, execution, tenant, subject, credentials, accessor, expires_ms FROM leases ORDER BY n")
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	defer rows.Close()
	var open []Lease
	for rows.Next() {
		var one Lease
		var credentials string
		var expires int64
		if err := rows.Scan(&one.ID, &one.Execution, &one.Owner.Tenant, &one.Owner.Subject, &credentials, &one.Accessor, &expires); err != nil {
			return nil, fmt.Errorf("read leases: %w", err)
		}
		if err := json.Unmarshal([]byte(credentials), &one.Credentials); err != nil {
			return nil, fmt.Errorf("read leases: credentials of %s: %w", one.ID, err)
		}
		one.Expires = time.UnixMilli(expires).UTC()
		open = append(open, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}
	return open, nil
}
