package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"
)

const (
	defaultSegmentBytes = 64 << 20
	minSegmentBytes     = 64 << 10
	maxSegmentBytes     = 1 << 30
	defaultBudget       = 2 * time.Second
	defaultStartBytes   = 256 << 20
)

// Config says where a log lives. Dir and KeyDir are required.
type Config struct {
	// Dir is the log's folder, STATE/audit. It is made with mode 0700 and held
	// by nobody else while the log is open.
	Dir string
	// KeyDir holds the signing key, the verifier key and the last checkpoint,
	// STATE/keys. It must not lie in Dir: who can rewrite the log must not be
	// able to sign it.
	KeyDir string
	// SegmentBytes is the size of a segment, from 64 KiB to 1 GiB; zero means
	// 64 MiB. Space for two segments is taken at once. A record may have an
	// eighth of a segment, and 1 MiB at most.
	SegmentBytes int64
	// Budget is how long an Append may wait for the disk; zero means 2 s.
	Budget time.Duration
	// Witnesses are told of every checkpoint, or of the newest where they are slow.
	// New holds the log against what they have kept.
	Witnesses []Witness
	// StartBytes is how much of the log's end New reads at the least; zero means
	// 256 MiB, less than zero only what must be.
	StartBytes int64
	// RetainAge is how old a sealed segment's last record must be for the segment
	// to be removed; zero keeps it for ever.
	RetainAge time.Duration
	// MaxBytes is what the segments may take up, with the one that is allocated
	// ahead; zero is no bound. It must be at least four segments. Past it new work
	// is refused as on a full disk, and ends are still written.
	MaxBytes int64
	// DropExported has the oldest segments removed to stay within MaxBytes.
	DropExported bool
	// Exported returns the number up to which, not including it, every sink has the
	// records; what no sink has is never removed. Nil: there are no sinks. It is
	// called from a goroutine of Run's, and must not wait.
	Exported func() uint64
	// Indexed returns the number up to which, not including it, what is made of the
	// records has them for good, as usage is; what it does not have is never removed. Nil:
	// nothing is made of them. It is called from a goroutine of Run's, where something is to
	// be removed, and may sync a file.
	Indexed func() uint64
	// Heartbeat is after how long without a record a heartbeat is written; zero
	// writes none. It is kept to within half a second.
	Heartbeat time.Duration
	// Logger is told of faults and of their end; nil discards.
	Logger *slog.Logger
	// FileSystem is the disk; nil means the operating system's. Tests set it.
	FileSystem FileSystem
}

// withDefaults returns the configuration with zero values filled in, or says
// what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.KeyDir == "" {
		return c, errors.New("configure the audit log: Dir and KeyDir are required")
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return c, fmt.Errorf("configure the audit log: %w", err)
	}
	if c.KeyDir, err = filepath.Abs(c.KeyDir); err != nil {
		return c, fmt.Errorf("configure the audit log: %w", err)
	}
	if rel, err := filepath.Rel(c.Dir, c.KeyDir); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return c, fmt.Errorf("configure the audit log: KeyDir %s must not lie in Dir %s", c.KeyDir, c.Dir)
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = defaultSegmentBytes
	}
	if c.SegmentBytes < minSegmentBytes || c.SegmentBytes > maxSegmentBytes {
		return c, fmt.Errorf("configure the audit log: SegmentBytes is %d: it must be from %d to %d", c.SegmentBytes, minSegmentBytes, maxSegmentBytes)
	}
	if c.StartBytes == 0 {
		c.StartBytes = defaultStartBytes
	}
	if c.Budget == 0 {
		c.Budget = defaultBudget
	}
	if c.Budget < 0 {
		return c, fmt.Errorf("configure the audit log: Budget is %v: it must not be negative", c.Budget)
	}
	if c.RetainAge < 0 || c.Heartbeat < 0 {
		return c, fmt.Errorf("configure the audit log: RetainAge is %v and Heartbeat %v: they must not be negative", c.RetainAge, c.Heartbeat)
	}
	if c.MaxBytes != 0 && c.MaxBytes < 4*c.SegmentBytes {
		return c, fmt.Errorf("configure the audit log: MaxBytes is %d: it must be at least four segments, %d", c.MaxBytes, 4*c.SegmentBytes)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.FileSystem == nil {
		c.FileSystem = osFileSystem{}
	}
	return c, nil
}

// maxRecordBytes is the largest record, as encoded JSON.
func (c Config) maxRecordBytes() int { return int(min(1<<20, c.SegmentBytes/8)) }

// maxBatchBytes is the size after which a batch takes no further record.
func (c Config) maxBatchBytes() int { return int(min(1<<20, c.SegmentBytes/8)) }

// maxReserveBytes is the most space that is kept for one end.
func (c Config) maxReserveBytes() int64 { return min(64<<10, c.SegmentBytes/16) }
