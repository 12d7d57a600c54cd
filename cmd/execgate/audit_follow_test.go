package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
)

// brokenSource answers with the errors in turn, and with a record each time that there
// is none. It notes when it was asked.
type brokenSource struct {
	errs  []error
	asked []time.Duration
	begun time.Time
	seq   uint64
}

func (s *brokenSource) page(context.Context, execution.RecordQuery) (execution.RecordPage, error) {
	s.asked = append(s.asked, time.Since(s.begun))
	err := s.errs[0]
	s.errs = s.errs[1:]
	if err != nil {
		return execution.RecordPage{}, err
	}
	s.seq++
	return execution.RecordPage{Records: []execution.Record{{Seq: s.seq}}}, nil
}

// What passes is waited for, ever longer, and said once; what does not ends it.
func TestFollowingOutlastsAGateway(t *testing.T) {
	down := coded{exitUnavailable, errors.New("the gateway is out of reach")}
	busy := coded{exitBusy, errors.New("429 Too Many Requests")}
	denied := coded{exitDenied, errors.New("403 Forbidden")}
	synctest.Test(t, func(t *testing.T) {
		source := &brokenSource{begun: time.Now()}
		source.errs = append(source.errs, nil, down, down, busy, nil, nil)
		source.errs = append(source.errs, slices.Repeat([]error{down}, 8)...)
		source.errs = append(source.errs, nil, denied)
		var shown []uint64
		var told bytes.Buffer
		err := follower{from: source, tell: &told, show: func(records []execution.Record) error {
			for _, r := range records {
				shown = append(shown, r.Seq)
			}
			return nil
		}}.run(t.Context())
		if !errors.Is(err, denied) {
			t.Errorf("ends with %v", err)
		}
		if !slices.Equal(shown, []uint64{1, 2, 3, 4}) {
			t.Errorf("shown are %v", shown)
		}
		var at []time.Duration
		for _, d := range source.asked {
			at = append(at, d/time.Second)
		}
		// One second each where it answers; after failures 1, 2, 4 … and at most 30.
		if want := []time.Duration{0, 1, 2, 4, 8, 9, 10, 11, 13, 17, 25, 41, 71, 101, 131, 132}; !slices.Equal(at, want) {
			t.Errorf("asked at the seconds %v, want %v", at, want)
		}
		if n := strings.Count(told.String(), "\n"); n != 2 || strings.Count(told.String(), "execgate: the gateway is out of reach; it is asked again") != 2 {
			t.Errorf("of two outages it tells\n%s", told.String())
		}
	})
}

// A table shows what was written: U+FFFD as itself, and a byte that is no UTF-8 as one,
// also where the text is cut.
func TestColumnOfATable(t *testing.T) {
	long := strings.Repeat("x", maxColumn-1)
	for text, want := range map[string]string{
		"": "-", "a\ufffdb": "a\ufffdb", "a\xefb": `a\xefb`, "\xff\ufffd": `\xff` + "\ufffd", "a\x1bb\n": `a\x1bb\n`, "\u202e": `\u202e`,
		long + "y": long + "y", long + "yz": long + "…", "\xff" + long + "y": `\xff` + long[1:] + "…", "\ufffd" + long + "y": "\ufffd" + long[1:] + "…",
	} {
		if got := columnOf(text); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}
