package recordtest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/execution/recordtest"
)

// The schema takes what is right and refuses what is not: a check that lets all
// pass would be none.
func TestSchemaTellsRecordsApart(t *testing.T) {
	now := time.Now().UTC()
	good := execution.Record{
		V: execution.RecordVersion, Type: execution.RecordKeyRevoked, Time: now,
		Key: &execution.KeyChange{ID: "ak_1", Tenant: "acme", Roles: []execution.Role{execution.RoleAdmin}},
	}
	if err := recordtest.Problem(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*execution.Record){
		"another version": func(r *execution.Record) { r.V = 2 },
		"no type":         func(r *execution.Record) { r.Type = "" },
		"unknown type":    func(r *execution.Record) { r.Type = "key_lost" },
		"another's type":  func(r *execution.Record) { r.Type = execution.RecordGap },
		"no body":         func(r *execution.Record) { r.Key = nil },
		"two bodies":      func(r *execution.Record) { r.Gap = &execution.Gap{} },
		"no list":         func(r *execution.Record) { r.Key = &execution.KeyChange{ID: "ak_1", Tenant: "acme"} },
		"unknown role":    func(r *execution.Record) { r.Key = &execution.KeyChange{Roles: []execution.Role{"root"}} },
		"no digest": func(r *execution.Record) {
			r.Type, r.Key, r.Config = execution.RecordConfigChanged, nil, &execution.ConfigChange{Digest: strings.Repeat("g", 64), Changed: []string{}}
		},
	} {
		bad := good
		change(&bad)
		if recordtest.Problem(bad) == nil {
			t.Errorf("%s: %+v passes", name, bad)
		}
	}
}
