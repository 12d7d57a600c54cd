package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

func exported(t testing.TB, cfg Config, key string, r Range) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := Export(&out, cfg.Dir, key, r); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func checkedExport(t testing.TB, data []byte, key string) ProofReport {
	t.Helper()
	report, err := CheckExport(bytes.NewReader(data), key)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// Every range of a small log, and some of a larger one, are exported and hold.
func TestExportRanges(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	size := uint64(fill(t, l, 9) + 1)
	mustAppend(t, l, decided(9, execution.EffectDeny))
	stop()
	key := l.Verifier()
	for from := range size {
		for to := from; to < size; to++ {
			data := exported(t, cfg, key, Range{From: &from, To: &to})
			report := checkedExport(t, data, key)
			if !report.Integrity.OK || report.First != from || report.Last != to || report.Records != to-from+1 || report.Size != size {
				t.Fatalf("%d to %d: %+v", from, to, report)
			}
			for i, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n"))[1 : to-from+2] {
				var l struct{ Record execution.Record }
				if err := json.Unmarshal(line, &l); err != nil || l.Record.Seq != from+uint64(i) || l.Record.Type == "" {
					t.Fatalf("line %d is %s: %v", i+2, line, err)
				}
			}
		}
	}
	for _, r := range []struct{ from, to uint64 }{{3, 2}, {0, size}, {size, size}} {
		if _, err := Export(&bytes.Buffer{}, cfg.Dir, key, Range{From: &r.from, To: &r.to}); err == nil {
			t.Errorf("%d to %d was exported", r.from, r.to)
		}
	}
	cfg, key = writtenLog(t)
	if report := checkedExport(t, exported(t, cfg, key, Range{}), key); !report.Integrity.OK || report.First != 0 || report.Last+1 != report.Size {
		t.Errorf("the whole log: %+v", report)
	}
}

// A range of times is the smallest range of numbers with all records of that time,
// also where the clock stepped back.
func TestExportByTime(t *testing.T) {
	cfg := folders(t)
	l, stop := running(t, cfg)
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, minute := range []int{0, 1, 2, 9, 3, 4, 10, 11} {
		rec := decided(1, execution.EffectDeny)
		rec.Time = noon.Add(time.Duration(minute) * time.Minute)
		mustAppend(t, l, rec)
	}
	stop()
	at := func(minute int) time.Time { return noon.Add(time.Duration(minute) * time.Minute) }
	for _, c := range []struct {
		begin, end  time.Time
		first, last uint64
	}{
		{at(2), at(4), 2, 5},
		{at(9), at(9), 3, 3},
		{at(10), time.Time{}, 6, 7},
		{time.Time{}, at(3), 0, 4},
		{at(4), at(9), 3, 5},
	} {
		report := checkedExport(t, exported(t, cfg, l.Verifier(), Range{FromTime: c.begin, ToTime: c.end}), l.Verifier())
		if !report.Integrity.OK || report.First != c.first || report.Last != c.last {
			t.Errorf("%v to %v: %d to %d, want %d to %d: %v", c.begin, c.end, report.First, report.Last, c.first, c.last, report.Integrity)
		}
	}
	if _, err := Export(&bytes.Buffer{}, cfg.Dir, l.Verifier(), Range{FromTime: at(20)}); err == nil || !strings.Contains(err.Error(), "no record has a time") {
		t.Errorf("a time after all: %v", err)
	}
}

// Each case alters an export; the finding must name the line.
func TestAlteredExportsShow(t *testing.T) {
	cfg, key := writtenLog(t)
	other, otherKey := writtenLog(t)
	from, to := uint64(20), uint64(40)
	r := Range{From: &from, To: &to}
	good := strings.SplitAfter(string(exported(t, cfg, key, r)), "\n")
	good = good[:len(good)-1]
	foreign := strings.SplitAfter(string(exported(t, other, otherKey, r)), "\n")
	foreign = foreign[:len(foreign)-1]
	last := len(good) // its number, and that of the foot
	replace := func(n int, old, new string) func(lines []string) []string {
		return func(lines []string) []string {
			if !strings.Contains(lines[n-1], old) {
				t.Fatalf("line %d is %s", n, lines[n-1])
			}
			lines[n-1] = strings.Replace(lines[n-1], old, new, 1)
			return lines
		}
	}
	cases := []struct {
		name   string
		change func(lines []string) []string
		line   int
	}{
		{"a line removed", func(l []string) []string { return append(l[:4], l[5:]...) }, 5},
		{"the first record removed", func(l []string) []string { return append(l[:1], l[2:]...) }, 2},
		{"the last record removed", func(l []string) []string { return append(l[:last-2], l[last-1]) }, last - 1},
		{"two lines swapped", func(l []string) []string { l[9], l[10] = l[10], l[9]; return l }, 10},
		{"a line twice", func(l []string) []string { return append(l[:6], l[5:]...) }, 7},
		{"a record altered", replace(8, `"acme"`, `"evil"`), 8},
		{"a space in a record", replace(8, `"record":{`, `"record":{ `), 8},
		{"a field added to a line", replace(8, `"seq":`, `"note":"harmless","seq":`), 8},
		{"a frame type altered", replace(8, `"frame_type":17`, `"frame_type":16`), 8},
		{"a record made void", func(l []string) []string {
			head, rest, _ := strings.Cut(l[7], `"frame_type":17,"ref":0`)
			_, leaf, _ := strings.Cut(rest, `,"leaf"`)
			leaf, _, _ = strings.Cut(leaf, `,"record"`)
			l[7] = head + `"frame_type":255,"leaf"` + leaf + "}\n"
			return l
		}, 8},
		{"a record and its leaf altered", func(l []string) []string {
			var line exportLine
			if err := json.Unmarshal([]byte(l[7]), &line); err != nil {
				t.Fatal(err)
			}
			line.Record = bytes.Replace(line.Record, []byte("acme"), []byte("evil"), 1)
			body := append(make([]byte, 8), line.Salt...)
			line.Leaf = hashFrame(frame{typ: frameType(line.FrameType), seq: line.Seq, body: append(body, line.Record...)})
			l[7] = string(line.append(nil)) + "\n"
			return l
		}, 1},
		{"another log's record", func(l []string) []string { l[7] = foreign[7]; return l }, 1},
		{"the range made shorter", func(l []string) []string {
			l[0] = strings.Replace(l[0], `"to":40`, `"to":39`, 1)
			return append(l[:last-2], l[last-1])
		}, last - 1},
		{"the range made longer", replace(1, `"to":40`, `"to":41`), last},
		{"a forged checkpoint", replace(1, `"checkpoint":"execgate/audit/`, `"checkpoint":"execgate/audit/0`), 1},
		{"another log's checkpoint", func(l []string) []string { l[0] = foreign[0]; return l }, 1},
		{"a hash before altered", replace(1, `"left":["`, `"left":["A`), 1},
		{"the last line missing", func(l []string) []string { return l[:last-1] }, last},
		{"cut within a record", func(l []string) []string { return append(l[:9], l[9][:50]) }, 10},
		{"something after", func(l []string) []string { return append(l, "{}\n") }, last + 1},
		{"the first line missing", func(l []string) []string { return l[1:] }, 1},
		{"empty", func([]string) []string { return nil }, 0},
		{"not JSON", func(l []string) []string { l[5] = "no\n"; return l }, 6},
		{"capitals in the last line", replace(last, `"right"`, `"Right"`), last},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			report := checkedExport(t, []byte(strings.Join(c.change(append([]string{}, good...)), "")), key)
			if report.Integrity.OK {
				t.Fatal("it was not noticed")
			}
			if got := report.Integrity.Findings[0].File; got != fmt.Sprintf("line %d", c.line) {
				t.Errorf("found in %s, want line %d: %v", got, c.line, report.Integrity.Findings)
			}
			if report.Records != 0 {
				t.Errorf("%d records are called proven", report.Records)
			}
		})
	}
	if report := checkedExport(t, []byte(strings.Join(good, "")), otherKey); report.Integrity.OK {
		t.Error("another log's key was good enough")
	}
}

// FuzzCheck looks for a proof or an export that makes the check panic or hang.
func FuzzCheck(f *testing.F) {
	cfg, key := writtenLog(f)
	seq, from, to := uint64(5), uint64(4), uint64(6)
	p, err := Prove(cfg.Dir, key, ProveOptions{Seq: &seq, From: latest(f, cfg)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(proofText(f, p))
	f.Add(exported(f, cfg, key, Range{From: &from, To: &to}))
	f.Add(latest(f, cfg))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, check := range []func() (ProofReport, error){
			func() (ProofReport, error) { return CheckProof(data, key) },
			func() (ProofReport, error) { return CheckExport(bytes.NewReader(data), key) },
		} {
			report, err := check()
			if err == nil && !report.Integrity.OK && report.Records > 0 {
				t.Errorf("what does not hold is called proven: %+v", report)
			}
		}
	})
}
