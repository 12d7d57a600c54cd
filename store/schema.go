package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// applicationID marks a database as ours in its header: "exgt" in ASCII
// (https://sqlite.org/pragma.html#pragma_application_id).
const applicationID = 0x65786774

// migrations bring a database from the version that is their index to the next
// one. They are only ever appended to: databases in the field have run those
// that stand here. Times are milliseconds since 1970, in UTC.
var migrations = []string{
	`CREATE TABLE keys (
		id         TEXT PRIMARY KEY,
		tenant     TEXT NOT NULL,
		roles      TEXT NOT NULL CHECK (json_valid(roles)),
		hash       BLOB NOT NULL CHECK (length(hash) = 32),
		label      TEXT NOT NULL,
		created_ms INTEGER NOT NULL,
		expires_ms INTEGER,
		revoked_ms INTEGER
	) STRICT, WITHOUT ROWID`,
}

// migrate brings the schema up to date, each step in a transaction of its own
// that also sets the version, so that a crash leaves one version or the next.
func migrate(ctx context.Context, db *sql.DB) error {
	for {
		done, err := migrateOnce(ctx, db)
		if done || err != nil {
			return err
		}
	}
}

func migrateOnce(ctx context.Context, db *sql.DB) (done bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("begin migration: %w", err)
	}
	defer tx.Rollback() // does nothing after Commit

	var version, application, tables int
	for query, into := range map[string]*int{
		"PRAGMA user_version":                &version,
		"PRAGMA application_id":              &application,
		"SELECT count(*) FROM sqlite_schema": &tables,
	} {
		if err := tx.QueryRowContext(ctx, query).Scan(into); err != nil {
			return false, fmt.Errorf("read schema version: %w", err)
		}
	}
	switch {
	case application != applicationID && (application != 0 || version != 0 || tables != 0):
		return false, errors.New("it is a database of another program")
	case version < 0 || version > len(migrations):
		return false, fmt.Errorf("its schema has version %d and this program knows only up to %d: run the version that wrote it, or a newer one", version, len(migrations))
	case version == len(migrations):
		return true, nil
	}

	for _, statement := range []string{
		migrations[version],
		fmt.Sprintf("PRAGMA application_id = %d", applicationID),
		fmt.Sprintf("PRAGMA user_version = %d", version+1),
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return false, fmt.Errorf("migrate schema to version %d: %w", version+1, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return false, fmt.Errorf("migrate schema to version %d: %w", version+1, err)
	}
	return false, nil
}
