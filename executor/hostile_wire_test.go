package executor

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/client"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

const (
	// hangs bounds what is never to be waited for that long.
	hangs = time.Minute
	// soon is a bound that is meant to pass.
	soon = 200 * time.Millisecond
	// inTime is how long may take what ends by such bounds, and those that executions
	// have of themselves, on a machine that does a lot beside.
	inTime = 30 * time.Second
)

// fakeSandbox is a sandbox whose agent is the test's, and whose engine knows
// no more than to kill it.
func fakeSandbox(t *testing.T, agent func(conn net.Conn)) (*Executor, *sandbox) {
	t.Helper()
	gateway, inside := net.Pipe()
	var agents sync.WaitGroup
	socket := filepath.Join(t.TempDir(), "engine")
	listen, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	engine := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/kill") {
			inside.Close()
			w.WriteHeader(http.StatusNoContent)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"State": map[string]any{"OOMKilled": false}})
	})}
	go engine.Serve(listen)
	cli, err := client.NewClientWithOpts(client.WithHost("unix://"+socket), client.WithVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	e := &Executor{cfg: Config{StartTimeout: hangs, StopGrace: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}, leftover: make(chan struct{}, 1)}
	session, err := wire.Dial(gateway)
	if err != nil {
		t.Fatal(err)
	}
	agents.Go(func() { agent(inside) })
	sb := &sandbox{cli: cli, id: "fake", turns: newTurns(1), session: session, words: &words{}}
	t.Cleanup(func() {
		session.Close()
		inside.Close()
		agents.Wait()
		e.underWay.Wait()
		engine.Close()
	})
	return e, sb
}

// mux is a frame of yamux as a sandbox could write it.
func mux(typ byte, flags uint16, stream, length uint32) string {
	b := []byte{0, typ}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return string(binary.BigEndian.AppendUint32(b, length))
}

// forever writes the same again and again while anyone listens.
func forever(w io.Writer, text string) {
	if w == nil { // a stream that could not be opened any more
		return
	}
	text = strings.Repeat(text, 100)
	for {
		if _, err := io.WriteString(w, text); err != nil {
			return
		}
	}
}

// An agent that breaks the protocol before it has said hello.
func TestHostileHello(t *testing.T) {
	onControl := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			io.WriteString(conn, mux(0, 2, 1, uint32(len(text)))+text) // data with ACK on the first stream
		}
	}
	for name, agent := range map[string]func(net.Conn){
		"silent":               func(c net.Conn) { io.Copy(io.Discard, c) },
		"reads nothing":        func(net.Conn) {},
		"hangs up":             func(c net.Conn) { c.Close() },
		"no session":           func(c net.Conn) { go io.Copy(io.Discard, c); forever(c, "HTTP/1.1 200 OK\r\n\r\n") },
		"endless zeros":        func(c net.Conn) { go io.Copy(io.Discard, c); forever(c, "\x00") },
		"pings":                func(c net.Conn) { go io.Copy(io.Discard, c); forever(c, mux(2, 1, 0, 7)) },
		"pings, reads nothing": func(c net.Conn) { forever(c, mux(2, 1, 0, 7)) },
		"opens streams":        func(c net.Conn) { go io.Copy(io.Discard, c); forever(c, mux(1, 1, 2, 0)) },
		"window of no stream":  func(c net.Conn) { go io.Copy(io.Discard, c); forever(c, mux(1, 0, 99, 1<<30)) },
		"data of no stream":    func(c net.Conn) { go io.Copy(io.Discard, c); forever(c, mux(0, 0, 99, 0)) },
		"goes away":            func(c net.Conn) { go io.Copy(io.Discard, c); forever(c, mux(3, 0, 0, 0)) },
		"another frame":        onControl(started),
		"not JSON":             onControl(raw(wire.FrameHello, "hello")),
		"too large":            onControl("\x01\xff\xff\xff\xff"),
		"cut short":            onControl(raw(wire.FrameHello, "{}")[:6]),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, sb := fakeSandbox(t, agent)
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			defer cancel()
			began := time.Now()
			err := sb.openControl(ctx)
			if err == nil {
				_, err = sb.hello(ctx)
			}
			if err == nil {
				t.Error("it passes for a hello")
			}
			if took := time.Since(began); took > inTime {
				t.Errorf("took %s", took)
			}
		})
	}
}

// An agent that breaks the protocol once it has the program: the execution ends
// as killed, timed out or unavailable, in time and in little memory.
func TestHostileAgent(t *testing.T) {
	exited := func(text string) string { return started + raw(wire.FrameExited, text) }
	say := func(text string) func(control, stdout net.Conn) {
		return func(control, _ net.Conn) { io.WriteString(control, text) }
	}
	const unavailable, silent = execution.Outcome("unavailable"), "never starts"
	for name, c := range map[string]struct {
		agent func(control, stdout net.Conn)
		want  execution.Outcome
	}{
		silent:                      {func(net.Conn, net.Conn) {}, unavailable},
		"ends before it starts":     {say(ended), unavailable},
		"garbage before it starts":  {say("garbage!"), unavailable},
		"hello again":               {say(raw(wire.FrameHello, "{}")), unavailable},
		"hangs up before":           {func(c, _ net.Conn) { c.Close() }, unavailable},
		"never ends":                {say(started), execution.OutcomeTimedOut},
		"hangs up":                  {func(c, _ net.Conn) { io.WriteString(c, started); c.Close() }, execution.OutcomeKilled},
		"starts twice":              {say(started + started), execution.OutcomeKilled},
		"garbage":                   {say(started + "garbage!"), execution.OutcomeKilled},
		"two results":               {say(started + raw(wire.FrameResult, "1") + raw(wire.FrameResult, "2")), execution.OutcomeKilled},
		"four gibibytes":            {say(started + "\x06\xff\xff\xff\xff"), execution.OutcomeKilled},
		"a result that never comes": {say(started + "\x06\x00\x00\x04\x00"), execution.OutcomeTimedOut},
		"too many artifacts":        {say(started + strings.Repeat(artifact("a", 1), 9)), execution.OutcomeKilled},
		"an end that is not JSON":   {say(exited("nothing")), execution.OutcomeKilled},
		"an end that cannot be":     {say(exited(`{"exit_code":-7}`)), execution.OutcomeKilled},
		"numbers that cannot be":    {say(exited(`{"wall_us":-1,"cpu_us":9223372036854775807}`)), execution.OutcomeKilled},
		"an end and more":           {say(started + ended + strings.Repeat("x", 10<<10)), execution.OutcomeExited},
		"endless output": {func(c, out net.Conn) {
			io.WriteString(c, started)
			forever(out, "flood")
		}, execution.OutcomeOutputLimit},
		"endless output before it starts": {func(_, out net.Conn) { forever(out, "flood") }, execution.OutcomeOutputLimit},
		"artifacts that climb":            {say(started + artifact("../../etc/passwd", 3) + artifact("/etc/shadow", 3) + ended), execution.OutcomeExited},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, sb := fakeSandbox(t, func(conn net.Conn) {
				session, err := wire.Serve(conn)
				if err != nil {
					return
				}
				defer session.Close()
				var control, stdout net.Conn
				for range 4 {
					kind, stream, err := session.Accept()
					if err != nil {
						return
					}
					switch kind {
					case wire.KindControl:
						control = stream
						go io.Copy(io.Discard, stream)
					case wire.KindStdout:
						stdout = stream
					}
				}
				c.agent(control, stdout)
				<-session.Done()
			})
			if err := sb.openControl(t.Context()); err != nil {
				t.Fatal(err)
			}
			job := execution.Job{ID: "ex_1", Command: []string{"x"}, Grant: execution.Grant{Limits: little}}
			job.Grant.Limits.TimeoutMS, job.Grant.Limits.OutputKiB = hangs.Milliseconds(), 64
			if c.want == execution.OutcomeTimedOut {
				job.Grant.Limits.TimeoutMS = soon.Milliseconds()
			}
			if name == silent {
				e.cfg.StartTimeout = soon
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			r, err := e.converse(t.Context(), sb, job, imageState{}, execution.StartCold)
			runtime.ReadMemStats(&after)
			if took := time.Since(began); took > inTime {
				t.Errorf("took %s", took)
			}
			if err != nil {
				r.Outcome = execution.Outcome(execution.KindOf(err))
			}
			if r.Outcome != c.want {
				t.Errorf("outcome %s, want %s (%v)", r.Outcome, c.want, err)
			}
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
				t.Errorf("the heap has grown by %d bytes", grown)
			}
			for _, a := range r.Artifacts {
				if !filepath.IsLocal(a.Path) {
					t.Errorf("artifact %q", a.Path)
				}
			}
		})
	}
}
