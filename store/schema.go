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

	// execution_bytes is what the rows of each tenant take up, kept by triggers.
	`CREATE TABLE executions (
		id              TEXT PRIMARY KEY,
		tenant          TEXT NOT NULL,
		subject         TEXT NOT NULL,
		idempotency_key TEXT,
		request_sha256  TEXT NOT NULL,
		state           TEXT NOT NULL CHECK (state IN ('reserved', 'queued', 'running', 'ended', 'failed', 'denied', 'expired')),
		body            BLOB,
		bytes           INTEGER NOT NULL GENERATED ALWAYS AS (512 + coalesce(length(body), 0)) STORED,
		events          INTEGER NOT NULL,
		created_ms      INTEGER NOT NULL,
		expires_ms      INTEGER NOT NULL
	) STRICT;
	CREATE UNIQUE INDEX executions_by_key ON executions (tenant, subject, idempotency_key) WHERE idempotency_key IS NOT NULL;
	CREATE INDEX executions_by_age ON executions (tenant, created_ms) WHERE body IS NOT NULL AND state IN ('ended', 'failed', 'denied', 'expired');
	CREATE INDEX executions_by_end ON executions (expires_ms) WHERE state IN ('ended', 'failed', 'denied', 'expired');
	CREATE INDEX executions_under_way ON executions (state) WHERE state IN ('reserved', 'queued', 'running');
	CREATE TABLE execution_bytes (
		tenant TEXT PRIMARY KEY,
		bytes  INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE TRIGGER executions_inserted AFTER INSERT ON executions BEGIN
		INSERT INTO execution_bytes VALUES (NEW.tenant, NEW.bytes)
			ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
	END;
	CREATE TRIGGER executions_updated AFTER UPDATE OF body ON executions BEGIN
		UPDATE execution_bytes SET bytes = bytes + NEW.bytes - OLD.bytes WHERE tenant = NEW.tenant;
	END;
	CREATE TRIGGER executions_deleted AFTER DELETE ON executions BEGIN
		UPDATE execution_bytes SET bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant;
	END`,

	// ended is why; NULL while the session is open.
	`CREATE TABLE sessions (
		id         TEXT PRIMARY KEY,
		tenant     TEXT NOT NULL,
		subject    TEXT NOT NULL,
		roles      TEXT NOT NULL CHECK (json_valid(roles)),
		method     TEXT NOT NULL,
		ended      TEXT CHECK (ended <> ''),
		created_ms INTEGER NOT NULL,
		expires_ms INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE INDEX sessions_open ON sessions (created_ms) WHERE ended IS NULL;
	CREATE INDEX sessions_by_age ON sessions (tenant, created_ms) WHERE ended IS NOT NULL;
	CREATE INDEX sessions_by_end ON sessions (expires_ms) WHERE ended IS NOT NULL`,

	// An execution may await approval. SQLite cannot change a CHECK, so the table
	// is made anew (https://sqlite.org/lang_altertable.html#otheralter).
	`CREATE TABLE executions_next (
		id              TEXT PRIMARY KEY,
		tenant          TEXT NOT NULL,
		subject         TEXT NOT NULL,
		idempotency_key TEXT,
		request_sha256  TEXT NOT NULL,
		state           TEXT NOT NULL CHECK (state IN ('reserved', 'awaiting_approval', 'queued', 'running', 'ended', 'failed', 'denied', 'expired')),
		body            BLOB,
		bytes           INTEGER NOT NULL GENERATED ALWAYS AS (512 + coalesce(length(body), 0)) STORED,
		events          INTEGER NOT NULL,
		created_ms      INTEGER NOT NULL,
		expires_ms      INTEGER NOT NULL
	) STRICT;
	INSERT INTO executions_next (id, tenant, subject, idempotency_key, request_sha256, state, body, events, created_ms, expires_ms)
		SELECT id, tenant, subject, idempotency_key, request_sha256, state, body, events, created_ms, expires_ms FROM executions;
	DROP TABLE executions;
	ALTER TABLE executions_next RENAME TO executions;
	CREATE UNIQUE INDEX executions_by_key ON executions (tenant, subject, idempotency_key) WHERE idempotency_key IS NOT NULL;
	CREATE INDEX executions_by_age ON executions (tenant, created_ms) WHERE body IS NOT NULL AND state IN ('ended', 'failed', 'denied', 'expired');
	CREATE INDEX executions_by_end ON executions (expires_ms) WHERE state IN ('ended', 'failed', 'denied', 'expired');
	CREATE INDEX executions_under_way ON executions (state) WHERE state IN ('reserved', 'queued', 'running');
	CREATE TRIGGER executions_inserted AFTER INSERT ON executions BEGIN
		INSERT INTO execution_bytes VALUES (NEW.tenant, NEW.bytes)
			ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
	END;
	CREATE TRIGGER executions_updated AFTER UPDATE OF body ON executions BEGIN
		UPDATE execution_bytes SET bytes = bytes + NEW.bytes - OLD.bytes WHERE tenant = NEW.tenant;
	END;
	CREATE TRIGGER executions_deleted AFTER DELETE ON executions BEGIN
		UPDATE execution_bytes SET bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant;
	END;

	CREATE TABLE approvals (
		id         TEXT PRIMARY KEY,
		execution  TEXT NOT NULL UNIQUE,
		tenant     TEXT NOT NULL,
		subject    TEXT NOT NULL,
		state      TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'voided')),
		about      TEXT NOT NULL CHECK (json_valid(about)),
		sealed     BLOB, -- NULL once it is not pending
		created_ms INTEGER NOT NULL,
		expires_ms INTEGER NOT NULL,
		by_subject TEXT NOT NULL DEFAULT '',
		at_ms      INTEGER NOT NULL DEFAULT 0,
		comment    TEXT NOT NULL DEFAULT '',
		why        TEXT NOT NULL DEFAULT '',
		forget_ms  INTEGER NOT NULL DEFAULT 0,
		CHECK ((sealed IS NOT NULL) = (state = 'pending'))
	) STRICT, WITHOUT ROWID;
	CREATE INDEX approvals_by_state ON approvals (tenant, state, id);
	CREATE INDEX approvals_pending ON approvals (expires_ms) WHERE state = 'pending';
	CREATE INDEX approvals_by_end ON approvals (forget_ms) WHERE state <> 'pending'`,

	// What policy was asked: see Inputs. sealed and wrapped are NULL once a row is
	// erased. A key's id is never used again, so that no row finds another's.
	`CREATE TABLE input_keys (
		id      INTEGER PRIMARY KEY AUTOINCREMENT,
		tenant  TEXT NOT NULL UNIQUE, -- empty: the organisation
		wrapped BLOB NOT NULL
	) STRICT;
	CREATE TABLE inputs (
		id           INTEGER PRIMARY KEY AUTOINCREMENT,
		execution    TEXT NOT NULL,
		seq          INTEGER NOT NULL,
		tenant       TEXT NOT NULL,
		at_ms        INTEGER NOT NULL,
		organisation TEXT NOT NULL,
		own          TEXT NOT NULL,
		terms        TEXT NOT NULL,
		tenant_key   INTEGER NOT NULL,
		wrapped      BLOB,
		sealed       BLOB,
		bytes        INTEGER NOT NULL GENERATED ALWAYS AS (512 + coalesce(length(sealed), 0)) STORED,
		UNIQUE (execution, seq),
		CHECK ((wrapped IS NULL) = (sealed IS NULL))
	) STRICT;
	CREATE INDEX inputs_by_policy ON inputs (organisation, terms, own, at_ms, tenant);
	CREATE INDEX inputs_by_terms ON inputs (terms);
	CREATE INDEX inputs_by_own ON inputs (own) WHERE own <> '';
	CREATE INDEX inputs_by_key ON inputs (tenant_key);
	CREATE INDEX inputs_by_tenant ON inputs (tenant, id);
	CREATE INDEX inputs_by_age ON inputs (at_ms);
	CREATE TABLE input_bytes (
		tenant TEXT PRIMARY KEY,
		bytes  INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE TRIGGER inputs_inserted AFTER INSERT ON inputs BEGIN
		INSERT INTO input_bytes VALUES (NEW.tenant, NEW.bytes)
			ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
	END;
	CREATE TRIGGER inputs_updated AFTER UPDATE OF sealed ON inputs BEGIN
		UPDATE input_bytes SET bytes = bytes + NEW.bytes - OLD.bytes WHERE tenant = NEW.tenant;
	END;
	CREATE TRIGGER inputs_deleted AFTER DELETE ON inputs BEGIN
		UPDATE input_bytes SET bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant;
	END;
	CREATE TABLE input_documents (
		kind       TEXT NOT NULL CHECK (kind IN ('bundle', 'terms')),
		digest     TEXT NOT NULL,
		tenant     TEXT NOT NULL, -- empty: the organisation
		tenant_key INTEGER NOT NULL,
		wrapped    BLOB NOT NULL,
		sealed     BLOB NOT NULL,
		PRIMARY KEY (kind, digest, tenant)
	) STRICT;
	CREATE TABLE input_losses (
		hour_ms INTEGER NOT NULL,
		why     TEXT NOT NULL,
		lost    INTEGER NOT NULL,
		PRIMARY KEY (hour_ms, why)
	) STRICT, WITHOUT ROWID`,

	// What was asked of Vault and is not ended: see Leases. n is their order.
	`CREATE TABLE leases (
		n           INTEGER PRIMARY KEY,
		id          TEXT NOT NULL UNIQUE,
		execution   TEXT NOT NULL,
		tenant      TEXT NOT NULL,
		subject     TEXT NOT NULL,
		credentials TEXT NOT NULL CHECK (json_valid(credentials)),
		accessor    TEXT NOT NULL DEFAULT '',
		expires_ms  INTEGER NOT NULL
	) STRICT`,

	// What must be kept (see Held): it has an end of its own, until_ms, and is never
	// given up for room, so that its bytes are counted apart. subject is NULL in rows
	// from before it was there.
	`ALTER TABLE inputs ADD COLUMN subject TEXT;
	ALTER TABLE inputs ADD COLUMN until_ms INTEGER;
	CREATE INDEX inputs_held ON inputs (until_ms) WHERE until_ms IS NOT NULL;
	CREATE TABLE materials (
		id         INTEGER PRIMARY KEY AUTOINCREMENT,
		execution  TEXT NOT NULL,
		part       TEXT NOT NULL CHECK (part IN ('request', 'output')),
		seq        INTEGER NOT NULL,
		tenant     TEXT NOT NULL,
		subject    TEXT NOT NULL,
		at_ms      INTEGER NOT NULL,
		until_ms   INTEGER NOT NULL,
		tenant_key INTEGER NOT NULL,
		wrapped    BLOB,
		sealed     BLOB,
		bytes      INTEGER NOT NULL GENERATED ALWAYS AS (512 + coalesce(length(sealed), 0)) STORED,
		UNIQUE (execution, part),
		CHECK ((wrapped IS NULL) = (sealed IS NULL))
	) STRICT;
	CREATE INDEX materials_by_key ON materials (tenant_key);
	CREATE INDEX materials_by_tenant ON materials (tenant, subject);
	CREATE INDEX materials_by_end ON materials (until_ms);
	CREATE INDEX materials_by_age ON materials (at_ms);
	CREATE TABLE held_bytes (
		tenant TEXT PRIMARY KEY,
		bytes  INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	DROP TRIGGER inputs_inserted;
	DROP TRIGGER inputs_updated;
	DROP TRIGGER inputs_deleted;
	CREATE TRIGGER inputs_inserted AFTER INSERT ON inputs WHEN NEW.until_ms IS NULL BEGIN
		INSERT INTO input_bytes VALUES (NEW.tenant, NEW.bytes)
			ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
	END;
	CREATE TRIGGER inputs_updated AFTER UPDATE OF sealed ON inputs WHEN NEW.until_ms IS NULL BEGIN
		UPDATE input_bytes SET bytes = bytes + NEW.bytes - OLD.bytes WHERE tenant = NEW.tenant;
	END;
	CREATE TRIGGER inputs_deleted AFTER DELETE ON inputs WHEN OLD.until_ms IS NULL BEGIN
		UPDATE input_bytes SET bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant;
	END;
	CREATE TRIGGER inputs_held_inserted AFTER INSERT ON inputs WHEN NEW.until_ms IS NOT NULL BEGIN
		INSERT INTO held_bytes VALUES (NEW.tenant, NEW.bytes)
			ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
	END;
	CREATE TRIGGER inputs_held_updated AFTER UPDATE OF sealed ON inputs WHEN NEW.until_ms IS NOT NULL BEGIN
		UPDATE held_bytes SET bytes = bytes + NEW.bytes - OLD.bytes WHERE tenant = NEW.tenant;
	END;
	CREATE TRIGGER inputs_held_deleted AFTER DELETE ON inputs WHEN OLD.until_ms IS NOT NULL BEGIN
		UPDATE held_bytes SET bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant;
	END;
	CREATE TRIGGER materials_inserted AFTER INSERT ON materials BEGIN
		INSERT INTO held_bytes VALUES (NEW.tenant, NEW.bytes)
			ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + excluded.bytes;
	END;
	CREATE TRIGGER materials_updated AFTER UPDATE OF sealed ON materials BEGIN
		UPDATE held_bytes SET bytes = bytes + NEW.bytes - OLD.bytes WHERE tenant = NEW.tenant;
	END;
	CREATE TRIGGER materials_deleted AFTER DELETE ON materials BEGIN
		UPDATE held_bytes SET bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant;
	END`,
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
