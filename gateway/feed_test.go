package gateway

import (
	"bytes"
	"testing"
)

func TestFeedKeepsTheNewest(t *testing.T) {
	var f feed
	if _, ok, over, more := f.next(0); ok || over || more == nil {
		t.Error("an empty feed has something")
	}
	data := bytes.Repeat([]byte("x"), 64<<10)
	for range 100 {
		f.add(message{kind: "stdout", data: data})
	}
	if f.bytes > feedBytes || f.newest() != 100 {
		t.Errorf("%d bytes, newest %d", f.bytes, f.newest())
	}
	first, ok, _, _ := f.next(3)
	if !ok || first.id <= 80 {
		t.Errorf("first %d, %v", first.id, ok)
	}
	for want := first.id + 1; want <= 100; want++ {
		if m, ok, _, _ := f.next(want - 1); !ok || m.id != want {
			t.Errorf("after %d comes %d, %v", want-1, m.id, ok)
		}
	}
	_, ok, over, more := f.next(100)
	if ok || over {
		t.Error("there is more than was sent")
	}
	// The last is kept, however large, and nothing comes after it.
	f.add(message{kind: "ended", data: bytes.Repeat(data, 100), last: true})
	f.add(message{kind: "stdout", data: data})
	<-more
	if m, ok, _, _ := f.next(7); !ok || m.id != 101 || !m.last {
		t.Errorf("%d, %v", m.id, ok)
	}
	for _, after := range []uint64{101, 102, 1 << 60} {
		if _, ok, over, _ := f.next(after); ok || !over {
			t.Errorf("after %d: %v, %v", after, ok, over)
		}
	}
}

func TestFeedDropsWhatIsTooLarge(t *testing.T) {
	var f feed
	f.add(message{kind: "artifact", data: make([]byte, feedBytes)})
	if _, ok, _, more := f.next(0); ok || more == nil {
		t.Error("it is kept")
	}
	f.add(message{kind: "stdout"})
	if m, ok, _, _ := f.next(0); !ok || m.id != 2 {
		t.Errorf("%+v", m)
	}
}
