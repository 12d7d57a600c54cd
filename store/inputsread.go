package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/execgate/execgate/execution"
)

// InputsReader reads inputs, and changes nothing. It is safe for concurrent use.
type InputsReader struct {
	store *Store
	keys  *inputKeys
}

// OpenInputs reads the inputs of another process, which may be writing them.
func OpenInputs(ctx context.Context, path, keyFile string) (*InputsReader, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open recorded inputs: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open recorded inputs: %w", err)
	}
	keys, err := openInputKeys(keyFile, false)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", dsn(path, true))
	if err != nil {
		return nil, fmt.Errorf("open recorded inputs: %w", err)
	}
	db.SetMaxOpenConns(readers)
	r := &InputsReader{store: &Store{read: db}, keys: keys}
	var version, application int
	err = errors.Join(
		db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version),
		db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&application),
	)
	switch {
	case err != nil:
	case application != applicationID:
		err = errors.New("it is a database of another program")
	case version != len(migrations):
		err = fmt.Errorf("its schema has version %d and this program's is %d: use the version of execgate that writes it", version, len(migrations))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open recorded inputs %s: %w", path, err), r.Close())
	}
	return r, nil
}

// Close closes a reader of OpenInputs.
func (r *InputsReader) Close() error { return r.store.Close() }

// InputGroup are the inputs that were decided by the same policies.
type InputGroup struct {
	Revisions Revisions
	Tenant    string // whose Revisions.Own is; empty where that is
	Count     int64  // of inputs, erased ones included
}

// Span is a time from and until, which is not part of it.
type Span struct{ From, Until time.Time }

// Groups returns the groups of inputs of a time, so that those that differ least
// stand beside each other.
func (r *InputsReader) Groups(ctx context.Context, span Span) ([]InputGroup, error) {
	rows, err := r.store.read.QueryContext(ctx, "SELECT organisation, terms, own, CASE own WHEN '' THEN '' ELSE tenant END AS owner, count(*) FROM inputs "+
		"WHERE at_ms >= ? AND at_ms < ? GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 4, 3", span.From.UnixMilli(), span.Until.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("read groups of inputs: %w", err)
	}
	defer rows.Close()
	var groups []InputGroup
	for rows.Next() {
		var g InputGroup
		if err := rows.Scan(&g.Revisions.Organisation, &g.Revisions.Terms, &g.Revisions.Own, &g.Tenant, &g.Count); err != nil {
			return nil, fmt.Errorf("read groups of inputs: %w", err)
		}
		groups = append(groups, g)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read groups of inputs: %w", err)
	}
	return groups, nil
}

// SealedInput is an input that has not been decrypted.
type SealedInput struct {
	Input // without Asked, Answered and Documents

	reader          *InputsReader
	key             int64
	wrapped, sealed []byte
}

// Open decrypts an input. It is an error of KindGone, input_erased or
// input_unreadable, where that cannot be done. It may be called concurrently.
func (s *SealedInput) Open(ctx context.Context) (Input, error) {
	in := s.Input
	text, err := s.reader.keys.open(ctx, s.reader.store.read, s.key, s.wrapped, s.sealed, in.about())
	if err != nil {
		return Input{}, err
	}
	size, n := binary.Uvarint(text)
	if n <= 0 || size > uint64(len(text)-n) {
		return Input{}, errUnreadable()
	}
	in.Asked, in.Answered = text[n:n+int(size)], text[n+int(size):]
	return in, nil
}

const inputColumns = "execution, seq, tenant, coalesce(subject, ''), at_ms, organisation, own, terms, tenant_key, wrapped, sealed"

func (r *InputsReader) scan(scan func(...any) error) (*SealedInput, error) {
	s := &SealedInput{reader: r}
	var seq, at int64
	err := scan(&s.Execution, &seq, &s.Tenant, &s.Subject, &at, &s.Revisions.Organisation, &s.Revisions.Own, &s.Revisions.Terms, &s.key, &s.wrapped, &s.sealed)
	s.Seq, s.Time = uint64(seq), time.UnixMilli(at).UTC()
	return s, err
}

// Each calls do with every input of a group, until it returns an error.
func (r *InputsReader) Each(ctx context.Context, g InputGroup, span Span, do func(*SealedInput) error) error {
	rows, err := r.store.read.QueryContext(ctx, "SELECT "+inputColumns+" FROM inputs WHERE organisation = ? AND terms = ? AND own = ? "+
		"AND at_ms >= ? AND at_ms < ? AND (own = '' OR tenant = ?)",
		g.Revisions.Organisation, g.Revisions.Terms, g.Revisions.Own, span.From.UnixMilli(), span.Until.UnixMilli(), g.Tenant)
	if err != nil {
		return fmt.Errorf("read inputs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		sealed, err := r.scan(rows.Scan)
		if err != nil {
			return fmt.Errorf("read inputs: %w", err)
		}
		if err := do(sealed); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read inputs: %w", err)
	}
	return nil
}

// Pick returns some input of the newest `among`, chosen by a number from 0 up to
// that. It is an error of KindNotFound where there is none.
func (r *InputsReader) Pick(ctx context.Context, among, number int64) (*SealedInput, error) {
	row := r.store.read.QueryRowContext(ctx, "SELECT "+inputColumns+" FROM inputs WHERE id <= "+
		"(SELECT max(id) FROM inputs) - ? ORDER BY id DESC LIMIT 1", number%among)
	sealed, err := r.scan(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, &execution.Error{Kind: execution.KindNotFound, Code: "input_not_found", Detail: "no decision has been recorded yet"}
	}
	if err != nil {
		return nil, fmt.Errorf("read input: %w", err)
	}
	return sealed, nil
}

// Document returns the content of a document. It is an error of KindNotFound where
// there is none, and of KindGone where it cannot be read.
func (r *InputsReader) Document(ctx context.Context, kind, digest, tenant string) ([]byte, error) {
	d := Document{Kind: kind, Digest: digest, Tenant: tenant}
	var key int64
	var wrapped, sealed []byte
	err := r.store.read.QueryRowContext(ctx, "SELECT tenant_key, wrapped, sealed FROM input_documents WHERE kind = ? AND digest = ? AND tenant = ?",
		kind, digest, tenant).Scan(&key, &wrapped, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, &execution.Error{Kind: execution.KindNotFound, Code: "document_not_found", Detail: fmt.Sprintf("the %s %s is not kept", kind, digest)}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", kind, digest, err)
	}
	return r.keys.open(ctx, r.store.read, key, wrapped, sealed, d.about())
}

// Lost returns how many decisions of a time were not kept, or not long enough, by
// reason, to the hour.
func (r *InputsReader) Lost(ctx context.Context, span Span) (map[string]uint64, error) {
	rows, err := r.store.read.QueryContext(ctx, "SELECT why, sum(lost) FROM input_losses WHERE hour_ms >= ? AND hour_ms < ? GROUP BY why",
		span.From.Truncate(time.Hour).UnixMilli(), span.Until.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("read lost inputs: %w", err)
	}
	defer rows.Close()
	lost := map[string]uint64{}
	for rows.Next() {
		var why string
		var n int64
		if err := rows.Scan(&why, &n); err != nil {
			return nil, fmt.Errorf("read lost inputs: %w", err)
		}
		lost[why] = uint64(n)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read lost inputs: %w", err)
	}
	return lost, nil
}
