package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/policy/worker"
)

// The test's own program is the worker where this is set.
const asWorker = "EXECGATE_TEST_WORKER"

func TestMain(m *testing.M) {
	if os.Getenv(asWorker) == "" {
		os.Exit(m.Run())
	}
	if err := worker.LimitMemory(256); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := worker.Serve(os.Stdin, os.Stdout, obey, func() { os.Exit(0) }); err != nil {
		os.Exit(1)
	}
}

// obey does what a message says.
func obey(message []byte) []byte {
	switch what, _ := bytes.CutPrefix(message, []byte("please ")); string(what) {
	case "spin":
		for {
		}
	case "eat":
		var eaten [][]byte
		for {
			more := bytes.Repeat([]byte("x"), 1<<20)
			eaten = append(eaten, more)
		}
	case "die":
		panic("as told")
	case "babble":
		for {
			os.Stdout.Write(bytes.Repeat([]byte("\xff"), 1<<16))
		}
	case "environment":
		return []byte(strings.Join(os.Environ(), " "))
	case "pid":
		return []byte(strconv.Itoa(os.Getpid()))
	}
	return message
}

func newPool(t *testing.T, size, queued int) *worker.Pool {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pool, err := worker.New(worker.Config{Command: []string{program}, Env: []string{asWorker + "=1", "GOMAXPROCS=1"}, Size: size, MaxQueued: queued})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// ask sends one message for a key, and gives the answer so much time.
func ask(t *testing.T, pool *worker.Pool, key, message string, within time.Duration) (answer string, err error) {
	t.Helper()
	err = pool.Do(t.Context(), key, func(ctx context.Context, p *worker.Process) error {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		got, err := p.Exchange(ctx, []byte(message), 1<<10)
		answer = string(got)
		return err
	})
	return answer, err
}

const plenty = 3 * time.Minute

func TestWork(t *testing.T) {
	pool := newPool(t, 2, 8)
	for range 3 {
		if got, err := ask(t, pool, "a", "hello", plenty); err != nil || got != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	first, _ := ask(t, pool, "a", "please pid", plenty)
	if second, _ := ask(t, pool, "a", "please pid", plenty); first == "" || second != first {
		t.Errorf("processes %q and %q: one that is fit is used again", first, second)
	}
	t.Setenv("VAULT_TOKEN", "secret")
	if got, _ := ask(t, pool, "b", "please environment", plenty); strings.Contains(got, "secret") || !strings.Contains(got, asWorker) {
		t.Errorf("the environment is %q", got)
	}
}

// What runs away, eats the memory, dies or babbles costs its own process, and the
// next job of the same key gets another.
func TestWorkThatHarms(t *testing.T) {
	for _, harm := range []string{"spin", "eat", "die", "babble"} {
		t.Run(harm, func(t *testing.T) {
			pool := newPool(t, 2, 8)
			good, _ := ask(t, pool, "good", "please pid", plenty)
			bad, _ := ask(t, pool, "bad", "please pid", plenty)
			within := plenty
			if harm == "spin" {
				within = 50 * time.Millisecond
			}
			if got, err := ask(t, pool, "bad", "please "+harm, within); err == nil {
				t.Fatalf("it answered %q", got)
			}
			after, err := ask(t, pool, "bad", "please pid", plenty)
			if err != nil || after == bad {
				t.Errorf("process %s after %s: %v", after, bad, err)
			}
			if still, err := ask(t, pool, "good", "please pid", plenty); err != nil || still != good {
				t.Errorf("the process of another key is %s, was %s: %v", still, good, err)
			}
			pid, _ := strconv.Atoi(bad)
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the process %d is still there: %v", pid, err)
			}
		})
	}
}

// A key that keeps every process it can get busy, or has one after the other killed,
// leaves one to the others, and always the same.
func TestOneKeyCannotHaveThemAll(t *testing.T) {
	pool := newPool(t, 2, 64)
	stop, cancel := context.WithCancel(t.Context())
	var bad sync.WaitGroup
	began := make(chan struct{}, 64)
	for i := range 16 {
		most := time.Duration(0) // most are killed at once: few moments pass in which none of theirs begins or ends
		if i == 0 {
			most = 20 * time.Millisecond
		}
		bad.Go(func() {
			for stop.Err() == nil {
				_ = pool.Do(stop, "bad", func(ctx context.Context, p *worker.Process) error {
					select {
					case began <- struct{}{}:
					default:
					}
					ctx, cancel := context.WithTimeout(ctx, most)
					defer cancel()
					_, err := p.Exchange(ctx, []byte("please spin"), 100)
					return err
				})
			}
		})
	}
	<-began
	var pids []string
	for range 2000 {
		pid, err := ask(t, pool, "good", "please pid", plenty)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	cancel()
	bad.Wait()
	if slices.Sort(pids); len(slices.Compact(pids)) != 1 {
		t.Errorf("the processes of the key that does no harm were %v", slices.Compact(pids))
	}
}

// Jobs of a key have their order, and keys take turns.
func TestTurns(t *testing.T) {
	pool := newPool(t, 2, 8)
	var holders, rest sync.WaitGroup
	held := make(chan struct{}, 2)
	hold := map[string]chan struct{}{"x": make(chan struct{}), "y": make(chan struct{})}
	for key, release := range hold {
		holders.Go(func() {
			_ = pool.Do(t.Context(), key, func(context.Context, *worker.Process) error { held <- struct{}{}; <-release; return nil })
		})
	}
	<-held
	<-held
	var mu sync.Mutex
	var order []string
	enter := func(ctx context.Context, key string) error {
		return pool.Do(ctx, key, func(context.Context, *worker.Process) error {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, key)
			return nil
		})
	}
	for _, key := range []string{"a", "a", "a", "b"} {
		waiting := pool.Waiting()
		rest.Go(func() {
			if err := enter(t.Context(), key); err != nil {
				t.Error(err)
			}
		})
		for pool.Waiting() == waiting {
			time.Sleep(time.Millisecond)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := enter(gone, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("one that is gone: %v", err)
	}
	close(hold["x"]) // one place is free, so that jobs write down their order one after the other
	rest.Wait()
	close(hold["y"])
	holders.Wait()
	if want := []string{"a", "b", "a", "a"}; !slices.Equal(order, want) {
		t.Errorf("the order was %v, want %v", order, want)
	}
}

func TestTooManyWait(t *testing.T) {
	pool := newPool(t, 2, 1)
	hold, held := make(chan struct{}), make(chan struct{})
	var jobs sync.WaitGroup
	jobs.Go(func() {
		_ = pool.Do(t.Context(), "a", func(context.Context, *worker.Process) error { close(held); <-hold; return nil })
	})
	<-held
	jobs.Go(func() {
		_ = pool.Do(t.Context(), "a", func(context.Context, *worker.Process) error { return nil })
	})
	for pool.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, err := ask(t, pool, "a", "x", plenty); !errors.Is(err, worker.ErrBusy) {
		t.Errorf("%v, want %v", err, worker.ErrBusy)
	}
	if got, err := ask(t, pool, "b", "x", plenty); err != nil || got != "x" {
		t.Errorf("another key: %q, %v", got, err)
	}
	close(hold)
	jobs.Wait()
	pool.Close()
	if _, err := ask(t, pool, "a", "x", plenty); err == nil {
		t.Error("a closed pool works")
	}
}

// A process whose pool is gone ends, also in the middle of its work.
func TestOrphanEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	spinning := make(chan struct{})
	go func() {
		_ = worker.Serve(r, bytes.NewBuffer(nil), func([]byte) []byte { close(spinning); <-ended; return nil }, func() { close(ended) })
	}()
	if err := worker.WriteFrame(w, []byte("x")); err != nil {
		t.Fatal(err)
	}
	<-spinning
	w.Close()
	select {
	case <-ended:
	case <-time.After(plenty):
		t.Error("the worker did not notice")
	}
}

func TestPoolsThatAreNone(t *testing.T) {
	for name, cfg := range map[string]worker.Config{
		"no command": {Size: 2, MaxQueued: 1},
		"one":        {Command: []string{"x"}, Size: 1, MaxQueued: 1},
		"no queue":   {Command: []string{"x"}, Size: 2},
	} {
		if _, err := worker.New(cfg); err == nil {
			t.Errorf("%s: is taken", name)
		}
	}
	pool, err := worker.New(worker.Config{Command: []string{"/does/not/exist"}, Size: 2, MaxQueued: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := ask(t, pool, "a", "x", plenty); err == nil {
		t.Error("a program that is not there works")
	}
}
