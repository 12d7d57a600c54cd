package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite"
)

// The versions of the index. An index of another one is made anew, so that it has no
// migrations: raise recordsVersion whenever what is found, or metered, changes.
const (
	recordsApplicationID = 0x65786769 // "exgi" in ASCII
	recordsVersion       = 2
)

// recordsSchema is the schema of the index. The numbers of records are divided into
// blocks; of each block a posting says which of its records have one term. See
// offsets for its form. times are the records' times in nanoseconds since 1970, eight
// bytes each, little endian; a number without a record has zero there. The times of a
// block's records are from least to most.
const recordsSchema = `
	CREATE TABLE cursor (
		one   INTEGER PRIMARY KEY CHECK (one = 0),
		log   TEXT NOT NULL,    -- the id of the log
		next  INTEGER NOT NULL, -- the first number that is not in the index
		first INTEGER NOT NULL  -- numbers below it are not in the log any more
	) STRICT;
	CREATE TABLE blocks (
		block INTEGER PRIMARY KEY,
		least INTEGER NOT NULL,
		most  INTEGER NOT NULL
	) STRICT;
	CREATE TABLE postings (
		block   INTEGER NOT NULL,
		kind    TEXT NOT NULL, -- empty: all records
		value   TEXT NOT NULL,
		offsets BLOB NOT NULL,
		PRIMARY KEY (block, kind, value)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE times (
		chunk INTEGER PRIMARY KEY,
		at    BLOB NOT NULL
	) STRICT;
	CREATE TABLE metered (
		day     TEXT NOT NULL,
		tenant  TEXT NOT NULL,
		subject TEXT NOT NULL,
		what    TEXT NOT NULL,
		amount  INTEGER NOT NULL,
		PRIMARY KEY (day, tenant, subject, what)
	) STRICT, WITHOUT ROWID`

// Records is an index of the audit log, and what usage adds up to in it. It is
// derived: it is in a database of its own, which can be deleted and made anew from the
// log at any time. It holds what records are found by, and no records: whoever finds
// one reads it from the log. It is safe for concurrent use.
type Records struct {
	path, log string

	mu sync.RWMutex // held for writing while the files are replaced
	db *Store
	// adding is held while records are added.
	adding sync.Mutex
	tail   *recordsTail // nil: to be read
	// damaged is set where something was read that cannot be right.
	damaged atomic.Bool
	next    atomic.Uint64
	synced  atomic.Uint64 // a next that is on the disk
	rebuilt atomic.Uint64
}

// OpenRecords opens the index at path of the log with the id log, whose records below
// size are durable. Where there is none, or one that is damaged, of another version,
// of another log or ahead of this one, it begins an empty one. The folder must exist.
func OpenRecords(ctx context.Context, path, log string, size uint64) (*Records, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open index of records: %w", err)
	}
	r := &Records{path: path, log: log}
	fits, err := r.open(ctx, size)
	if err == nil && fits {
		return r, nil
	}
	if err != nil && !isDamage(err) {
		return nil, errors.Join(fmt.Errorf("open index of records: %w", err), r.Close())
	}
	if err := r.Rebuild(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// open opens what is there and says whether it is an index that can be added to.
func (r *Records) open(ctx context.Context, size uint64) (fits bool, err error) {
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	if err := f.Close(); err != nil {
		return false, err
	}
	if err := r.connect(); err != nil {
		return false, err
	}
	var version, application int
	for query, into := range map[string]*int{"PRAGMA user_version": &version, "PRAGMA application_id": &application} {
		if err := r.db.write.QueryRowContext(ctx, query).Scan(into); err != nil {
			return false, err
		}
	}
	if application != recordsApplicationID || version != recordsVersion {
		return false, nil
	}
	var log string
	var next int64
	if err := r.db.write.QueryRowContext(ctx, "SELECT log, next FROM cursor").Scan(&log, &next); err != nil {
		return false, err
	}
	if log != r.log || next < 0 || uint64(next) > size {
		return false, nil
	}
	r.next.Store(uint64(next))
	return true, nil
}

func (r *Records) connect() (err error) {
	r.db = &Store{}
	if r.db.write, err = sql.Open("sqlite", recordsDSN(r.path, false)); err != nil {
		return err
	}
	r.db.write.SetMaxOpenConns(1)
	if r.db.read, err = sql.Open("sqlite", recordsDSN(r.path, true)); err != nil {
		return err
	}
	r.db.read.SetMaxOpenConns(readers)
	r.db.read.SetMaxIdleConns(readers)
	return nil
}

// recordsDSN is dsn for an index: a commit that a power loss takes back is made again,
// and nothing in it is secret.
func recordsDSN(path string, readOnly bool) string {
	return strings.NewReplacer("synchronous%28FULL%29", "synchronous%28NORMAL%29", "secure_delete%28ON%29", "cell_size_check%28ON%29",
		"busy_timeout", "cache_size%28-16384%29&_pragma=busy_timeout").Replace(dsn(path, readOnly))
}

// Rebuild begins an empty index in the place of the one that is there: whoever adds
// begins with the log's first record.
func (r *Records) Rebuild(ctx context.Context) error {
	r.adding.Lock()
	defer r.adding.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db != nil {
		_ = r.db.Close() // it is given up
		r.db = nil
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(r.path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rebuild index of records: %w", err)
		}
	}
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = r.format(ctx)
	}
	if err == nil {
		err = r.connect()
	}
	if err != nil {
		return fmt.Errorf("rebuild index of records: %w", err)
	}
	r.tail = nil
	r.next.Store(0)
	r.synced.Store(0)
	r.rebuilt.Add(1)
	r.damaged.Store(false)
	return nil
}

// recordsPage is the size of a page: a whole bitmap has room in one, beside others.
const recordsPage = 16 << 10

// format makes an empty index of an empty file. Where it breaks off, the file is none.
func (r *Records) format(ctx context.Context) error {
	// The size of pages is fixed with the first one, which WAL would write.
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: r.path}).String())
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(ctx, fmt.Sprintf("PRAGMA page_size = %d; BEGIN; %s; INSERT INTO cursor (one, log, next, first) VALUES (0, ?, 0, 0);"+
		"PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT", recordsPage, recordsSchema, recordsApplicationID, recordsVersion), r.log)
	return errors.Join(err, db.Close())
}

// Next is the number of the record that is to be added next.
func (r *Records) Next() uint64 { return r.next.Load() }

// Synced is a Next that a loss of power leaves as it is: commits are not synced one by one,
// and this syncs those that have not been. Whatever is removed for being in the index is
// below it.
func (r *Records) Synced() (uint64, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	next := r.next.Load()
	if r.synced.Load() >= next {
		return next, nil
	}
	// What has left the write-ahead log for the database was synced when it did
	// (https://sqlite.org/pragma.html#pragma_synchronous, NORMAL).
	log, err := os.OpenFile(r.path+"-wal", os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(log.Sync(), log.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("sync index of records: %w", err)
	}
	r.synced.Store(next)
	return next, nil
}

// Rebuilt is how often an empty index was begun since OpenRecords.
func (r *Records) Rebuilt() uint64 { return r.rebuilt.Load() }

// Distrust says that what was found is not what the log has: the index is Damaged.
func (r *Records) Distrust() { r.damaged.Store(true) }

// Damaged reports whether something was read that cannot be right: Rebuild mends it.
func (r *Records) Damaged() bool { return r.damaged.Load() }

// Close closes the index, which must not be used afterwards.
func (r *Records) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.db == nil {
		return nil
	}
	db := r.db
	r.db = nil
	return db.Close()
}

// reading calls do with the database. An error that comes of damage marks the index.
func (r *Records) reading(doing string, do func(*Store) error) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.db == nil {
		return fmt.Errorf("%s: the index is closed", doing)
	}
	err := do(r.db)
	if err == nil {
		return nil
	}
	if isDamage(err) {
		r.damaged.Store(true)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// errDamage is of what was read and cannot be right.
var errDamage = errors.New("the index of records is damaged")

// The result codes of SQLite for a file that is not what it should be
// (https://sqlite.org/rescode.html).
const (
	sqliteError   = 1 // a table is missing
	sqliteCorrupt = 11
	sqliteNotADB  = 26
)

func isDamage(err error) bool {
	if errors.Is(err, errDamage) || errors.Is(err, sql.ErrNoRows) {
		return true
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	code := e.Code() & 0xff // the rest says more
	return code == sqliteError || code == sqliteCorrupt || code == sqliteNotADB
}
