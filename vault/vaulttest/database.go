package vaulttest

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// Where the credentials of a database are read, unless a test says otherwise.
const (
	DatabaseMount = "database"
	DatabaseRole  = "reader"
)

// Database is an engine that makes users of a PostgreSQL.
type Database struct {
	// Mount is the engine's path, and Role what credentials are read for.
	Mount, Role string
	// TTL is how long a user lives, and MaxTTL how long at most with renewals;
	// one minute and ten.
	TTL, MaxTTL time.Duration
}

// Path is where credentials are read: each read makes a user.
func (d Database) Path() string { return d.filled().Mount + "/creds/" + d.filled().Role }

func (d Database) filled() Database {
	return Database{
		Mount: cmp.Or(d.Mount, DatabaseMount), Role: cmp.Or(d.Role, DatabaseRole),
		TTL: cmp.Or(d.TTL, time.Minute), MaxTTL: cmp.Or(d.MaxTTL, 10*time.Minute),
	}
}

// VaultWithDatabase starts both servers, and has Vault make users: a login that
// ends with the lease and may read the tables of the schema public.
func VaultWithDatabase(tb testing.TB, options Options, database Database) (*Server, *Postgres) {
	tb.Helper()
	postgres := StartPostgres(tb, PostgresOptions{})
	server := Start(tb, options)
	server.AddDatabase(tb, postgres, database)
	return server, postgres
}

// AddDatabase has Vault make users of the PostgreSQL, as VaultWithDatabase says.
// Revoked, a user's connections end and the user is gone.
func (s *Server) AddDatabase(tb testing.TB, postgres *Postgres, database Database) {
	tb.Helper()
	d := database.filled()
	connection := url.URL{
		Scheme: "postgresql", Host: fmt.Sprintf("127.0.0.1:%d", postgres.Port), Path: "/postgres",
		RawQuery: url.Values{"sslmode": {"verify-full"}, "sslrootcert": {postgres.CAFile}}.Encode(),
	}
	s.Do(tb, http.MethodPost, "sys/mounts/"+d.Mount, map[string]string{"type": "database"})
	s.Do(tb, http.MethodPost, d.Mount+"/config/postgres", map[string]any{
		"plugin_name":          "postgresql-database-plugin",
		"allowed_roles":        d.Role,
		"connection_url":       connection.Scheme + "://{{username}}:{{password}}@" + connection.Host + connection.RequestURI(),
		"username":             superuser,
		"password":             postgres.Password,
		"max_open_connections": 16,
	})
	s.Do(tb, http.MethodPost, d.Mount+"/roles/"+d.Role, map[string]any{
		"db_name": "postgres",
		"creation_statements": []string{
			`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
			`GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{{name}}"`,
		},
		// One who is connected would stay so: a login that is gone is only
		// refused at the next.
		"revocation_statements": []string{
			`ALTER ROLE "{{name}}" NOLOGIN`,
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'`,
			`DROP OWNED BY "{{name}}"`,
			`DROP ROLE "{{name}}"`,
		},
		"default_ttl": d.TTL.String(), "max_ttl": d.MaxTTL.String(),
	})
}
