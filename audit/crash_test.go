package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
)

// crashState names the variable by which the test binary, run as a child, knows
// the folder in which it is to append until it is killed.
const crashState = "EXECGATE_AUDIT_CRASH_STATE"

func TestMain(m *testing.M) {
	if state := os.Getenv(crashState); state != "" {
		appendUntilKilled(state)
	}
	if state := os.Getenv(injectState); state != "" {
		workInjected(state)
		return
	}
	os.Exit(m.Run())
}

// appendUntilKilled appends executions from several goroutines and writes a line
// for each record that was acknowledged.
func appendUntilKilled(state string) {
	l, err := New(injected(state))
	if err != nil {
		fmt.Println("fail", err)
		os.Exit(1)
	}
	go l.Run(context.Background())
	for _, open := range l.Unended() {
		rec := ended(0, open.DecidedSeq)
		rec.Execution = open.Execution
		acknowledged(l, rec)
	}
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := 0; ; i++ {
				n := worker*1_000_000_000 + os.Getpid()*10_000 + i
				seq := acknowledged(l, decided(n, execution.EffectAllow))
				l.AppendLater(started(n, seq), func(error) {})
				acknowledged(l, ended(n, seq))
			}
		})
	}
	all.Wait()
}

func acknowledged(l *Log, rec execution.Record) uint64 {
	if rec.Ended != nil {
		about := rec
		about.Type = ending
		tell(about, 0)
	}
	for {
		seq, err := l.Append(context.Background(), rec)
		if errors.Is(err, errCap) {
			continue // retention makes room
		}
		if err != nil {
			fmt.Println("fail", err)
			os.Exit(1)
		}
		tell(rec, seq)
		return seq
	}
}

// Invariant 9: no acknowledged record is ever lost. A process is killed with
// SIGKILL at a random moment, again and again, on one log.
func TestKilledAtRandom(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	cfg := small(t)
	state := filepath.Dir(cfg.Dir)
	c := newChecker()
	for range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashState+"="+state)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines, kill := bufio.NewScanner(out), 1+rand.IntN(300)
		for n := 0; lines.Scan(); n++ {
			c.told(t, lines.Text())
			if n == kill {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // was killed
		c.check(t, cfg.Dir)
	}
	c.recovered(t, cfg)
}
