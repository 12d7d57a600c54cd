// Package store remembers what must outlive the process and is not the log: API
// keys, executions that can be asked for later, with their results and
// idempotency keys, and which sessions there were. Results are callers' data and are not encrypted here: the
// mode of the files, 0600, is what keeps them. It hides SQLite (modernc.org/sqlite, which needs no C
// compiler) behind a few methods; no type of it crosses this package's edge.
//
// A write is durable when its method returns: the database is in WAL mode with
// synchronous=FULL, which syncs the log of every commit
// (https://sqlite.org/pragma.html#pragma_synchronous).
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // registers the driver
)

// readers is how many connections read at once. WAL readers block neither one
// another nor the writer.
const readers = 4

// Store is an open database. It is safe for concurrent use.
type Store struct {
	// write has one connection, so that writers queue here, in order and under
	// their own deadlines, and not in SQLite's busy loop.
	write *sql.DB
	// read cannot write (query_only), whatever is asked of it.
	read *sql.DB
}

// Open opens the database at path, making it (mode 0600) where there is none,
// and brings its schema up to date. The folder must exist. A database that a
// newer version wrote, or another program, is refused and left as it is.
func Open(ctx context.Context, path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	// SQLite would make the file by the umask; the files beside it (-wal, -shm)
	// take the mode of this one.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}

	s := &Store{}
	if s.write, err = sql.Open("sqlite", dsn(path, false)); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	if err := migrate(ctx, s.write); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), s.Close())
	}
	if s.read, err = sql.Open("sqlite", dsn(path, true)); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), s.Close())
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	return s, nil
}

// Close waits for what is under way and closes the database. The Store must
// not be used afterwards.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	// The writer is closed last: the last connection folds the WAL into the
	// database, which a query_only connection does not.
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// change runs do in a transaction of the one writer.
func (s *Store) change(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Ready reports whether the database answers.
func (s *Store) Ready(ctx context.Context) error {
	var n int
	if err := s.read.QueryRowContext(ctx, "SELECT count(*) FROM keys WHERE id = ''").Scan(&n); err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	return nil
}

// dsn names the database at path, an absolute path, as a URI: a path may hold
// '?', '#' and '%', which mean something else in a plain name.
func dsn(path string, readOnly bool) string {
	q := url.Values{"_pragma": {
		"busy_timeout(5000)",
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"foreign_keys(ON)",
		// What a key's row held is overwritten when it goes.
		"secure_delete(ON)",
		"trusted_schema(OFF)",
	}}
	if readOnly {
		q.Add("_pragma", "query_only(ON)")
	} else {
		q.Set("_txlock", "immediate")
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}
