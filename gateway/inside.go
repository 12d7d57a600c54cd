package gateway

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// sandboxLimits are the limits of a sandbox itself, which an execution in a
// session takes from the session.
var sandboxLimits = []string{"memory_mib", "cpu_millis", "cpu_shares", "pids", "nofile", "tmp_mib", "workspace_mib", "shm_mib"}

// turn is what one execution has of its session: nobody else runs in it
// meanwhile. A nil one is that of an execution outside of sessions.
type turn struct {
	session *session
	over    bool
}

// turn takes the turn of call in the session that its request names, and puts
// into the request what comes from the session. cancel ends the execution.
func (s *Service) turn(ctx context.Context, call *Call, cancel context.CancelCauseFunc) (*turn, error) {
	if call.Request.Session == "" {
		return nil, nil
	}
	o, err := s.ownSession(ctx, call.Principal, call.Request.Session)
	if err != nil {
		return nil, err
	}
	if call.Request, err = o.complete(call.Request); err != nil {
		return nil, err
	}
	if err := o.use(cancel); err != nil {
		return nil, err
	}
	return &turn{session: o}, nil
}

// in is the session, or nil.
func (t *turn) in() *session {
	if t == nil {
		return nil
	}
	return t.session
}

// leave gives up the turn of an execution that was not allowed. After end it does
// nothing.
func (t *turn) leave() {
	if t != nil && !t.over {
		t.over = true
		t.session.leave(true, false)
	}
}

// end ends the turn of an execution that was allowed, and returns what became of
// the session. One whose sandbox is lost ends.
func (t *turn) end(result execution.Result, failed error) execution.SessionState {
	if t == nil {
		return ""
	}
	o := t.session
	if result.Session == execution.SessionEnded || execution.KindOf(failed) == execution.KindGone {
		o.end(execution.SessionLost, Call{})
	}
	t.over = true
	o.leave(true, true)
	switch why, _ := o.ending(); {
	case why != "":
		return execution.SessionEnded
	case result.Session == "": // it has not come to run
		return execution.SessionKept
	}
	return result.Session
}

// complete returns the request with what it takes from the session, or says what
// in it does not fit the session.
func (o *session) complete(r execution.Request) (execution.Request, error) {
	f := &faults{}
	for _, own := range []struct {
		name, asked, is string
	}{{"language", r.Language, o.language}, {"image", r.Image, o.image}, {"runtime", r.Runtime, o.grant.Runtime}} {
		if own.asked != "" && own.asked != own.is {
			f.add("/"+own.name, "is another than the session's; leave it out")
		}
	}
	switch {
	case o.language != "" && len(r.Command) > 0:
		f.addf("/command", "cannot run in a session with a language; send code in %s", o.language)
	case o.language == "" && len(r.Command) == 0:
		f.add("/command", "is required: the session has no language")
	}
	for _, name := range sandboxLimits {
		limit, _ := execution.LimitNamed(name)
		if *limit.Of(&r.Limits) != 0 {
			f.add("/limits/"+name, "belongs to the session; leave it out")
		}
		*limit.Of(&r.Limits) = *limit.Of(&o.grant.Limits)
	}
	r.Language, r.Image, r.Runtime = o.language, o.image, o.grant.Runtime
	return r, f.err()
}

// hold refuses what d allows where that is less than the session has: then its
// sandbox is more than the policy grants now.
func (o *session) hold(d execution.Decision) execution.Decision {
	more := o.exceeds(d.Grant)
	if len(more) == 0 {
		for _, name := range sandboxLimits {
			limit, _ := execution.LimitNamed(name)
			*limit.Of(&d.Grant.Limits) = *limit.Of(&o.grant.Limits)
		}
		return d
	}
	d.Effect = execution.EffectDeny
	d.Reasons = append(slices.Clone(d.Reasons), execution.Reason{
		Code: execution.CodeSessionExceedsGrant, Rule: "gateway.session",
		Message:     "The session has another sandbox than the policy grants now, in: " + strings.Join(more, ", ") + ".",
		Remediation: "Open a new session, which gets what is granted now; take the files that are to stay out of this one before.",
	})
	return d
}

// exceeds names what the session has and g does not grant.
func (o *session) exceeds(g execution.Grant) (names []string) {
	add := func(name string, exceeds bool) {
		if exceeds {
			names = append(names, name)
		}
	}
	has := o.grant
	add("image", g.Image != has.Image)
	add("runtime", g.Runtime != has.Runtime)
	for _, name := range sandboxLimits {
		limit, _ := execution.LimitNamed(name)
		add(name, *limit.Of(&g.Limits) < *limit.Of(&has.Limits))
	}
	add("idle_s", g.Session.IdleS < has.Session.IdleS)
	add("absolute_s", g.Session.AbsoluteS < has.Session.AbsoluteS)
	for _, control := range has.OptionalControls {
		add("optional_controls", !slices.Contains(g.OptionalControls, control))
	}
	return slices.Compact(names)
}

func errSessionBusy() error {
	return &execution.Error{
		Kind: execution.KindConflict, Code: "session_busy", RetryAfter: time.Second,
		Detail: "something is done in the session; wait for its end, or cancel it",
	}
}
