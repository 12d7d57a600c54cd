package audit

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A lock ends when it is given up, whoever has a copy of its descriptor: a process that is
// being started has one.
func TestLockEndsWithItsCloser(t *testing.T) {
	dir, system := t.TempDir(), osFileSystem{}
	first, err := system.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := unix.Dup(int(first.(locked).Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(copied)
	if _, err := system.Lock(dir); err == nil {
		t.Error("it is held twice")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := system.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}
