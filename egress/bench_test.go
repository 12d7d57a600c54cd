package egress

import (
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

const benchChunk = 64 << 10

// stream is a connection as the executor hands it over: one that is no socket, so
// that the kernel cannot copy by itself.
type stream struct{ net.Conn }

func (s stream) CloseWrite() error { return s.Conn.(*net.TCPConn).CloseWrite() }

// BenchmarkForward is a forward, from the program to its destination, beside a pair
// of io.Copy between the same kinds of connections.
func BenchmarkForward(b *testing.B) {
	b.Run("forward", func(b *testing.B) {
		broker := newBroker(b, Config{Recorder: &memory{}})
		bench(b, func(conn stream, to execution.Destination) {
			job := jobTo(to, plenty)
			broker.Carry(b.Context(), &job, nil, to, conn)
		})
	})
	b.Run("io.Copy", func(b *testing.B) {
		bench(b, func(conn stream, to execution.Destination) {
			defer conn.Close()
			upstream, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: to.Port})
			if err != nil {
				b.Error(err)
				return
			}
			defer upstream.Close()
			var out sync.WaitGroup
			out.Go(func() {
				_, _ = io.Copy(upstream, conn)
				_ = upstream.CloseWrite()
			})
			_, _ = io.Copy(conn, upstream)
			_ = conn.CloseWrite()
			out.Wait()
		})
	})
}

func bench(b *testing.B, carry func(conn stream, to execution.Destination)) {
	l, to := listen(b)
	received := make(chan int64, 1)
	serve(b, l, func(c *net.TCPConn) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
		received <- n
	})
	program, gateway := pair(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(stream{gateway}, to)
	}()
	chunk := make([]byte, benchChunk)
	b.SetBytes(benchChunk)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := program.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	_ = program.CloseWrite()
	if n := <-received; n != int64(b.N)*benchChunk {
		b.Fatalf("%d bytes of %d arrived", n, int64(b.N)*benchChunk)
	}
	<-done
}

// BenchmarkConnection is a whole short connection, with both its records.
func BenchmarkConnection(b *testing.B) {
	l, to := listen(b)
	serve(b, l, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	broker := newBroker(b, Config{Recorder: &memory{}})
	budget := plenty
	budget.Requests, budget.RequestsPerS = 1<<40, 1<<40
	job := jobTo(to, budget)
	buffer := make([]byte, 5)
	for b.Loop() {
		c := carry(b, b.Context(), broker, job, to)
		write(b, c, "hello")
		if _, err := io.ReadFull(c, buffer); err != nil {
			b.Fatal(err)
		}
		c.Close()
		<-c.done
	}
}

// A connection that waits costs its two small buffers, its two goroutines and its
// bookkeeping, also after it has carried much at once.
func TestIdleConnectionIsSmall(t *testing.T) {
	// Bytes each; one large buffer would be 64 KiB more. Without the race detector,
	// under which stacks are larger, a connection takes 36 KiB.
	const connections, most = 200, 64 << 10
	l, to := listen(t)
	b := newBroker(t, Config{Recorder: &memory{}})
	job := jobTo(to, plenty)
	programs, gateways := make([]*net.TCPConn, connections), make([]*net.TCPConn, connections)
	for i := range programs {
		programs[i], gateways[i] = pair(t)
	}
	content := make([]byte, 32<<10)
	before := inUse()
	var all sync.WaitGroup
	destinations := make([]*net.TCPConn, connections)
	for i := range programs {
		all.Go(func() { b.Carry(t.Context(), &job, nil, to, gateways[i]) })
		var err error
		if destinations[i], err = l.AcceptTCP(); err != nil {
			t.Fatal(err)
		}
	}
	for i := range programs {
		for _, way := range [][2]net.Conn{{programs[i], destinations[i]}, {destinations[i], programs[i]}} {
			if _, err := way[0].Write(content); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(way[1], content); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Large buffers are given back once nothing has come for holdLarge.
	settled(t, before, connections, most)
	for i := range programs {
		programs[i].Close()
		destinations[i].Close()
	}
	all.Wait()
}

// settled waits until a connection takes no more than most, the destination's end
// included: what has ended, or is idle, takes its time to give back what it had.
func settled(t *testing.T, before uint64, connections, most int64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		late := time.Now().After(deadline)
		each := (int64(inUse()) - int64(before)) / connections
		if each <= most {
			t.Logf("an idle connection takes %d bytes", each)
			return
		}
		if late {
			t.Fatalf("an idle connection takes %d bytes, at most %d", each, most)
		}
	}
}

// inUse is what heap and stacks take up.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
