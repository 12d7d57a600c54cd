package executor

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// lyingSandbox is a sandbox whose agent has the test's words ready for each frame
// that it reads, and closes its streams as it is told to.
func lyingSandbox(t *testing.T, agent func(frame wire.Frame, control net.Conn, outputs []net.Conn)) (*Executor, *sandbox) {
	t.Helper()
	e, sb := fakeSandbox(t, func(conn net.Conn) {
		session, err := wire.Serve(conn)
		if err != nil {
			return
		}
		defer session.Close()
		_, control, err := session.Accept()
		if err != nil {
			return
		}
		opened := make(chan net.Conn, 100)
		go func() {
			for {
				kind, stream, err := session.Accept()
				if err != nil {
					return
				}
				if kind == wire.KindStdin {
					go io.Copy(io.Discard, stream)
				} else {
					opened <- stream
				}
			}
		}()
		frames := wire.NewReader(control)
		for {
			frame, err := frames.Next(map[wire.FrameType]int{
				wire.FrameStart: 1 << 20, wire.FrameSignal: 5, wire.FrameFetch: 1 << 14, wire.FrameFile: 1 << 20, wire.FrameSync: 0, wire.FramePark: 1 << 20,
			})
			if err != nil {
				return
			}
			var outputs []net.Conn
			if frame.Type == wire.FrameStart {
				outputs = []net.Conn{<-opened, <-opened}
			}
			agent(frame, control, outputs)
		}
	})
	if err := sb.openControl(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e, sb
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// lyingSession is an open session in such a sandbox.
func lyingSession(t *testing.T, agent func(wire.Frame, net.Conn, []net.Conn)) (*Executor, execution.Job) {
	e, sb := lyingSandbox(t, agent)
	sb.keep, sb.stays = wire.KeepSession, true
	sb.spec.Grant.Limits = little
	ended, cancel := context.WithCancel(context.Background())
	owner := execution.Owner{Tenant: "default", Subject: "ak_1"}
	s := &session{Session: execution.Session{ID: "se_1", Owner: owner}, sb: sb, engine: &engine{}, turn: make(chan struct{}, 1), ended: ended, cancel: cancel}
	s.turn <- struct{}{}
	s.Grant.Limits = little
	e.sessions.add(s)
	e.engines = &engines{cli: sb.cli}
	job := execution.Job{ID: "ex_1", Owner: owner, Session: "se_1", Command: []string{"x"}, Grant: execution.Grant{Limits: little}}
	job.Grant.Limits.TimeoutMS = hangs.Milliseconds()
	return e, job
}

// What an agent lies about a session ends the session or harms nobody, in time.
func TestLyingAgentInASession(t *testing.T) {
	const kept, reset, lost = execution.SessionKept, execution.SessionReset, execution.SessionEnded
	end := func(text string) string { return started + raw(wire.FrameExited, text) }
	for name, c := range map[string]struct {
		words string
		open  bool // the program's streams stay so
		first execution.SessionState
		next  execution.SessionState // of another execution, where there is one
	}{
		"stays":                         {words: end(`{"stayed":true}`), first: kept, next: kept},
		"is reset":                      {words: end(`{}`), first: reset, next: reset},
		"more words than it was asked":  {words: end(`{"stayed":true}`) + end(`{"stayed":true}`), first: kept, next: kept},
		"a file that nobody asked for":  {words: end(`{"stayed":true}`) + raw(wire.FrameContent, "\x00\x01ax"), first: kept, next: lost},
		"is clean before it has ended":  {words: started + raw(wire.FrameCleaned, "{}"), first: lost},
		"is clean though it is kept":    {words: end(`{"stayed":true}`) + raw(wire.FrameCleaned, "{}"), first: kept, next: lost},
		"done twice":                    {words: end(`{"stayed":true}`) + raw(wire.FrameDone, "{}") + raw(wire.FrameDone, "{}"), first: kept, next: lost},
		"ends without a word":           {words: started, first: lost},
		"streams that are never closed": {words: end(`{"stayed":true}`), open: true, first: lost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			said := false
			e, job := lyingSession(t, func(frame wire.Frame, control net.Conn, outputs []net.Conn) {
				if frame.Type != wire.FrameStart {
					return
				}
				if !c.open {
					closeAll(outputs)
				}
				if !said || strings.Count(c.words, started) == 1 {
					io.WriteString(control, c.words)
				}
				said = true
			})
			for i, want := range []execution.SessionState{c.first, c.next} {
				if want == "" {
					break
				}
				// One that listens is told of the start.
				job.Events = func(execution.Event) error { return nil }
				if c.words == started {
					job.Grant.Limits.TimeoutMS = soon.Milliseconds()
				}
				began := time.Now()
				r, err := e.executeInSession(t.Context(), job)
				if took := time.Since(began); took > inTime {
					t.Errorf("execution %d took %s", i, took)
				}
				if r.Session != want || want != lost && r.Outcome != execution.OutcomeExited {
					t.Errorf("execution %d: session %s, want %s, outcome %s, error %v", i, r.Session, want, r.Outcome, err)
				}
			}
		})
	}
}

// A file that was not asked for is not given to the caller, and no answer ends
// the wait.
func TestLyingAgentAboutFiles(t *testing.T) {
	for name, c := range map[string]struct {
		words string
		kind  execution.Kind // of the error; none where it is empty
		lost  bool
	}{
		"the file":            {words: raw(wire.FrameContent, "\x00\x01axyz")},
		"another file":        {words: raw(wire.FrameContent, "\x00\x01bxyz"), lost: true},
		"more than asked":     {words: raw(wire.FrameContent, "\x00\x01a"+strings.Repeat("x", 11)), lost: true},
		"far more":            {words: raw(wire.FrameContent, "\x00\x01a"+strings.Repeat("x", 10<<10)), lost: true},
		"no path":             {words: raw(wire.FrameContent, "\x00"), lost: true},
		"a path past its end": {words: raw(wire.FrameContent, "\x10\x00a"), lost: true},
		"not found":           {words: raw(wire.FrameDone, `{"problem":"not_found"}`), kind: execution.KindNotFound},
		"an unknown problem":  {words: raw(wire.FrameDone, `{"problem":"\u001b[2J"}`), kind: execution.KindInvalid},
		"a problem too long":  {words: raw(wire.FrameDone, `{"problem":"`+strings.Repeat("x", 300)+`"}`), lost: true},
		"an end":              {words: ended, lost: true},
		"hello":               {words: raw(wire.FrameHello, "{}"), lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, _ := lyingSession(t, func(_ wire.Frame, control net.Conn, _ []net.Conn) { io.WriteString(control, c.words) })
			content, err := e.GetFile(t.Context(), "se_1", "a", 10)
			switch {
			case c.lost && (err == nil || len(content) > 0):
				t.Errorf("%q passes for the file", content)
			case c.kind != "" && execution.KindOf(err) != c.kind:
				t.Errorf("error %v, want %s", err, c.kind)
			case !c.lost && c.kind == "" && (err != nil || string(content) != "xyz"):
				t.Errorf("%q, %v", content, err)
			}
			if _, err := e.GetFile(t.Context(), "se_1", "a", 10); c.lost != (execution.KindOf(err) == execution.KindGone) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// A sandbox is only used again for what its agent has checked, all of it.
func TestLyingAgentAboutCleaning(t *testing.T) {
	clean := `{"checks":{"processes":"","files":"","space":"","ipc":"","ports":"","parked":""}}`
	for name, c := range map[string]struct {
		words string
		ok    bool
	}{
		"all checks":         {raw(wire.FrameCleaned, clean), true},
		"one is missing":     {raw(wire.FrameCleaned, strings.Replace(clean, `"ipc":"",`, "", 1)), false},
		"one has failed":     {raw(wire.FrameCleaned, strings.Replace(clean, `"files":""`, `"files":"/tmp/x"`, 1)), false},
		"one is null":        {raw(wire.FrameCleaned, strings.Replace(clean, `"files":""`, `"files":null`, 1)), true},
		"no checks":          {raw(wire.FrameCleaned, "{}"), false},
		"not an object":      {raw(wire.FrameCleaned, "[]"), false},
		"checks of numbers":  {raw(wire.FrameCleaned, strings.ReplaceAll(clean, `""`, "0")), false},
		"too long":           {raw(wire.FrameCleaned, clean+strings.Repeat(" ", maxCleaned)), false},
		"an end once more":   {ended, false},
		"parked, not clean":  {raw(wire.FrameParked, ""), false},
		"nothing, hangs up":  {"", false},
		"a frame cut short":  {raw(wire.FrameCleaned, clean)[:20], false},
		"endless, of a kind": {strings.Repeat(started, 1000), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, sb := lyingSandbox(t, func(_ wire.Frame, control net.Conn, _ []net.Conn) {
				io.WriteString(control, c.words)
				if !c.ok {
					control.Close()
				}
			})
			e.reused = newReused(e)
			e.reused.patience = inTime
			wire.Write(sb.control, wire.FrameSync, nil)
			began := time.Now()
			if err := e.reused.clean(sb); (err == nil) != c.ok {
				t.Errorf("%v", err)
			}
			if took := time.Since(began); took > 2*inTime {
				t.Errorf("took %s", took)
			}
		})
	}
}

// An agent that never parks a driver costs no more than the time to start one.
func TestAgentThatNeverParks(t *testing.T) {
	for _, words := range []string{"", started, raw(wire.FrameParked, "x")} {
		e, sb := lyingSandbox(t, func(_ wire.Frame, control net.Conn, _ []net.Conn) { io.WriteString(control, words) })
		e.cfg.StartTimeout = soon
		began := time.Now()
		if err := e.parkDriver(t.Context(), sb, parkable{}); execution.KindOf(err) != execution.KindUnavailable || sb.parked {
			t.Errorf("%q: %v", words, err)
		}
		if took := time.Since(began); took > inTime {
			t.Errorf("%q took %s", words, took)
		}
	}
}
