package gateway

import (
	"encoding/json"
	"sync"

	"github.com/execgate/execgate/execution"
)

// streamExecution answers with events as they happen. The program is no faster
// than its client: while an event is not taken, nothing more is read from the
// program, and no more than that event is kept. A client that takes nothing for
// as long as a response may take (Config.WriteTimeout), or hangs up, ends the
// program.
//
// Until the first event, which is started, an error is an ordinary problem;
// after that it is the event error.
func (g *Gateway) streamExecution(x *exchange, call Call) error {
	p := &program{stream: &eventStream{x: x}}
	done := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() { p.stream.beat(done) })
	defer func() {
		close(done)
		beating.Wait()
		p.stream.close()
	}()
	call.Decided = p.decided
	call.Events = p.tell
	response, err := g.config.Service.Execute(x.ctx(), call)
	x.execution = response.ID
	var body []byte
	if err == nil {
		if body, err = encodeExecution(response); err != nil {
			err = internal("encode response", err)
		}
	}
	return p.end(body, err)
}

// program is one that is streamed straight to the client that asked for it.
type program struct {
	stream *eventStream
	teller *teller // under stream.mu
}

func (p *program) decided(r Response) (err error) {
	p.stream.mu.Lock()
	defer p.stream.mu.Unlock()
	p.teller, err = newTeller(r)
	return err
}

// tell is execution.Job's Events.
func (p *program) tell(e execution.Event) error {
	p.stream.mu.Lock()
	defer p.stream.mu.Unlock()
	m, ok, err := p.teller.tell(e)
	if err != nil || !ok {
		return err
	}
	return p.next(m)
}

// end sends the last events: body, or the problem that err is. It returns err
// where the stream was not begun, and it can still be answered.
func (p *program) end(body []byte, err error) error {
	s := p.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.open {
		return err
	}
	last := message{kind: eventEnded, data: body}
	if err != nil {
		s.x.err = err
		last.kind = eventError
		if last.data, err = json.Marshal(problemOf(err, s.x.requestID, s.x.execution)); err != nil {
			return internal("encode problem", err)
		}
	}
	for _, m := range append(p.teller.rest(), last) {
		if err := p.next(m); err != nil && s.x.err == nil {
			s.x.err = err // the client is gone; the line of the log says so
		}
	}
	return nil
}

// next sends m with the next id.
func (p *program) next(m message) error {
	m.id = p.stream.newest + 1
	return p.stream.sendLocked(m)
}
