package executor

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// counting is an Egress that reads what comes, until the end, and counts.
type counting struct {
	calls, now, most atomic.Int32
	serve            func(ctx context.Context, conn net.Conn)
}

// Find is a call too, and finds nothing until the program has ended.
func (c *counting) Find(ctx context.Context, job *execution.Job, name string) bool {
	c.Carry(ctx, job, nil, execution.Destination{Host: name, Port: 1}, nil)
	return false
}

func (c *counting) Authority() (*tls.Certificate, error) { return NewTestAuthority() }

func (c *counting) Carry(ctx context.Context, _ *execution.Job, _ *tls.Certificate, to execution.Destination, conn net.Conn) {
	c.calls.Add(1)
	now := c.now.Add(1)
	defer c.now.Add(-1)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	if !wire.ValidName(to.Host) || to.Port < 1 {
		panic("carried to " + to.Host)
	}
	c.serve(ctx, conn)
}

// await waits until that many were carried.
func (c *counting) await(calls int32, over <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for c.calls.Load() < calls {
		select {
		case <-tick.C:
		case <-over:
			return
		}
	}
}

// readAll reads until the connection or the program ends.
func readAll(ctx context.Context, conn net.Conn) { io.Copy(io.Discard, conn) }

// An agent that breaks the rules of outbound connections loses its sandbox; one
// that only fills what it may have harms nobody else, and ends in time.
func TestHostileOutbound(t *testing.T) {
	opening := func(session *wire.Session, text string) net.Conn {
		stream, err := session.Open(wire.KindOutbound)
		if err == nil {
			io.WriteString(stream, text)
		}
		return stream
	}
	header := func(round uint32) string {
		return string(wire.Outbound{Round: round, Name: "db.example", Port: 443}.Append(nil))
	}
	lookup := string(wire.Outbound{Round: 1, Name: "db.example"}.Append(nil))
	const none, some = 0, -1
	const stuck = "an egress that does not return"
	hang := make(chan struct{})
	for name, c := range map[string]struct {
		agent   func(session *wire.Session, raw net.Conn)
		ungiven bool // no network is granted
		hidden  bool // names are
		serve   func(context.Context, net.Conn)
		want    execution.Outcome
		calls   int32
		most    int32
	}{
		"a connection without a grant": {
			agent: func(s *wire.Session, _ net.Conn) { opening(s, header(1)) }, ungiven: true,
			want: execution.OutcomeKilled, calls: none,
		},
		"a connection": {
			agent: func(s *wire.Session, _ net.Conn) { opening(s, header(1)) }, serve: readAll,
			want: execution.OutcomeTimedOut, calls: 1,
		},
		"streams without end": {
			agent: func(_ *wire.Session, raw net.Conn) {
				for id := uint32(2); ; id += 2 {
					if _, err := io.WriteString(raw, mux(1, 1, id, 0)); err != nil {
						return
					}
				}
			},
			want: execution.OutcomeKilled, calls: none,
		},
		"streams without end, each with a header": {
			agent: func(s *wire.Session, _ net.Conn) {
				for opening(s, header(1)) != nil {
				}
			},
			serve: readAll, want: execution.OutcomeTimedOut, calls: some, most: 4,
		},
		"streams without end that are closed at once": {
			agent: func(s *wire.Session, _ net.Conn) {
				for {
					stream := opening(s, header(1))
					if stream == nil {
						return
					}
					stream.Close()
				}
			},
			serve: readAll, want: execution.OutcomeTimedOut, calls: some, most: 4,
		},
		"a header that never comes": {
			agent: func(s *wire.Session, _ net.Conn) { opening(s, ""); opening(s, header(1)[:5]) },
			want:  execution.OutcomeTimedOut, calls: none,
		},
		"a header without end": {
			agent: func(s *wire.Session, _ net.Conn) {
				if stream := opening(s, ""); stream != nil {
					forever(stream, "\xff")
				}
			},
			want: execution.OutcomeKilled, calls: none,
		},
		"a name that is none": {
			agent: func(s *wire.Session, _ net.Conn) { opening(s, "\x00\x00\x00\x01\x01\xbb\x09db example") },
			want:  execution.OutcomeKilled, calls: none,
		},
		"a name is looked up, and none is hidden": {
			agent: func(s *wire.Session, _ net.Conn) { opening(s, lookup) },
			want:  execution.OutcomeKilled, calls: none,
		},
		"names are looked up, without end": {
			agent: func(s *wire.Session, _ net.Conn) {
				for opening(s, lookup) != nil {
				}
			},
			hidden: true, serve: func(ctx context.Context, _ net.Conn) { <-ctx.Done() },
			want: execution.OutcomeTimedOut, calls: some, most: 1,
		},
		"names are looked up, and nobody waits for the answers": {
			agent: func(s *wire.Session, _ net.Conn) {
				for {
					stream := opening(s, lookup)
					if stream == nil {
						return
					}
					stream.Close()
				}
			},
			hidden: true, serve: func(context.Context, net.Conn) {}, want: execution.OutcomeTimedOut, calls: some, most: 1,
		},
		"another kind": {
			agent: func(s *wire.Session, _ net.Conn) { s.Open(wire.KindControl) },
			want:  execution.OutcomeKilled, calls: none,
		},
		"another program's": {
			agent: func(s *wire.Session, _ net.Conn) { opening(s, header(0)); opening(s, header(2)) },
			want:  execution.OutcomeTimedOut, calls: none,
		},
		"data that nobody takes": {
			agent: func(s *wire.Session, _ net.Conn) {
				for range 4 {
					stream := opening(s, header(1))
					go forever(stream, "\x00\x04data")
				}
			},
			serve: func(ctx context.Context, _ net.Conn) { <-ctx.Done() },
			want:  execution.OutcomeTimedOut, calls: 4, most: 4,
		},
		"more data than a window": {
			agent: func(s *wire.Session, raw net.Conn) {
				stream := opening(s, header(1))
				if stream == nil {
					return
				}
				forever(raw, mux(0, 0, 2, 1<<16)+strings.Repeat("x", 1<<16))
			},
			serve: func(ctx context.Context, _ net.Conn) { <-ctx.Done() },
			want:  execution.OutcomeKilled, calls: some,
		},
		"data without end": {
			agent: func(s *wire.Session, _ net.Conn) { forever(opening(s, header(1)), "\x00\x04data") },
			serve: readAll, want: execution.OutcomeTimedOut, calls: 1,
		},
		"data after the gateway has closed": {
			agent: func(s *wire.Session, _ net.Conn) { forever(opening(s, header(1)), "\x00\x04data") },
			serve: func(context.Context, net.Conn) {}, want: execution.OutcomeTimedOut, calls: 1,
		},
		"pieces that are too large": {
			agent: func(s *wire.Session, _ net.Conn) { opening(s, header(1)+"\xff\xffx") },
			serve: func(_ context.Context, conn net.Conn) {
				if _, err := io.Copy(io.Discard, conn); err == nil {
					panic("a piece of 65535 bytes came through")
				}
			},
			want: execution.OutcomeTimedOut, calls: 1,
		},
		stuck: {
			agent: func(s *wire.Session, _ net.Conn) { opening(s, header(1)) },
			serve: func(ctx context.Context, _ net.Conn) { <-ctx.Done(); <-hang },
			want:  execution.OutcomeTimedOut, calls: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			egress := &counting{serve: c.serve}
			e, sb := fakeSandbox(t, func(conn net.Conn) {
				session, err := wire.Serve(conn)
				if err != nil {
					return
				}
				defer session.Close()
				var control net.Conn
				for range 4 {
					kind, stream, err := session.Accept()
					if err != nil {
						return
					}
					if kind == wire.KindControl {
						control = stream
					}
				}
				frames := wire.NewReader(control)
				for begun := false; !begun; {
					frame, err := frames.Next(map[wire.FrameType]int{wire.FrameAuthority: 1 << 16, wire.FrameStart: 1 << 20})
					if err != nil {
						return
					}
					begun = frame.Type == wire.FrameStart
				}
				go io.Copy(io.Discard, control)
				var work sync.WaitGroup
				defer work.Wait()
				if c.want == execution.OutcomeTimedOut && c.calls != none { // whose time begins when it has connected
					work.Go(func() { c.agent(session, conn) })
					egress.await(max(c.calls, 1), session.Done())
					wire.Write(control, wire.FrameStarted, nil)
				} else {
					wire.Write(control, wire.FrameStarted, nil)
					c.agent(session, conn)
				}
				<-session.Done()
			})
			if name == stuck {
				t.Cleanup(func() { close(hang) })
			}
			e.cfg.Egress, e.cfg.HideNames = egress, c.hidden
			if err := sb.openControl(t.Context()); err != nil {
				t.Fatal(err)
			}
			job := execution.Job{ID: "ex_1", Command: []string{"x"}, Grant: execution.Grant{Limits: little}}
			job.Grant.Limits.TimeoutMS = hangs.Milliseconds()
			if c.want == execution.OutcomeTimedOut {
				job.Grant.Limits.TimeoutMS = 300
			}
			if !c.ungiven {
				job.Grant.Network = execution.Network{
					Rules:  []execution.NetworkRule{{Host: "db.example", Ports: []int{443}, Mode: execution.NetworkForward}},
					Budget: execution.NetworkBudget{Requests: 9, Bytes: 9, RequestsPerS: 9, Connections: 4},
				}
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			r, err := e.converse(t.Context(), sb, job, imageState{}, execution.StartCold)
			runtime.ReadMemStats(&after)
			took := time.Since(began)
			if took > inTime {
				t.Errorf("took %s", took)
			}
			if c.want == execution.OutcomeKilled && errors.Is(err, errNotBegun) {
				r.Outcome, err = c.want, nil // it was lost before its start was seen
			}
			if err != nil || r.Outcome != c.want {
				t.Errorf("outcome %s, want %s (%v)", r.Outcome, c.want, err)
			}
			calls, most := egress.calls.Load(), egress.most.Load()
			if c.calls != some && calls != c.calls || c.calls == some && calls == 0 || calls > acceptBurst+int32(took/acceptEvery)+1 || c.most > 0 && most > c.most {
				t.Errorf("%d were carried, %d at once", calls, most)
			}
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
				t.Errorf("the heap has grown by %d bytes", grown)
			}
			if name != stuck && egress.now.Load() != 0 {
				t.Errorf("%d are carried after the end", egress.now.Load())
			}
		})
	}
}

func TestNetworkOf(t *testing.T) {
	rule := func(ports ...int) execution.NetworkRule {
		return execution.NetworkRule{Host: "a.example", Ports: ports, Mode: execution.NetworkForward}
	}
	budget := execution.NetworkBudget{Requests: 1, Bytes: 1, RequestsPerS: 1, Connections: 1}
	var many []int
	for port := range maxPorts + 1 {
		many = append(many, port+1)
	}
	for name, c := range map[string]struct {
		network execution.Network
		ports   int
		fails   bool
	}{
		"nothing":           {execution.Network{}, 0, false},
		"ports, each once":  {execution.Network{Rules: []execution.NetworkRule{rule(443, 80), rule(80, 443)}, Budget: budget}, 2, false},
		"as many as may be": {execution.Network{Rules: []execution.NetworkRule{rule(many[1:]...)}, Budget: budget}, maxPorts, false},
		"one more":          {execution.Network{Rules: []execution.NetworkRule{rule(many...)}, Budget: budget}, 0, true},
		"no budget":         {execution.Network{Rules: []execution.NetworkRule{rule(443)}}, 0, true},
		"no port":           {execution.Network{Rules: []execution.NetworkRule{rule()}, Budget: budget}, 0, true},
		"port 65536":        {execution.Network{Rules: []execution.NetworkRule{rule(65536)}, Budget: budget}, 0, true},
	} {
		told, err := networkOf(c.network)
		if (err != nil) != c.fails || (told == nil) != (c.ports == 0) || told != nil && len(told.Ports) != c.ports {
			t.Errorf("%s: %+v, %v", name, told, err)
		}
	}
	budget.Connections = 1 << 40
	if told, _ := networkOf(execution.Network{Rules: []execution.NetworkRule{rule(443)}, Budget: budget}); told.Connections != wire.MaxConnections {
		t.Errorf("%d connections", told.Connections)
	}
}
