package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// fileTimeout bounds the agent's answer about a file.
const fileTimeout = 10 * time.Second

// sessions are the sandboxes that stay.
type sessions struct {
	mu   sync.Mutex
	open map[string]*session
}

// session is a sandbox that stays for its owner's next execution.
type session struct {
	execution.Session
	engine *engine
	sb     *sandbox
	image  imageState
	turn   chan struct{} // holds one token while nobody uses the sandbox
	cancel context.CancelFunc
	ended  context.Context // done when the session is closed
}

// OpenSession keeps a sandbox for s: a parked one, or a new one. Errors are of
// KindUnavailable where it may succeed later.
func (e *Executor) OpenSession(ctx context.Context, s execution.Session) error {
	if !e.underWay.begin() {
		return unavailable(errors.New("the gateway is stopping"))
	}
	defer e.underWay.end()
	if err := errors.Join(checkGrant(s.Grant), e.checkNetwork(s.Grant)); err != nil {
		return fmt.Errorf("grant cannot be carried out: %w", err)
	}
	engine, err := e.engines.get(ctx)
	if err != nil {
		return err
	}
	image, err := engine.images.byDigest(ctx, s.Grant.Image)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(time.Duration(s.Grant.Session.AbsoluteS)*time.Second + e.cfg.StartTimeout + 2*cleanupTimeout)
	sb := e.pool.claim(ctx, execution.Job{ID: s.ID, Owner: s.Owner, Grant: s.Grant, Language: s.Language}, image, deadline)
	if sb == nil {
		began := time.Now()
		sb, err = e.open(ctx, engine, spec{
			Gateway: e.cfg.Gateway, Execution: s.ID, Deadline: deadline, Grant: s.Grant,
			Profile: sealed, Parent: e.parentOf(engine, s.Owner.Tenant), Image: image.facts, Engine: engine.facts,
		})
		e.stats.built(ctx, buildSession, began, err)
		if errors.Is(err, errNoMemory) {
			return &execution.Error{
				Kind: execution.KindInvalid, Code: "memory_too_small", Err: err,
				Detail: "The memory that is granted does not hold a sandbox: ask for a larger memory_mib.",
			}
		}
		if err != nil {
			e.engines.doubt(context.WithoutCancel(ctx), engine, err)
			return err
		}
	}
	sb.keep = wire.KeepSession
	if language := image.Languages[s.Language]; language.Session {
		sb.stays = true
		if e.cfg.Egress != nil && language.trustAtStart() { // each execution has a network of its own
			err = e.certify(sb)
		}
		if err == nil {
			err = e.parkDriver(ctx, sb, parkable{Language: language})
		}
		if err != nil {
			e.discard(sb)
			return err
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	open := &session{Session: s, engine: engine, sb: sb, image: image, turn: make(chan struct{}, 1), ended: ended, cancel: cancel}
	open.turn <- struct{}{}
	e.sessions.add(open)
	return nil
}

// CloseSession ends a session and whatever runs in it; that it is not open, or
// no more, is no error. It returns when nothing of it can begin any more; the
// sandbox is removed soon after.
func (e *Executor) CloseSession(_ context.Context, id string) error {
	if s := e.sessions.remove(id); s != nil {
		e.end(s)
	}
	return nil
}

// end discards the sandbox of a session that is not among the open ones any more.
func (e *Executor) end(s *session) {
	s.cancel()
	e.discard(s.sb)
}

// executeInSession runs a job in its session. It fails with KindConflict,
// session_busy, while another runs there, and with KindGone, session_ended, where
// the session is not there any more.
func (e *Executor) executeInSession(ctx context.Context, job execution.Job) (execution.Result, error) {
	s, release, err := e.sessions.take(job.Session, job.Owner)
	if err != nil {
		return execution.Result{}, err
	}
	defer release()
	if job.Language != s.Language {
		return execution.Result{}, fmt.Errorf("a job in language %q for a session of %q", job.Language, s.Language)
	}
	if shapeOf(job.Grant.Limits) != shapeOf(s.sb.spec.Grant.Limits) || job.Grant.Image != s.Grant.Image {
		return execution.Result{}, errors.New("a job whose grant is not that of its session")
	}
	if err := e.adjust(ctx, s.sb, job.Grant.Limits); err != nil {
		return execution.Result{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ended, cancel)()
	result, err := e.converse(ctx, s.sb, job, s.image, execution.StartSession)
	closed := s.ended.Err() != nil // by its owner, not for what has come of it
	if result.Session == execution.SessionEnded {
		e.lose(s)
	}
	if err != nil {
		e.engines.doubt(context.WithoutCancel(ctx), s.engine, err)
		return result, err
	}
	if closed {
		result.Outcome, result.ExitCode = execution.OutcomeCancelled, nil
	}
	result.Usage.Warm = true
	return result, nil
}

// lose ends a session whose sandbox is lost.
func (e *Executor) lose(s *session) {
	if e.sessions.remove(s.ID) != nil {
		e.end(s)
	}
}

// PutFile writes a file of the session's workspace. It fails with KindInvalid,
// file_refused, where something else than a regular file stands there or on the
// way, with KindTooLarge where there is no room, and as Execute does.
func (e *Executor) PutFile(ctx context.Context, id, path string, content []byte) error {
	_, err := e.withFile(ctx, id, func(ctx context.Context, sb *sandbox) (wire.Frame, error) {
		if err := wire.WriteFile(sb.control, wire.FrameFile, path, int64(len(content)), bytes.NewReader(content)); err != nil {
			return wire.Frame{}, err
		}
		if err := wire.Write(sb.control, wire.FrameSync, nil); err != nil {
			return wire.Frame{}, err
		}
		return sb.next(ctx, map[wire.FrameType]int{wire.FrameDone: maxDone})
	})
	return err
}

// GetFile reads a regular file of the session's workspace of at most that many
// bytes. Its errors are those of PutFile, and KindNotFound, file_not_found.
func (e *Executor) GetFile(ctx context.Context, id, path string, most int64) ([]byte, error) {
	frame, err := e.withFile(ctx, id, func(ctx context.Context, sb *sandbox) (wire.Frame, error) {
		if err := wire.WriteJSON(sb.control, wire.FrameFetch, wire.Fetch{Path: path, Max: most}); err != nil {
			return wire.Frame{}, err
		}
		frame, err := sb.next(ctx, map[wire.FrameType]int{wire.FrameDone: maxDone, wire.FrameContent: int(most) + maxPath})
		if err == nil && frame.Type == wire.FrameContent {
			err = checkContent(frame, path, most)
		}
		return frame, err
	})
	if err != nil {
		return nil, err
	}
	_, content, err := frame.File()
	return content, err
}

// checkContent refuses another file than was asked for.
func checkContent(frame wire.Frame, path string, most int64) error {
	sent, content, err := frame.File()
	if err != nil {
		return err
	}
	if sent != path || int64(len(content)) > most {
		return fmt.Errorf("the agent sent %d bytes of %.100q, and %.100q of at most %d was asked for", len(content), sent, path, most)
	}
	return nil
}

// maxDone bounds the agent's answer about a file, in bytes.
const maxDone = 256

// withFile asks the agent of an idle session something about a file.
func (e *Executor) withFile(ctx context.Context, id string, ask func(context.Context, *sandbox) (wire.Frame, error)) (wire.Frame, error) {
	s, release, err := e.sessions.take(id, execution.Owner{})
	if err != nil {
		return wire.Frame{}, err
	}
	defer release()
	// A caller who hangs up in the middle does not cost the session.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fileTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.sb.session.Close() })
	frame, err := ask(ctx, s.sb)
	stop()
	var done wire.Done
	if err == nil && frame.Type == wire.FrameDone {
		err = frame.Decode(&done)
	}
	if err != nil {
		e.lose(s)
		return frame, lost(err)
	}
	return frame, fileError(done.Problem)
}

func fileError(problem wire.Problem) error {
	switch problem {
	case "":
		return nil
	case wire.ProblemNotFound:
		return &execution.Error{Kind: execution.KindNotFound, Code: "file_not_found", Detail: "There is no such file in the session's workspace."}
	case wire.ProblemTooLarge:
		return &execution.Error{Kind: execution.KindTooLarge, Code: "file_too_large", Detail: "The file is larger than may be sent, or than the session's workspace has room for."}
	}
	return &execution.Error{Kind: execution.KindInvalid, Code: "file_refused", Detail: "Only regular files can be written and read, with no link and no file on the way to them."}
}

func (s *sessions) add(open *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[string]*session{}
	}
	s.open[open.ID] = open
}

// remove returns the session, or nil where it is not open.
func (s *sessions) remove(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := s.open[id]
	delete(s.open, id)
	return open
}

// take gives one caller the session until release. Where an owner is named it
// must be that one's.
func (s *sessions) take(id string, owner execution.Owner) (*session, func(), error) {
	s.mu.Lock()
	open := s.open[id]
	s.mu.Unlock()
	if open == nil || !open.sb.alive() || owner != (execution.Owner{}) && owner != open.Owner {
		return nil, nil, &execution.Error{Kind: execution.KindGone, Code: "session_ended", Detail: "The session has ended: open another."}
	}
	select {
	case <-open.turn:
		return open, func() { open.turn <- struct{}{} }, nil
	default:
		return nil, nil, &execution.Error{
			Kind: execution.KindConflict, Code: "session_busy", RetryAfter: time.Second,
			Detail: "Something runs in the session: wait for its end, or cancel it.",
		}
	}
}

// empty ends every session.
func (s *sessions) empty(e *Executor) {
	s.mu.Lock()
	open := slices.Collect(maps.Values(s.open))
	s.open = nil
	s.mu.Unlock()
	for _, session := range open {
		e.end(session)
	}
}
