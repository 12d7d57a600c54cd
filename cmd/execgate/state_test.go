package main

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The folder's lock ends when it is given up, whoever has a copy of its descriptor: a
// process that is being started has one.
func TestStateIsFreeOnceItIsClosed(t *testing.T) {
	dir := t.TempDir()
	first, err := openState(dir)
	must(t, err)
	copied, err := unix.Dup(int(first.lock.Fd()))
	must(t, err)
	defer unix.Close(copied)
	if _, err := openState(dir); err == nil {
		t.Error("two have the folder")
	}
	must(t, first.close())
	second, err := openState(dir)
	must(t, err)
	must(t, second.close())
}
