package executor_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// burns is a program that does what head says, uses the processor for so many
// milliseconds in all, by its own clock, says how much that was, and goes on as
// tail says.
func burns(ms int, head, tail string) execution.Job {
	return python(fmt.Sprintf(`
import os, sys, time
%s
def used(): t = os.times(); return t.user + t.system
while used() < %d / 1000: pass
result = used() * 1000
print(result, flush=True)
%s
`, head, ms, tail))
}

// billed holds what was billed for processor time against what a program says it used.
func billed(t *testing.T, r execution.Result) {
	t.Helper()
	var own float64
	if _, err := fmt.Sscan(string(r.Stdout), &own); err != nil {
		t.Fatalf("the program did not say what it used: %s", describe(r))
	}
	over := float64(r.Usage.CPUMS) - own
	t.Logf("used %.0f ms by its own word, billed %d ms; wall %d ms, peak %d MiB", own, r.Usage.CPUMS, r.Usage.WallMS, r.Usage.PeakMemoryMiB)
	// The agent watches for 1.5 % of a processor, which is in it where only the host can tell.
	if most := own/10 + 25 + float64(r.Usage.WallMS)*0.02; over > most || over < -most {
		t.Errorf("used %.0f ms, billed %d ms", own, r.Usage.CPUMS)
	}
}

// Whatever way a program ends, what it used of the processor is billed.
func TestUsageOfProcessor(t *testing.T) {
	t.Parallel()
	warm := func(c *executor.Config) {
		c.Warm = []executor.Warm{{Image: "python", Language: "python", Runtime: "runc", Limits: granted(), Target: 1, Max: 1}}
	}
	for _, start := range []struct {
		name   string
		change func(*executor.Config)
	}{{"cold", func(*executor.Config) {}}, {"warm", warm}} {
		t.Run(start.name, func(t *testing.T) {
			t.Parallel()
			e := newExecutor(t, start.change)
			for _, end := range []struct {
				name       string
				head, tail string
				limits     func(*execution.Limits)
				want       execution.Outcome
			}{
				{"ends well", "", "", nil, execution.OutcomeExited},
				{"kills itself", "", "os.kill(os.getpid(), 9)", nil, execution.OutcomeKilled},
				{"times out", "", "time.sleep(600)", timeout(2000), execution.OutcomeTimedOut},
				{"out of memory", "x = bytearray(100 << 20)", "y = bytearray(100 << 20)", nil, execution.OutcomeOutOfMemory},
				{"floods", "", "sys.stdout.write('x' * (2 << 20))\ntime.sleep(600)", nil, execution.OutcomeOutputLimit},
			} {
				t.Run(end.name, func(t *testing.T) {
					var began time.Time
					h := hostile{job: burns(500, end.head, end.tail), limits: end.limits, want: end.want, stdout: "\n"}
					h.before = func() {
						if start.name == "warm" {
							untilParked(t, e, 1)
						}
						began = time.Now()
					}
					r := h.attack(t, e)
					took := time.Since(began).Milliseconds()
					if r.Usage.Warm != (start.name == "warm") {
						t.Errorf("%+v", r.Usage)
					}
					billed(t, r)
					if wall := r.Usage.WallMS; wall < r.Usage.CPUMS*9/10 || wall > took || end.want == execution.OutcomeTimedOut && wall < 2000 {
						t.Errorf("wall %d ms, and all took %d ms", wall, took)
					}
				})
			}
		})
	}
}

// A program that waits uses nothing, however long it is watched.
func TestUsageOfAProgramThatWaits(t *testing.T) {
	t.Parallel()
	r := run(t, newExecutor(t), burns(0, "", "time.sleep(3)"))
	if r.Outcome != execution.OutcomeExited || r.Usage.WallMS < 3000 {
		t.Errorf("%s", describe(r))
	}
	billed(t, r)
}

// An agent that says nothing, because its sandbox spins or is stopped, does not
// hide what was used.
func TestUsageWithoutTheAgentsWord(t *testing.T) {
	e := newExecutor(t)
	// 30 threads at a quarter of a processor leave the agent none; what is
	// granted is what is used, and where others leave less, what the host saw last.
	job := python("import threading\ndef f():\n    while True: pass\nfor _ in range(30): threading.Thread(target=f).start()\n")
	seen := make(chan int64, 1)
	job.Started = func(execution.Start) {
		id := containers(t, "label=execgate.execution=ex_test_"+t.Name())[0]
		first, there := executor.ProcessorOf(id)
		if !there { // the engine is elsewhere
			seen <- math.MaxInt64
			return
		}
		go func() {
			last := first
			for now := first; there; now, there = executor.ProcessorOf(id) {
				last = now
				time.Sleep(5 * time.Millisecond)
			}
			seen <- (last - first).Milliseconds()
		}()
	}
	r := run(t, e, job, func(l *execution.Limits) { l.CPUMillis, l.TimeoutMS = 250, 3000 })
	most, host := r.Usage.WallMS/4, <-seen
	t.Logf("%+v, by the host %d ms", r.Usage, host)
	if r.Outcome != execution.OutcomeTimedOut || r.Usage.CPUMS < min(most, host)*9/10-15 || r.Usage.CPUMS > most*11/10+100 || r.Usage.PeakMemoryMiB == 0 {
		t.Errorf("%s", describe(r))
	}
}

// Where neither the agent nor the engine can tell any more, the host can.
func TestUsageWhileTheEngineHangs(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	p.up(t)
	e, gateway := newExecutorBehind(t, p)
	image, err := e.Resolve(t.Context(), "python", "")
	if err != nil {
		t.Fatal(err)
	}
	job := burns(500, "", "time.sleep(600)")
	job.ID, job.Grant = "ex_test_"+t.Name(), execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted()}
	job.Events = func(event execution.Event) error {
		if event.Type == execution.EventStdout {
			p.hang()
		}
		return nil
	}
	var r execution.Result
	for ms := int64(1500); len(r.Stdout) == 0 && err == nil && ms <= 100_000; ms *= 4 { // this machine may be slow
		job.Grant.Limits.TimeoutMS = ms
		r, err = e.Execute(t.Context(), job)
		p.unhang()
	}
	if err != nil || r.Outcome != execution.OutcomeTimedOut {
		t.Fatalf("%v, %s", err, describe(r))
	}
	billed(t, r)
	until(t, "the sandbox is gone", func() bool { return len(containers(t, "label=execgate.gateway="+gateway)) == 0 })
}

// Memory is billed as allocated, above what the same program uses without.
func TestUsageOfMemory(t *testing.T) {
	t.Parallel()
	e := newExecutor(t)
	roomy := func(l *execution.Limits) { l.MemoryMiB = 256 }
	bare := run(t, e, python("result = 1"), roomy).Usage.PeakMemoryMiB
	for _, mib := range []int64{16, 64, 160} {
		for name, tail := range map[string]string{"ends well": "", "is killed": "import os; os.kill(os.getpid(), 9)"} {
			r := run(t, e, python(fmt.Sprintf("import mmap\nm = mmap.mmap(-1, %d << 20)\nfor i in range(0, len(m), 4096): m[i] = 1\n%s", mib, tail)), roomy)
			t.Logf("%d MiB, %s: %d MiB above %d", mib, name, r.Usage.PeakMemoryMiB-bare, bare)
			if off := r.Usage.PeakMemoryMiB - bare - mib; off > mib/10+8 || off < -mib/10-8 {
				t.Errorf("%d MiB, %s: %s", mib, name, describe(r))
			}
		}
	}
	// The kernel kills at the limit, so that is what was used.
	r := run(t, e, python("x = bytearray(1 << 30)"), roomy)
	if peak := r.Usage.PeakMemoryMiB; r.Outcome != execution.OutcomeOutOfMemory || peak < 256 || peak > 257 { // with what the kernel charges past it
		t.Errorf("%s", describe(r))
	}
	// What the kernel counts is near what the program sees of itself.
	r = run(t, e, python("import resource\nx = b'x' * (100 << 20)\nresult = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"), roomy)
	var kib int64
	if err := json.Unmarshal(r.Value, &kib); err != nil {
		t.Fatalf("%v: %s", err, describe(r))
	}
	t.Logf("the program saw %d MiB, billed %d", kib>>10, r.Usage.PeakMemoryMiB)
	if off := r.Usage.PeakMemoryMiB - kib>>10; off > kib>>10/10+8 || off < -(kib>>10)/10-8 {
		t.Errorf("the program saw %d KiB: %s", kib, describe(r))
	}
}
