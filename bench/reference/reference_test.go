package reference

import (
	"slices"
	"testing"
)

func TestTheWorkIsFixed(t *testing.T) {
	w := newWork()
	before := slices.Clone(w.unsorted)
	for range 2 {
		w.do()
		if !slices.IsSorted(w.sorted) || len(slices.Compact(slices.Clone(w.sorted))) != len(before) {
			t.Fatal("it does not sort as many different strings")
		}
		if !slices.Equal(before, w.unsorted) || slices.IsSorted(w.unsorted) {
			t.Fatal("the second time it has less to do")
		}
	}
	if n := testing.AllocsPerRun(10, w.do); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}
