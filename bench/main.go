// Command bench measures what one short execution costs through the gateway,
// beside `docker run` and the engine's own API with the same hardening, in one
// run and in turns, since the machines it runs on are noisy. Ratios hold where
// absolute times do not.
//
//	go run ./bench -execgate bin/execgate
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// The programs, and what both print.
const (
	code       = "print('Hello from sandbox!')\nprint(2 + 2)\n"
	pandasCode = "import pandas\n" + code
	want       = "Hello from sandbox!\n4\n"
)

// way is one way of running a program.
type way struct {
	name string
	run  func(context.Context) (stdout string, err error)
	// settle waits, untimed, until a run has left nothing to do that would slow
	// the next one; nil where run itself waits for that.
	settle func(context.Context) error
}

// series is what one way took.
type series struct {
	Name     string    `json:"name"`
	MedianMS float64   `json:"median_ms"`
	P99MS    float64   `json:"p99_ms"`
	Ratio    float64   `json:"ratio"` // of medians, to the engine's own API
	RunsMS   []float64 `json:"runs_ms"`
}

func main() {
	runs := flag.Int("runs", 30, "counted runs of each way")
	binary := flag.String("execgate", "bin/execgate", "path of execgate")
	out := flag.String("out", "bench/out", "folder for the raw numbers")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := bench(ctx, *binary, *out, *runs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context, binary, out string, runs int) error {
	cold, err := startGateway(ctx, binary, "EXECGATE_EXECUTOR_WARM_TARGET=0", "EXECGATE_EXECUTOR_WARM_PRELOAD_TARGET=0")
	if err != nil {
		return err
	}
	defer cold.stop()
	warm, err := startGateway(ctx, binary)
	if err != nil {
		return err
	}
	defer warm.stop()
	engine, err := newEngine(ctx)
	if err != nil {
		return err
	}
	parked := func(ctx context.Context) error { return engine.running(ctx, warm.parks) }
	if err := parked(ctx); err != nil {
		return err
	}
	// The answer does not wait for the removal of the container, nor for the
	// next parked one, so both are waited for before the next way is timed.
	ways := []way{
		{name: "engine API: create, attach, start, wait, remove", run: engine.run},
		{name: "docker run --rm", run: engine.dockerRun},
		{name: "POST /v1/executions, cold", run: cold.runs(code, false), settle: parked},
		{name: "POST /v1/executions, warm", run: warm.runs(code, true), settle: parked},
		{name: "POST /v1/executions, warm, import pandas", run: warm.runs(pandasCode, true), settle: parked},
	}
	results, err := measure(ctx, ways, runs)
	if err != nil {
		return err
	}
	show(results, runs)
	return save(out, results)
}

// measure runs the ways in turns, after one run of each that does not count.
func measure(ctx context.Context, ways []way, runs int) ([]series, error) {
	results := make([]series, len(ways))
	for i := range runs + 1 {
		for w, way := range ways {
			began := time.Now()
			stdout, err := way.run(ctx)
			took := time.Since(began)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", way.name, err)
			}
			if stdout != want {
				return nil, fmt.Errorf("%s: printed %q, want %q", way.name, stdout, want)
			}
			if way.settle != nil {
				if err := way.settle(ctx); err != nil {
					return nil, fmt.Errorf("%s: %w", way.name, err)
				}
			}
			if i > 0 {
				results[w].RunsMS = append(results[w].RunsMS, float64(took.Microseconds())/1000)
			}
		}
	}
	for w := range results {
		sorted := slices.Sorted(slices.Values(results[w].RunsMS))
		results[w].Name = ways[w].name
		results[w].MedianMS = quantile(sorted, 0.5)
		results[w].P99MS = quantile(sorted, 0.99)
		results[w].Ratio = results[w].MedianMS / results[0].MedianMS
	}
	return results, nil
}

// quantile is the smallest value that at least q of the values do not exceed.
func quantile(sorted []float64, q float64) float64 {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func show(results []series, runs int) {
	fmt.Printf("%d runs of each in turns, %s/%s, %d CPUs\n\n", runs, runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	fmt.Printf("%-50s %12s %12s %8s\n", "", "median", "p99", "ratio")
	for _, r := range results {
		fmt.Printf("%-50s %9.1f ms %9.1f ms %8.2f\n", r.Name, r.MedianMS, r.P99MS, r.Ratio)
	}
}

// save keeps the raw numbers.
func save(folder string, results []series) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("save the numbers: %w", err)
	}
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return fmt.Errorf("save the numbers: %w", err)
	}
	path := filepath.Join(folder, "executions.json")
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("save the numbers: %w", err)
	}
	fmt.Println("\nraw numbers:", path)
	return nil
}
