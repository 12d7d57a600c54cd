package store_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

func leasesIn(t *testing.T, s *store.Store) *store.Leases {
	t.Helper()
	leases, err := store.NewLeases(s)
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

func sampleLease(id string) store.Lease {
	return store.Lease{
		ID: id, Execution: "ex_1", Owner: execution.Owner{Tenant: "acme", Subject: "ak_1"},
		Credentials: []execution.Credential{{Tool: "db", Mount: "database", Path: "creds", Role: "reader", VaultPolicies: []string{"reader"}, Inject: execution.InjectFile}},
		Expires:     time.UnixMilli(time.Now().UnixMilli()).UTC(),
	}
}

// What a process that is killed leaves is what it had begun and not ended.
func TestLeasesThatAreNotEndedOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	first := open(t, path)
	leases := leasesIn(t, first)
	intended, held, ended := sampleLease("a"), sampleLease("b"), sampleLease("c")
	intended.Credentials = []execution.Credential{}
	for _, l := range []store.Lease{intended, held, ended} {
		if err := leases.Begin(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	if err := leases.Hold(t.Context(), "b", "accessor"); err != nil {
		t.Fatal(err)
	}
	if err := leases.End(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}

	// Another process: the first one never closed its own, and an end that it had
	// not made durable is only seen as one that is to be ended again.
	left, err := leasesIn(t, open(t, path)).Open(t.Context())
	held.Accessor = "accessor"
	if diff := cmp.Diff([]store.Lease{intended, held, ended}, left); diff != "" || err != nil {
		t.Errorf("error %v, left before the end is durable (-want +got):\n%s", err, diff)
	}
	if err := leases.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err = leasesIn(t, open(t, path)).Open(t.Context())
	if diff := cmp.Diff([]store.Lease{intended, held}, left); diff != "" || err != nil {
		t.Errorf("error %v, left (-want +got):\n%s", err, diff)
	}
}

// An end becomes durable with any later write, or when many have gathered.
func TestEndsAreTakenAlong(t *testing.T) {
	for name, then := range map[string]func(*store.Leases) error{
		"by the next one that begins": func(l *store.Leases) error { return l.Begin(t.Context(), sampleLease("next")) },
		"when many have gathered": func(l *store.Leases) error {
			for i := range 300 {
				if err := l.End(t.Context(), fmt.Sprint("none", i)); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			leases := leasesIn(t, open(t, path))
			if err := leases.Begin(t.Context(), sampleLease("a")); err != nil {
				t.Fatal(err)
			}
			if err := leases.End(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if err := then(leases); err != nil {
				t.Fatal(err)
			}
			left, err := leasesIn(t, open(t, path)).Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range left {
				if l.ID == "a" {
					t.Error("it is still there")
				}
			}
		})
	}
}

// Many at once are each durable when their call returns.
func TestManyLeasesAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	leases := leasesIn(t, open(t, path))
	var group sync.WaitGroup
	const many = 200
	for i := range many {
		group.Go(func() {
			id := fmt.Sprint(i)
			if err := leases.Begin(t.Context(), sampleLease(id)); err != nil {
				t.Error(err)
			}
			if err := leases.Hold(t.Context(), id, "accessor of "+id); err != nil {
				t.Error(err)
			}
			if i%2 == 0 {
				if err := leases.End(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	left, err := leases.Open(t.Context())
	if err != nil || len(left) != many/2 {
		t.Fatalf("%d are left, want %d; %v", len(left), many/2, err)
	}
	for _, l := range left {
		if l.Accessor != "accessor of "+l.ID {
			t.Errorf("%s has %q", l.ID, l.Accessor)
		}
	}
}

// A lease that cannot be remembered fails, and the store goes on.
func TestALeaseThatIsThereTwiceIsRefused(t *testing.T) {
	leases := leasesIn(t, open(t, filepath.Join(t.TempDir(), "store.db")))
	for i, want := range []bool{true, false} {
		if err := leases.Begin(t.Context(), sampleLease("a")); (err == nil) != want {
			t.Errorf("begin %d: %v", i, err)
		}
	}
	if err := leases.Begin(t.Context(), sampleLease("b")); err != nil {
		t.Error(err)
	}
}
