package audit

import (
	"strings"
	"syscall"
	"testing"

	"github.com/execgate/execgate/execution"
)

// fullDisk refuses allocation, as a disk does where other files took the rest.
func fullDisk(op string, _ int) fault1 {
	if op == "allocate" {
		return fault1{err: syscall.ENOSPC}
	}
	return fault1{}
}

// On a full disk no new execution is allowed, and everything that runs can
// still be ended, also with other records coming in, and over a restart.
func TestFullDiskStillTakesTheEnds(t *testing.T) {
	for _, restart := range []bool{false, true} {
		disk := &faulty{plan: fullDisk}
		cfg := folders(t)
		first, stop := running(t, Config{Dir: cfg.Dir, KeyDir: cfg.KeyDir, SegmentBytes: cfg.SegmentBytes})
		fill(t, first, 1)
		stop()
		cfg.FileSystem = disk
		l, stop := running(t, cfg)
		var open []uint64
		for n := 0; ; n++ {
			seq, err := l.Append(t.Context(), decided(n, execution.EffectAllow))
			if err != nil {
				if e := err.(*execution.Error); e.Code != "audit_unavailable" || !strings.Contains(e.Detail, "free space") {
					t.Fatalf("append on a full disk: %v", err)
				}
				break
			}
			open = append(open, seq)
		}
		if len(open) < 5 {
			t.Fatalf("only %d executions fitted", len(open))
		}
		if err := l.Ready(t.Context()); execution.KindOf(err) != execution.KindUnavailable {
			t.Errorf("ready on a full disk: %v", err)
		}
		// Records that open nothing must leave the ends their space.
		for n := range 200 {
			_, _ = l.Append(t.Context(), decided(n, execution.EffectDeny))
		}
		if restart {
			stop()
			l, stop = running(t, cfg)
			if got := len(l.Unended()); got != len(open) {
				t.Fatalf("%d executions are open after a restart, want %d", got, len(open))
			}
		}
		for n, seq := range open {
			rec := ended(n, seq)
			for range 10 {
				rec.Ended.Leases = append(rec.Ended.Leases, execution.Lease{Tool: "github", ID: strings.Repeat("x", 40)})
			}
			mustAppend(t, l, rec)
		}
		disk.set(nil)
		for l.Ready(t.Context()) != nil {
			// The spare is tried again once a second.
		}
		fill(t, l, 50)
		stop()
		mustVerify(t, cfg, l.Verifier())
	}
}

// Space for an end grows with what was granted, and is bounded.
func TestReserveFollowsTheGrant(t *testing.T) {
	small := reserveFor(execution.Grant{})
	large := reserveFor(execution.Grant{Limits: execution.Limits{FilesCount: 100}, Credentials: make([]execution.Credential, 3)})
	if large != small+100*reserveArtifact+3*reserveLease {
		t.Errorf("reserves are %d and %d", small, large)
	}
	if got := reserveFor(execution.Grant{Limits: execution.Limits{FilesCount: -1}}); got != small {
		t.Errorf("a negative count reserves %d", got)
	}
}

// A record that no segment has space for is refused before it gets a number.
func TestTooLargeRecord(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	rec := decided(1, execution.EffectDeny)
	rec.RequestID = strings.Repeat("x", minSegmentBytes)
	if _, err := l.Append(t.Context(), rec); execution.KindOf(err) != execution.KindTooLarge {
		t.Errorf("append: %v", err)
	}
	if seq := mustAppend(t, l, decided(1, execution.EffectDeny)); seq != 0 {
		t.Errorf("the first record is %d", seq)
	}
	stop()
	mustVerify(t, cfg, l.Verifier())
}
