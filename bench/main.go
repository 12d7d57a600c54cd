// Command bench measures what short executions cost through the gateway, beside
// `docker run` and the engine's own API with the same hardening, in one run and
// in turns, since the machines it runs on are noisy. Ratios hold where absolute
// times do not.
//
//	go run ./bench -execgate bin/execgate
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The programs, and what both print.
const (
	code       = "print('Hello from sandbox!')\nprint(2 + 2)\n"
	pandasCode = "import pandas\n" + code
	want       = "Hello from sandbox!\n4\n"
)

// most is how many callers there are at most: what a gateway runs at once, if
// nothing else is said.
const most = 16

// options are what the command line says.
type options struct {
	binary, out string
	rounds      int
	window      time.Duration
	callers     []int
	only        *regexp.Regexp
}

func main() {
	o, err := parse()
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = bench(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (options, error) {
	var o options
	flag.IntVar(&o.rounds, "runs", 15, "rounds in which each way has its turn, with one caller; 0: none")
	flag.DurationVar(&o.window, "window", 2*time.Second, "how long callers begin executions, of each way and number of callers; 0: none")
	flag.StringVar(&o.binary, "execgate", "bin/execgate", "path of execgate")
	flag.StringVar(&o.out, "out", "bench/out", "folder for the raw numbers")
	callers := flag.String("callers", "1,2,4,8,16", "how many callers there are at once")
	only := flag.String("only", "", "regular expression of the ways to measure")
	flag.Parse()
	for text := range strings.SplitSeq(*callers, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			return o, fmt.Errorf("-callers: %q: there may be 1 to %d", text, most)
		}
		o.callers = append(o.callers, n)
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	return o, nil
}

func bench(ctx context.Context, o options) error {
	engine, err := newEngine()
	if err != nil {
		return err
	}
	facts, err := engine.facts(ctx)
	if err != nil {
		return err
	}
	g, err := startGateways(ctx, engine, o.binary)
	if err != nil {
		return err
	}
	defer g.stop()
	ways := matching(waysOf(engine, g), o.only)
	r := report{Machine: facts}
	if o.rounds > 0 {
		if r.Turns, err = turns(ctx, ways, o.rounds); err != nil {
			return err
		}
		r.showTurns()
	}
	if o.window > 0 {
		if r.Rates, err = rates(ctx, ways, o.callers, o.window); err != nil {
			return err
		}
		r.showRates(o.callers)
	}
	if r.ResidentKiB, err = g.pooled.resident(); err != nil {
		return err
	}
	fmt.Printf("\nresident memory of the gateway with a pool of %d: %d MiB\n", pool, r.ResidentKiB>>10)
	return r.save(o.out)
}
