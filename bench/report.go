package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// report is what bench/out/executions.json holds.
type report struct {
	Machine     machine  `json:"machine"`
	ResidentKiB int64    `json:"gateway_resident_kib"` // of the one with the pool, after all of this
	Turns       []series `json:"turns"`
	Rates       []series `json:"rates"`
}

// machine is what the numbers depend on.
type machine struct {
	Cores   int    `json:"cores"`
	Kernel  string `json:"kernel"`
	System  string `json:"system"`
	Engine  string `json:"engine"`
	Cgroup  string `json:"cgroup"`
	Runtime string `json:"runtime"`
	Load    string `json:"load"` // /proc/loadavg before the first execution
	Pool    int    `json:"pool"` // sandboxes that the gateway with a pool keeps parked
}

// series is what one way did for one number of callers.
type series struct {
	Way      string  `json:"way"`
	Callers  int     `json:"callers"`
	MedianMS float64 `json:"median_ms"`
	P99MS    float64 `json:"p99_ms"`
	// PerSecond is what was answered, over Seconds; zero in turns.
	PerSecond float64 `json:"per_second,omitempty"`
	Seconds   float64 `json:"seconds,omitempty"`
	// Ratio is to the engine's own way with as many callers: of the rates, and in
	// turns of the medians. Zero where that was not measured.
	Ratio      float64   `json:"ratio,omitempty"`
	Warm       int       `json:"warm"` // executions whose sandbox was up before
	Errors     int       `json:"errors"`
	FirstError string    `json:"first_error,omitempty"`
	Refused    int       `json:"refused,omitempty"` // before it began: executions that found no sandbox
	CPUMS      spent     `json:"cpu_ms,omitempty"`  // of each execution
	RunsMS     []float64 `json:"runs_ms"`
}

func (s *series) add(e executed) {
	if e.err != nil {
		if s.Errors++; s.Errors == 1 {
			s.FirstError = e.err.Error()
		}
		return
	}
	if e.warm {
		s.Warm++
	}
	s.RunsMS = append(s.RunsMS, e.ms)
}

// summarize fills in what follows from the runs.
func summarize(results []series) {
	base := map[int]series{}
	for i := range results {
		s := &results[i]
		sorted := slices.Sorted(slices.Values(s.RunsMS))
		s.MedianMS, s.P99MS = quantile(sorted, 0.5), quantile(sorted, 0.99)
		if s.Seconds > 0 {
			s.PerSecond = float64(len(s.RunsMS)) / s.Seconds
		}
		if s.Way == engineWay {
			base[s.Callers] = *s
		}
	}
	for i := range results {
		s := &results[i]
		b, ok := base[s.Callers]
		switch {
		case !ok || len(b.RunsMS) == 0:
		case s.Seconds > 0:
			s.Ratio = s.PerSecond / b.PerSecond
		default:
			s.Ratio = s.MedianMS / b.MedianMS
		}
	}
}

// quantile is the smallest value that more than q of the values do not exceed, or
// the largest; zero of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (r report) showTurns() {
	m := r.Machine
	fmt.Printf("%s, %d cores, Linux %s, engine %s, %s, load %s\n", m.System, m.Cores, m.Kernel, m.Engine, m.Runtime, m.Load)
	fmt.Printf("\nOne caller, in turns\n%-28s %6s %10s %10s %8s\n", "", "runs", "median ms", "p99 ms", "ratio")
	for _, s := range r.Turns {
		fmt.Printf("%-28s %6d %10.1f %10.1f %8.3f\n", s.Way, len(s.RunsMS), s.MedianMS, s.P99MS, s.Ratio)
	}
}

func (r report) showRates(callers []int) {
	r.table("Executions per second, by callers", callers, func(s series) string { return fmt.Sprintf("%.1f", s.PerSecond) })
	r.table("Times the engine's own rate", callers, func(s series) string { return fmt.Sprintf("%.2f", s.Ratio) })
	r.table("Median / p99 in ms", callers, func(s series) string { return fmt.Sprintf("%.1f / %.0f", s.MedianMS, s.P99MS) })
	r.table("Errors of executions", callers, func(s series) string { return fmt.Sprintf("%d of %d", s.Errors, s.Errors+len(s.RunsMS)) })
	for _, s := range r.Rates {
		if s.Errors > 0 {
			fmt.Printf("%s, %d callers: %s\n", s.Way, s.Callers, s.FirstError)
		}
		if s.Refused > 0 {
			fmt.Printf("%s, %d callers: %d first executions failed while as many sandboxes started\n", s.Way, s.Callers, s.Refused)
		}
	}
}

// table prints a row for each way and a column for each number of callers.
func (r report) table(title string, callers []int, cell func(series) string) {
	fmt.Printf("\n%s\n%-28s", title, "")
	for _, n := range callers {
		fmt.Printf(" %14s", strconv.Itoa(n))
	}
	var way string
	for _, s := range r.rows(callers) {
		if s.Way != way {
			fmt.Printf("\n%-28s", s.Way)
			way = s.Way
		}
		fmt.Printf(" %14s", cell(s))
	}
	fmt.Println()
}

// rows are the rates, way by way.
func (r report) rows(callers []int) []series {
	ways := len(r.Rates) / len(callers)
	var rows []series
	for w := range ways {
		for c := range callers {
			rows = append(rows, r.Rates[c*ways+w])
		}
	}
	return rows
}

// save keeps the raw numbers.
func (r report) save(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("save the numbers: %w", err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("save the numbers: %w", err)
	}
	path := filepath.Join(folder, "executions.json")
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("save the numbers: %w", err)
	}
	fmt.Println("raw numbers:", strings.TrimPrefix(path, "./"))
	return nil
}
