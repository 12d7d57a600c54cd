package executor_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// proxy stands between an executor and the engine's socket, and can be told to
// behave as engines do on a bad day.
type proxy struct {
	socket string // where the executor looks for the engine

	mu     sync.Mutex
	listen net.Listener
	conns  map[net.Conn]struct{}
	resume chan struct{} // not nil while the engine hangs
	// spoil makes the engine's answer to requests with this in their first
	// line a failure, after the engine has done what was asked.
	spoil string
}

const engineSocket = "/var/run/docker.sock"

// newProxy returns a proxy whose engine is not there yet.
func newProxy(t testing.TB) *proxy {
	p := &proxy{socket: filepath.Join(t.TempDir(), "engine.sock"), conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() { p.unhang(); p.down() })
	return p
}

func (p *proxy) config(c *executor.Config) { c.Host = "unix://" + p.socket }

func (p *proxy) up(t testing.TB) {
	t.Helper()
	listen, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	p.listen = listen
	p.mu.Unlock()
	go func() {
		for {
			conn, err := listen.Accept()
			if err != nil {
				return
			}
			go p.carry(listen, conn)
		}
	}()
}

// down drops everyone and listens no more.
func (p *proxy) down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listen != nil {
		p.listen.Close()
		p.listen = nil
	}
	for conn := range p.conns {
		conn.Close()
	}
}

// hang keeps every byte back until unhang.
func (p *proxy) hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resume = make(chan struct{})
}

func (p *proxy) unhang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resume != nil {
		close(p.resume)
		p.resume = nil
	}
}

func (p *proxy) setSpoil(part string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil = part
}

func (p *proxy) state() (resume chan struct{}, spoil string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.resume, p.spoil
}

func (p *proxy) carry(listen net.Listener, front net.Conn) {
	back, err := net.Dial("unix", engineSocket)
	if err != nil {
		front.Close()
		return
	}
	p.mu.Lock()
	dropped := p.listen != listen // since it was accepted
	p.conns[front], p.conns[back] = struct{}{}, struct{}{}
	p.mu.Unlock()
	if dropped {
		front.Close()
		back.Close()
		return
	}
	spoiled := make(chan struct{}, 1)
	copyBytes := func(to, from net.Conn, look func([]byte) []byte) {
		defer func() {
			if half, ok := to.(*net.UnixConn); ok {
				half.CloseWrite()
			}
		}()
		buffer := make([]byte, 32<<10)
		for {
			n, err := from.Read(buffer)
			if resume, _ := p.state(); resume != nil {
				<-resume
			}
			if n > 0 {
				if _, err := to.Write(look(buffer[:n])); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go copyBytes(back, front, func(b []byte) []byte {
		line, _, _ := bytes.Cut(b, []byte("\r\n"))
		if _, spoil := p.state(); spoil != "" && bytes.Contains(line, []byte(spoil)) {
			spoiled <- struct{}{}
		}
		return b
	})
	copyBytes(front, back, func(b []byte) []byte {
		select {
		case <-spoiled:
			const answer = `{"message":"spoiled"}`
			return []byte("HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 21\r\n\r\n" + answer)
		default:
			return b
		}
	})
	front.Close()
	back.Close()
}

// newExecutorBehind returns an executor that reaches its engine through p. The
// engine must be there by the time the test ends.
func newExecutorBehind(t testing.TB, p *proxy, change ...func(*executor.Config)) (*executor.Executor, string) {
	t.Helper()
	var cfg executor.Config
	newExecutor(t, append([]func(*executor.Config){func(c *executor.Config) { c.StartTimeout = 20 * time.Second }}, append(change, func(c *executor.Config) { cfg = *c })...)...)
	p.config(&cfg)
	cfg.Gateway = execution.NewID("test_", time.Now())
	e, err := executor.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-done
		untilNoneIsLeft(t, cfg.Gateway)
	})
	return e, cfg.Gateway
}

// An engine that is not there at the start is no reason not to start, and is
// found when it comes.
func TestEngineComesAndGoes(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	e, _ := newExecutorBehind(t, p)
	promptly(t, "an engine that is not there", time.Second, func() time.Duration {
		began := time.Now()
		if _, err := execute(t.Context(), e, "ex_test_early", shell("true")); execution.KindOf(err) != execution.KindUnavailable {
			t.Errorf("error %v", err)
		}
		if err := e.Ready(t.Context()); execution.KindOf(err) != execution.KindUnavailable {
			t.Errorf("error %v", err)
		}
		return time.Since(began)
	})
	for range 2 {
		p.up(t)
		until(t, "an execution succeeds", func() bool {
			r, err := execute(t.Context(), e, "ex_test_back", shell("echo back"))
			return err == nil && string(r.Stdout) == "back\n"
		})
		p.down()
		if _, err := execute(t.Context(), e, "ex_test_gone", shell("true")); execution.KindOf(err) != execution.KindUnavailable {
			t.Errorf("error %v", err)
		}
	}
	p.up(t)
}

// An engine that goes away while a program runs ends the execution, and what it
// left is reaped once the engine is back.
func TestEngineLostWhileRunning(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*proxy){"dropped": (*proxy).down, "hung": (*proxy).hang} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProxy(t)
			p.up(t)
			e, gateway := newExecutorBehind(t, p)
			done := make(chan error, 1)
			var r execution.Result
			job := shell("sleep 600")
			var lost time.Time
			job.Started = func(execution.Start) {
				lost = time.Now()
				lose(p)
			}
			go func() {
				var err error
				r, err = executeWithin(t.Context(), e, "ex_test_lost", job, 500)
				done <- err
			}()
			select {
			case err := <-done:
				if err == nil && r.Outcome != execution.OutcomeTimedOut || err != nil && execution.KindOf(err) != execution.KindUnavailable {
					t.Errorf("error %v, %s", err, describe(r))
				}
				t.Logf("after %s: error %v, outcome %s", time.Since(lost), err, r.Outcome)
			case <-time.After(patience):
				t.Fatal("Execute does not return")
			}
			if name == "hung" {
				p.unhang()
			} else {
				p.up(t)
			}
			until(t, "the sandbox is gone", func() bool {
				return len(containers(t, "label=execgate.gateway="+gateway)) == 0
			})
			until(t, "an execution succeeds", func() bool {
				_, err := execute(t.Context(), e, "ex_test_after", shell("true"))
				return err == nil
			})
		})
	}
}

// An engine that hangs costs every caller one timeout, not one after another.
func TestEngineHungForMany(t *testing.T) {
	p := newProxy(t)
	p.up(t)
	p.hang() // before anything is known of it
	e, _ := newExecutorBehind(t, p)
	const timeout, callers = 2 * time.Second, 100 // of one question
	began := time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			if _, err := e.Resolve(t.Context(), "python", ""); execution.KindOf(err) != execution.KindUnavailable {
				t.Errorf("error %v", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took > callers/2*timeout {
		t.Errorf("%d callers waited %s", callers, took)
	}
	promptly(t, "a caller that is gone", timeout/2, func() time.Duration {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := e.Resolve(ctx, "python", ""); err == nil {
			t.Error("an engine that hangs answers")
		}
		return time.Since(began)
	})
	p.unhang()
}

// An engine can do what it was asked and report failure all the same: nothing
// may be left of it.
func TestEngineDoesAndReportsFailure(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"/containers/create?name=execgate-", "/start", "/attach", "/containers/execgate-", "/json"} {
		t.Run(strings.ReplaceAll(part, "/", " "), func(t *testing.T) {
			t.Parallel()
			p := newProxy(t)
			p.up(t)
			e, gateway := newExecutorBehind(t, p, func(c *executor.Config) { c.StartTimeout = patience })
			if _, err := execute(t.Context(), e, "ex_test_before", shell("true")); err != nil {
				t.Fatal(err)
			}
			p.setSpoil(part)
			r, err := execute(t.Context(), e, "ex_test_spoiled", shell("echo ran"))
			if err != nil && execution.KindOf(err) != execution.KindUnavailable || err == nil && string(r.Stdout) != "ran\n" {
				t.Errorf("error %v, %s", err, describe(r))
			}
			p.setSpoil("")
			until(t, "the container is gone", func() bool {
				return len(containers(t, "label=execgate.gateway="+gateway)) == 0
			})
			if _, err := execute(t.Context(), e, "ex_test_after", shell("true")); err != nil {
				t.Errorf("one failure spoils the next execution: %v", err)
			}
		})
	}
}

// Errors tell the caller what to do and nothing of the machine.
func TestUnavailableSaysWhenToTryAgain(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	e, _ := newExecutorBehind(t, p)
	_, err := execute(t.Context(), e, "ex_test_none", shell("true"))
	said, ok := errors.AsType[*execution.Error](err)
	if !ok || said.RetryAfter <= 0 || said.Code != execution.CodeEngineUnavailable || strings.Contains(said.Detail, p.socket) {
		t.Errorf("%+v", said)
	}
	p.up(t)
}

// executeWithin is execute with a timeout of the program's.
func executeWithin(ctx context.Context, e *executor.Executor, id string, job execution.Job, ms int64) (execution.Result, error) {
	image, err := e.Resolve(ctx, "", "python")
	if err != nil {
		return execution.Result{}, err
	}
	job.ID = id
	job.Grant = execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted()}
	job.Grant.Limits.TimeoutMS = ms
	return e.Execute(ctx, job)
}
