package audit

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// fullDisk refuses allocation, as a disk does where other files took the rest.
func fullDisk(op string, _ int) fault1 {
	if op == "allocate" {
		return fault1{err: syscall.ENOSPC}
	}
	return fault1{}
}

// onFullDisk is a log that runs, one segment of it full, on a disk without space for
// another.
func onFullDisk(t *testing.T) (l *Log, cfg Config, disk *faulty, stop func()) {
	t.Helper()
	cfg = folders(t)
	l, stop = running(t, cfg)
	fill(t, l, 1)
	stop()
	disk = &faulty{plan: fullDisk}
	cfg.FileSystem = disk
	l, stop = running(t, cfg)
	return l, cfg, disk, stop
}

// On a full disk no new execution is allowed, and everything that runs can
// still be ended, also with other records coming in, and over a restart.
func TestFullDiskStillTakesTheEnds(t *testing.T) {
	for _, restart := range []bool{false, true} {
		l, cfg, disk, stop := onFullDisk(t)
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
		// The spare is tried again once a second.
		eventually(t, "the log is full still", func() bool { return l.Ready(t.Context()) == nil })
		fill(t, l, 50)
		stop()
		mustVerify(t, cfg, l.Verifier())
	}
}

// Space for an end grows with what was granted, and is bounded.
func TestReserveFollowsTheGrant(t *testing.T) {
	small := reserveFor(execution.Grant{})
	large := reserveFor(execution.Grant{Limits: execution.Limits{FilesCount: 20}, Credentials: make([]execution.Credential, 3)})
	if large != small+20*reserveArtifact+3*reserveLease {
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

// An end within the bounds of execution.Ended fits into what is reserved for it,
// and that into what is kept for one end.
func TestReserveHoldsTheLargestEnd(t *testing.T) {
	grant := execution.Grant{Limits: execution.Limits{FilesCount: 10_000}, Credentials: make([]execution.Credential, 64)}
	rec := ended(1, 1<<62)
	rec.RequestID, rec.TraceID = strings.Repeat("r", 64), strings.Repeat("t", 32)
	rec.Principal = &execution.Principal{Subject: strings.Repeat("s", 29), Tenant: strings.Repeat("t", 63), Roles: execution.Roles(), Method: execution.MethodAPIKey}
	sum := execution.HexSHA256(nil)
	e := rec.Ended
	e.StdoutSHA256, e.StderrSHA256, e.ResultSHA256, e.ArtifactsSHA256, e.ArtifactsCount = sum, sum, sum, sum, 10_000
	e.Error = strings.Repeat("e", 128)
	const most = 1 << 62
	e.Usage = execution.Usage{WallMS: most, CPUMS: most, PeakMemoryMiB: most, EgressRequests: most, EgressBytes: most}
	for _, l := range execution.AllLimits() {
		e.Usage.LimitsHit = append(e.Usage.LimitsHit, l.Name)
	}
	for range execution.MaxRecordArtifacts {
		e.Artifacts = append(e.Artifacts, execution.ArtifactHash{Path: strings.Repeat("p", execution.MaxRecordPath), Size: most, SHA256: sum})
	}
	for range execution.MaxRecordLeases {
		e.Leases = append(e.Leases, execution.Lease{
			Tool: strings.Repeat("t", execution.MaxRecordTool), ID: strings.Repeat("i", execution.MaxRecordLeaseID),
			Expires: time.Date(2026, 12, 31, 23, 59, 59, 999999999, time.UTC), Exposed: true, Unleased: true,
		})
	}
	written, err := newEntry(rec)
	if err != nil {
		t.Fatal(err)
	}
	if got, kept := int64(written.bytes()+batchHeaderBytes), reserveFor(grant); got > kept {
		t.Errorf("the end takes %d bytes and %d are reserved", got, kept)
	}
	// 1 MiB is the least that the gateway's configuration takes.
	if kept, most := reserveFor(grant), (Config{SegmentBytes: 1 << 20}).maxReserveBytes(); kept > most {
		t.Errorf("%d bytes are needed for one end, at most %d are kept", kept, most)
	}
}

// almostFull is a log that is not run, with n bytes left in its segment and no
// spare.
func almostFull(t *testing.T, disk *faulty, n int64) *Log {
	t.Helper()
	cfg := folders(t)
	cfg.SegmentBytes = 1 << 20
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	l.space.close()
	l.space.fsys = disk
	w := l.writer
	w.off = w.identity.Size - int64(len(w.buf)) - cfg.maxReserveBytes() - n
	w.noteFull()
	return l
}

// Where a request makes the spare itself, the log is no longer full.
func TestSpareMadeByARequestEndsFull(t *testing.T) {
	l := almostFull(t, &faulty{}, 0)
	if l.health.ready(time.Second) == nil {
		t.Fatal("ready without space")
	}
	e, err := newEntry(decided(1, execution.EffectAllow))
	if err != nil {
		t.Fatal(err)
	}
	if !l.writer.admits(e) {
		t.Fatal("refused though there is space for a spare")
	}
	if err := l.health.ready(time.Second); err != nil {
		t.Errorf("there is a spare, and the log is not ready: %v", err)
	}
}

// The log is full, and says so, as soon as a decision with the shipped policy's
// grant is refused.
func TestFullIsWhenACommonDecisionIsRefused(t *testing.T) {
	rec := decided(1, execution.EffectAllow)
	rec.Decided.Decision.Grant.Limits.FilesCount = 64
	e, err := newEntry(rec)
	if err != nil {
		t.Fatal(err)
	}
	for _, kib := range []int64{4, 9, 16, 26, 31, 40, 64} {
		l := almostFull(t, &faulty{plan: fullDisk}, kib<<10)
		if !l.writer.admits(e) && l.health.ready(time.Second) == nil {
			t.Errorf("with %d KiB left the decision is refused, and the log calls itself ready", kib)
		}
	}
}
