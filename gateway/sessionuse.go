package gateway

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// The states of a session that is open.
const (
	sessionOpen   = "open"
	sessionEnding = "ending"
)

// fileTimeout bounds one access to a file of a session.
const fileTimeout = 60 * time.Second

// SessionStanding is how a session stands that is open.
type SessionStanding struct {
	ID       string
	State    string // open, or ending
	Language string
	Image    string // by name
	Grant    execution.Grant
	Created  time.Time
	Expires  time.Time // it ends then, whatever it does
	// Idle is when it ends if nothing uses it; zero while something does.
	Idle       time.Time
	Executions int  // that have run
	Busy       bool // one runs
}

func (o *session) standing() SessionStanding {
	o.mu.Lock()
	defer o.mu.Unlock()
	st := SessionStanding{
		ID: o.id, State: sessionOpen, Language: o.language, Image: o.image, Grant: o.grant,
		Created: o.created, Expires: o.expires, Executions: o.executions, Busy: o.executing,
	}
	if o.uses == 0 {
		st.Idle = o.idle
		if o.expires.Before(o.idle) {
			st.Idle = o.expires
		}
	}
	if o.why != "" {
		st.State = sessionEnding
	}
	return st
}

// LookSession returns how the session called id stands. It is an error of
// KindNotFound where there is none, and where it is not for who to see: only its
// owner may, and the admins of its tenant; and of KindGone, session_ended, where it
// has ended.
func (s *Service) LookSession(ctx context.Context, who execution.Principal, id string) (SessionStanding, error) {
	o, _, err := s.findSession(ctx, id, func(owner execution.Principal) bool { return maySee(who, owner.Tenant, owner.Subject) })
	if err != nil {
		return SessionStanding{}, err
	}
	return o.standing(), nil
}

// ListSessions returns those that are open and that who may see, oldest first.
func (s *Service) ListSessions(who execution.Principal) []SessionStanding {
	var list []SessionStanding
	for _, o := range s.sessions.all() {
		if owner := o.asked.Principal; o.started() && maySee(who, owner.Tenant, owner.Subject) {
			list = append(list, o.standing())
		}
	}
	slices.SortFunc(list, func(a, b SessionStanding) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// CloseSession ends the session called id, with what runs in it, and returns once
// that is recorded, or after 10 seconds with an end that is still to come (ended is
// false). It may be repeated. Errors are those of LookSession, and KindUnavailable,
// audit_unavailable, where the end cannot be recorded: it has ended all the same.
func (s *Service) CloseSession(ctx context.Context, call Call, id string) (ended bool, err error) {
	who := call.Principal
	o, was, err := s.findSession(ctx, id, func(owner execution.Principal) bool { return maySee(who, owner.Tenant, owner.Subject) })
	if err != nil {
		if was.Ended == execution.SessionDeleted {
			return true, nil
		}
		return false, err
	}
	o.end(execution.SessionDeleted, call)
	late := time.NewTimer(cancelWait)
	defer late.Stop()
	select {
	case <-o.done:
		return true, o.err
	case <-late.C:
		return false, nil
	case <-ctx.Done():
		return false, gone(ctx)
	}
}

// PutFile lays content into the session's /workspace at path, which is one that
// checkPath takes. Only the session's owner may. It is recorded before it is done.
// Errors are those of LookSession and of Sandboxes, and KindTooLarge for what is
// more than the whole workspace.
func (s *Service) PutFile(ctx context.Context, call Call, id, path string, content []byte) error {
	o, err := s.ownSession(ctx, call.Principal, id)
	if err != nil {
		return err
	}
	if most := o.mostPut(); int64(len(content)) > most {
		return errFileTooLarge(most)
	}
	return s.access(ctx, o, func(ctx context.Context) error {
		if err := s.recordFile(ctx, call, id, execution.SessionPut, path, content); err != nil {
			return err
		}
		return s.sandboxes.PutFile(ctx, id, path, content)
	})
}

// GetFile returns the file at path in the session's /workspace, of at most as much
// as artifacts may have together. Only the session's owner may. That is recorded
// before it returns. Errors are those of PutFile.
func (s *Service) GetFile(ctx context.Context, call Call, id, path string) (content []byte, err error) {
	o, err := s.ownSession(ctx, call.Principal, id)
	if err != nil {
		return nil, err
	}
	err = s.access(ctx, o, func(ctx context.Context) (err error) {
		if content, err = s.sandboxes.GetFile(ctx, id, path, o.grant.Limits.FilesMiB<<20); err != nil {
			return err
		}
		if known := o.known(nil); len(known) > 0 {
			scrubber, err := newScrubber(known, nil)
			if err != nil {
				return err
			}
			content = scrubber.set.Bytes(content)
		}
		return s.recordFile(ctx, call, id, execution.SessionGot, path, content)
	})
	if err != nil {
		return nil, err
	}
	return content, nil
}

// access does something with the files of o, which counts as a use of it.
func (s *Service) access(ctx context.Context, o *session, do func(context.Context) error) error {
	if err := o.use(nil); err != nil {
		return err
	}
	defer o.leave(false, false)
	ctx, cancel := context.WithTimeout(ctx, fileTimeout)
	defer cancel()
	select {
	case o.files <- struct{}{}:
		defer func() { <-o.files }()
	case <-ctx.Done():
		return errSessionBusy()
	}
	err := s.guardedAccess(ctx, do)
	e, ok := errors.AsType[*execution.Error](err)
	switch {
	case err == nil:
		return nil
	case ok && e.Kind == execution.KindGone:
		o.end(execution.SessionLost, Call{})
		return errSessionEnded(execution.SessionLost)
	case ok && slices.Contains([]execution.Kind{execution.KindInvalid, execution.KindNotFound, execution.KindTooLarge, execution.KindConflict, execution.KindUnavailable}, e.Kind):
		return e
	}
	return internal("access a file", err)
}

func (s *Service) guardedAccess(ctx context.Context, do func(context.Context) error) (err error) {
	defer s.recovered("access a file", &err)
	return do(ctx)
}

func (s *Service) recordFile(ctx context.Context, call Call, id string, what execution.SessionEvent, path string, content []byte) error {
	_, err := s.records.session(ctx, call, execution.SessionChange{ID: id, What: what, File: &execution.ArtifactHash{
		Path: cut(path, execution.MaxRecordPath), Size: int64(len(content)), SHA256: execution.HexSHA256(content),
	}})
	if err != nil {
		s.counters.auditFailed.Add(1)
	}
	return err
}

// mostPut is the size of the largest file that can be laid into the session.
func (o *session) mostPut() int64 { return o.grant.Limits.WorkspaceMiB << 20 }

// ownSession returns the session called id where it is open and belongs to who:
// what is in it is for nobody else, not even an admin.
func (s *Service) ownSession(ctx context.Context, who execution.Principal, id string) (*session, error) {
	o, _, err := s.findSession(ctx, id, func(owner execution.Principal) bool { return owner.Owner() == who.Owner() })
	return o, err
}

// findSession returns the session called id if it is open and may be seen. Where
// it has ended, that is the error, and what is remembered of it stands beside.
func (s *Service) findSession(ctx context.Context, id string, may func(owner execution.Principal) bool) (*session, StoredSession, error) {
	if !execution.ValidID(execution.PrefixSession, id) {
		return nil, StoredSession{}, errSessionNotFound()
	}
	if o := s.sessions.get(id); o != nil && o.started() {
		if !may(o.asked.Principal) {
			return nil, StoredSession{}, errSessionNotFound()
		}
		return o, StoredSession{}, nil
	}
	var row StoredSession
	err := s.recall(ctx, "load session", func(ctx context.Context) (err error) {
		row, err = s.remembered.Load(ctx, id)
		return err
	})
	switch {
	case execution.KindOf(err) == execution.KindNotFound, err == nil && !may(row.Owner):
		return nil, StoredSession{}, errSessionNotFound()
	case err != nil:
		return nil, StoredSession{}, err
	}
	return nil, row, errSessionEnded(row.Ended)
}

// endings say why a session ended.
var endings = map[execution.SessionEnd]string{
	execution.SessionDeleted: "it was deleted",
	execution.SessionIdle:    "it was not used for as long as the policy lets it wait",
	execution.SessionExpired: "it was open for as long as the policy lets it",
	execution.SessionLost:    "its sandbox ended, killed for a limit or lost by the engine",
	execution.SessionStopped: "the gateway was stopped",
	execution.SessionCrashed: "the gateway was restarted",
}

func errSessionEnded(why execution.SessionEnd) error {
	e := &execution.Error{Kind: execution.KindGone, Code: "session_ended", Detail: "the session has ended; open a new one"}
	if text, ok := endings[why]; ok {
		e.Detail = "the session has ended: " + text + "; open a new one"
		e.Reasons = []execution.Reason{{Code: string(why), Message: text, Remediation: "Open a new session."}}
	}
	return e
}

func errSessionNotFound() error {
	return &execution.Error{Kind: execution.KindNotFound, Code: "session_not_found", Detail: "there is no such session"}
}

func errFileTooLarge(most int64) error {
	return &execution.Error{Kind: execution.KindTooLarge, Code: "file_too_large", Detail: "a file of this session may have at most " + mebibytes(most)}
}
