package executor

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
	"github.com/google/go-cmp/cmp"
)

// Where several hold, the first in the order of execution.Outcome is told.
func TestOutcomePrecedence(t *testing.T) {
	everything := func() ending {
		return ending{cancelled: true, timedOut: true, outputExceeded: true, oomKilled: true,
			exited: &wire.Exited{Signal: 9, OOMKills: 1, PIDsHit: true, FullMounts: []string{"/tmp"}}}
	}
	steps := []struct {
		want   execution.Outcome
		remove func(*ending) // what made it so
	}{
		{execution.OutcomeCancelled, func(e *ending) { e.cancelled = false }},
		{execution.OutcomeTimedOut, func(e *ending) { e.timedOut = false }},
		{execution.OutcomeOutOfMemory, func(e *ending) { e.oomKilled = false }},
		{execution.OutcomeOutOfMemory, func(e *ending) { e.exited.OOMKills = 0 }},
		{execution.OutcomeOutputLimit, func(e *ending) { e.outputExceeded = false }},
		{execution.OutcomePIDsLimit, func(e *ending) { e.exited.PIDsHit = false }},
		{execution.OutcomeDiskLimit, func(e *ending) { e.exited.FullMounts = nil }},
		{execution.OutcomeKilled, func(e *ending) { e.exited.Signal = 0 }},
		{execution.OutcomeExited, func(*ending) {}},
	}
	e := everything()
	for _, step := range steps {
		if got := e.outcome(); got != step.want {
			t.Errorf("%+v %+v: %s, want %s", e, e.exited, got, step.want)
		}
		step.remove(&e)
	}
}

func TestOutcome(t *testing.T) {
	limits := wire.Exited{OOMKills: 1, PIDsHit: true, FullMounts: []string{"/tmp", "/dev/shm", "/proc", "/workspace"}, FilesTruncated: true}
	failed := limits
	failed.ExitCode = 1
	cases := map[string]struct {
		ending ending
		want   execution.Outcome
		hit    []string
	}{
		"nothing is known":         {ending{}, execution.OutcomeKilled, []string{}},
		"the engine says memory":   {ending{oomKilled: true}, execution.OutcomeOutOfMemory, []string{"memory_mib"}},
		"limits met, ended well":   {ending{exited: &limits}, execution.OutcomeExited, []string{"memory_mib", "pids", "tmp_mib", "shm_mib", "workspace_mib", "files_mib"}},
		"limits met, failed":       {ending{exited: &failed}, execution.OutcomeOutOfMemory, []string{"memory_mib", "pids", "tmp_mib", "shm_mib", "workspace_mib", "files_mib"}},
		"137 is an exit code":      {ending{exited: &wire.Exited{ExitCode: 137}}, execution.OutcomeExited, []string{}},
		"killed by a signal":       {ending{exited: &wire.Exited{Signal: 11}}, execution.OutcomeKilled, []string{}},
		"ended well, but too loud": {ending{outputExceeded: true, exited: &wire.Exited{}}, execution.OutcomeOutputLimit, []string{"output_kib"}},
		"ended well, but late":     {ending{timedOut: true, exited: &wire.Exited{}}, execution.OutcomeTimedOut, []string{"timeout_ms"}},
	}
	for name, c := range cases {
		if got := c.ending.outcome(); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if diff := cmp.Diff(c.hit, c.ending.limitsHit()); diff != "" {
			t.Errorf("%s: limits_hit (-want +got):\n%s", name, diff)
		}
	}
}

func TestPlausible(t *testing.T) {
	if !plausible(wire.Exited{}) || !plausible(wire.Exited{ExitCode: 255, Signal: 64, WallUS: 1, CPUUS: 1, PeakMemory: 1, OOMKills: 1}) {
		t.Error("what an agent says is refused")
	}
	for _, x := range []wire.Exited{{ExitCode: -1}, {ExitCode: 256}, {Signal: -1}, {Signal: 65}, {WallUS: -1}, {CPUUS: 1 << 62}, {PeakMemory: -1}, {OOMKills: -1}} {
		if plausible(x) {
			t.Errorf("%+v is believed", x)
		}
	}
}

func TestCheckValue(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for in, want := range map[string]string{
		"":                        "",
		" \n\t":                   "",
		"1":                       "1",
		" { \"a\" : [ 1 , 2 ] } ": `{"a":[1,2]}`,
		"null":                    "null",
		`"[[[\"[["`:               `"[[[\"[["`,
		`"é"`:                     `"é"`,
		deep(200):                 deep(200),
	} {
		if got, why := checkValue([]byte(in)); string(got) != want || why != "" {
			t.Errorf("%.50q: %.50q, %s", in, got, why)
		}
	}
	for in, want := range map[string]string{
		"{":                        "not JSON",
		"1 2":                      "not JSON",
		"nul":                      "not JSON",
		"\x00":                     "not JSON",
		"'a'":                      "not JSON",
		"\"\xff\"":                 "not UTF-8",
		"\xef\xbb\xbf1":            "not JSON",
		deep(201):                  "nested too deeply",
		strings.Repeat("[", 1<<20): "nested too deeply",
		deep(100_000):              "nested too deeply",
		`{"a":` + deep(200) + `}`:  "nested too deeply",
	} {
		if got, why := checkValue([]byte(in)); got != nil || !strings.Contains(why, want) {
			t.Errorf("%.50q: %.50q, %s", in, got, why)
		}
	}
}

func FuzzCheckValue(f *testing.F) {
	for _, seed := range []string{"", "1", `{"a":[1,"\"["]}`, "[[[[", "\"\xff\"", `"\u0000"`, `{"a":1,"a":2}`, "1e999"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		value, why := checkValue(in)
		if value != nil && why != "" {
			t.Fatal("a value and an error")
		}
		if value == nil {
			return
		}
		if !json.Valid(value) || !utf8.Valid(value) {
			t.Fatalf("%q came through", value)
		}
		again, why := checkValue(value)
		if !bytes.Equal(again, value) || why != "" {
			t.Fatalf("%q is not what it was: %q %s", value, again, why)
		}
	})
}
