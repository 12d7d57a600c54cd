package executor_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// BenchmarkExecutionWithNetwork is a program in a sandbox that is reused: what the
// resolver and the listeners add to one is between the two.
func BenchmarkExecutionWithNetwork(b *testing.B) {
	e := newExecutor(b, carriedBy(&echo{}))
	image, err := e.Resolve(b.Context(), "", "python")
	if err != nil {
		b.Fatal(err)
	}
	for name, network := range map[string]execution.Network{"none": {}, "2 ports": reaching(443, 5432)} {
		b.Run(name, func(b *testing.B) {
			for n := range b.N {
				job := python("")
				job.ID, job.Owner = fmt.Sprintf("ex_%s_%d_%d", b.Name(), b.N, n), somebody
				job.Grant = execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted(), Reuse: execution.ReusePrincipal, Network: network}
				if n == 0 {
					b.StopTimer()
				}
				if _, err := e.Execute(b.Context(), job); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkConnection reports, from inside, what a name's lookup with a connection,
// a line and its answer take, and how fast much goes out and comes back.
func BenchmarkConnection(b *testing.B) {
	e := newExecutor(b, carriedBy(&echo{}))
	for b.Loop() {
		r := run(b, e, networked(python(dial+`
import statistics, threading
def timed(f):
    began = time.perf_counter(); f(); return (time.perf_counter() - began) * 1000
timed(lambda: talk('db.example', 443))
took = statistics.median(timed(lambda: (talk('db.example', 443), time.sleep(0.006))) - 6 for _ in range(100))
s = socket.create_connection(('db.example', 443)); s.recv(100)
line = statistics.median(timed(lambda: (s.sendall(b'x'), s.recv(1))) for _ in range(200))
size, got = 64 << 20, 0
def send():
    for _ in range(size >> 20): s.sendall(bytes(1 << 20))
def receive():
    global got
    while got < size: got += len(s.recv(1 << 20))
def both(): sender = threading.Thread(target=send); sender.start(); receive(); sender.join()
print(took, line, size / 1e3 / timed(both))
`), reaching(443)), func(l *execution.Limits) { l.CPUMillis, l.MemoryMiB = 2000, 256 })
		for i, value := range strings.Fields(exitedWell(b, r)) {
			figure, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(figure, []string{"ms/connection", "ms/line", "MB/s"}[i])
		}
	}
}
