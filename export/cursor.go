package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	cursorSuffix   = ".cursor"
	cursorVersion  = 1
	maxCursorBytes = 4096
)

// Cursor is how far an exporter has come.
type Cursor struct {
	Version int       `json:"version"`
	Name    string    `json:"-"` // of the exporter: that of the file
	Log     string    `json:"log"`
	Next    uint64    `json:"next"` // number of the first record that is not acknowledged
	Type    Type      `json:"type"`
	Format  Format    `json:"format"`
	Target  string    `json:"target_sha256"` // of the path or address, which may hold a secret
	Saved   time.Time `json:"saved"`
}

func (s Sink) cursor(log string, next uint64) Cursor {
	sum := sha256.Sum256([]byte(s.target()))
	return Cursor{
		Version: cursorVersion, Name: s.Name, Log: log, Next: next, Type: s.Type, Format: s.format(), Target: hex.EncodeToString(sum[:]),
	}
}

func (s Sink) format() Format {
	if s.Format == "" {
		return FormatJSON
	}
	return s.Format
}

// save replaces the cursor's file, and returns once that is durable.
func (c Cursor) save(dir string) error {
	c.Saved = time.Now().UTC()
	text, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode a cursor: %w", err)
	}
	path := filepath.Join(dir, c.Name+cursorSuffix)
	if err := writeDurably(path+".new", append(text, '\n')); err != nil {
		return fmt.Errorf("write the cursor of %s: %w", c.Name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("replace the cursor of %s: %w", c.Name, err)
	}
	return syncDir(dir)
}

func writeDurably(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// loadCursor returns the cursor of the exporter called name. The error is fs.ErrNotExist
// where there is none.
func loadCursor(dir, name string) (Cursor, error) {
	path := filepath.Join(dir, name+cursorSuffix)
	info, err := os.Lstat(path)
	if err != nil {
		return Cursor{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCursorBytes {
		return Cursor{}, fmt.Errorf("%s is no cursor", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Cursor{}, err
	}
	var c Cursor
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return Cursor{}, fmt.Errorf("%s is no cursor: %w", path, err)
	}
	if c.Version != cursorVersion {
		return Cursor{}, fmt.Errorf("%s is a cursor of the version %d, and this program knows %d", path, c.Version, cursorVersion)
	}
	c.Name = name
	return c, nil
}

// Cursors returns the cursors in dir, in the order of their names, also while exporters
// run. A folder that is not there has none.
func Cursors(dir string) ([]Cursor, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the cursors: %w", err)
	}
	var cursors []Cursor
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), cursorSuffix)
		if !ok {
			continue
		}
		c, err := loadCursor(dir, name)
		if err != nil {
			return nil, fmt.Errorf("list the cursors: %w", err)
		}
		cursors = append(cursors, c)
	}
	slices.SortFunc(cursors, func(a, b Cursor) int { return strings.Compare(a.Name, b.Name) })
	return cursors, nil
}
