package gateway

import (
	"fmt"
	"net/http"
	"time"

	"github.com/execgate/execgate/execution"
)

// followExecution is GET /v1/executions/{id}/events: what an execution has told
// after Last-Event-ID, and what it tells from now on, until its last event.
//
// While it is under way the newest events are kept, about 1 MiB of them; a
// comment says where some are missing. After its end they are made anew from
// what is remembered: stdout and stderr each as one event, without the order
// between them and without their times, and only the last event has an id. A
// client that has seen some of the events before gets only the last one then,
// which holds everything, and a client that has that one gets 204, which tells
// an EventSource not to come back.
func (g *Gateway) followExecution(x *exchange) error {
	after, err := lastEventIDOf(x.gin.Request.Header)
	if err != nil {
		return err
	}
	st, err := g.config.Service.Look(x.ctx(), x.principal, x.gin.Param("id"))
	if err != nil {
		return err
	}
	x.execution = st.ID
	switch {
	case st.State == StateExpired:
		return g.writeStanding(x, st)
	case st.live == nil && st.State == StateAwaiting:
		return &execution.Error{
			Kind: execution.KindConflict, Code: "awaiting_approval", Detail: "it awaits approval, and has no events before it has that; see GET /v1/executions/{id}",
		}
	case st.live != nil && st.live.feed == nil:
		return &execution.Error{
			Kind: execution.KindConflict, Code: "not_followed", Detail: "only who asked for this execution is told its events; ask with Prefer: respond-async",
		}
	}
	return g.follow(x, st, after)
}

// follow streams what comes after the event called after.
func (g *Gateway) follow(x *exchange, st Standing, after uint64) error {
	tenant := x.principal.Tenant
	if !g.readers.take(tenant) {
		return errTooManyReaders()
	}
	defer g.readers.give(tenant)
	if st.live == nil {
		return g.followMemory(x, st, after)
	}
	return g.followLive(x, st.live, after)
}

func (g *Gateway) followLive(x *exchange, t *tracked, after uint64) error {
	s := &eventStream{x: x}
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		m, ok, over, more := t.feed.next(after)
		switch {
		case ok && m.id > after+1:
			x.err = s.comment(fmt.Sprintf(" events %d to %d are not kept any more", after+1, m.id-1))
			fallthrough
		case ok:
			if x.err = s.send(m); x.err != nil {
				return nil
			}
			after = m.id
			continue
		case over && !s.open:
			x.write(http.StatusNoContent, "", nil)
			return nil
		case over:
			return nil
		case !s.open:
			// It may be long until there is something to say.
			x.err = s.comment("")
		}
		select {
		case <-more:
		case <-tick.C:
			x.err = s.comment("")
		case <-x.ctx().Done():
			x.err = gone(x.ctx())
		}
		if x.err != nil {
			return nil
		}
	}
}

func (g *Gateway) followMemory(x *exchange, st Standing, after uint64) error {
	messages := []message{{id: st.Events, kind: eventError, data: st.Body, last: true}}
	if st.State == StateEnded {
		var err error
		if messages, err = replay(st.Body, st.Events); err != nil {
			return internal("read result", err)
		}
	}
	switch {
	case after >= st.Events:
		x.write(http.StatusNoContent, "", nil)
		return nil
	case after > 0:
		messages = messages[len(messages)-1:]
	}
	s := &eventStream{x: x}
	for _, m := range messages {
		if x.err = s.send(m); x.err != nil {
			return nil
		}
	}
	return nil
}
