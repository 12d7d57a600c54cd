package gateway

import (
	"encoding/json"
	"sync"

	"github.com/execgate/execgate/execution"
)

// The events of the stream that are not those of a program: its last ones.
const (
	eventEnded = "ended" // its data is the 200 body
	eventError = "error" // its data is a problem
)

// message is one event as it is sent.
type message struct {
	id   uint64 // zero: none, and the client's last one stays
	kind string
	data []byte // JSON, in one line
	last bool
}

// teller puts the events of one execution into messages, without ids.
type teller struct {
	begun []byte // data of started

	mu             sync.Mutex
	stdout, stderr joiner
}

func newTeller(r Response) (*teller, error) {
	begun, err := encodeStarted(r.ID, decisionOf(r.Decision))
	return &teller{begun: begun}, err
}

// tell returns the message for e, and false where there is nothing to tell yet.
func (t *teller) tell(e execution.Event) (m message, ok bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Type {
	case execution.EventStarted:
		return message{kind: string(e.Type), data: t.begun}, true, nil
	case execution.EventStdout:
		return textMessage(string(e.Type), t.stdout.add(e.Data))
	case execution.EventStderr:
		return textMessage(string(e.Type), t.stderr.add(e.Data))
	case execution.EventArtifact:
		if e.Artifact == nil {
			return message{}, false, nil
		}
		data, err := json.Marshal(e.Artifact)
		return message{kind: string(e.Type), data: data}, err == nil, err
	default:
		return message{}, false, nil
	}
}

// rest returns the messages for what was held back.
func (t *teller) rest() (out []message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, stream := range []struct {
		kind execution.EventType
		from *joiner
	}{{execution.EventStdout, &t.stdout}, {execution.EventStderr, &t.stderr}} {
		if m, ok, err := textMessage(string(stream.kind), stream.from.rest()); ok && err == nil {
			out = append(out, m)
		}
	}
	return out
}

func textMessage(kind, text string) (message, bool, error) {
	if text == "" {
		return message{}, false, nil
	}
	data, err := json.Marshal(struct {
		Text string `json:"text"`
	}{text})
	return message{kind: kind, data: data}, err == nil, err
}

func encodeStarted(id string, decision decisionDocument) ([]byte, error) {
	return json.Marshal(struct {
		ID       string           `json:"id"`
		Decision decisionDocument `json:"decision"`
	}{id, decision})
}

// replay makes the messages of an execution that has ended out of its 200 body:
// each stream whole, in one message. They have no ids but for the last, whose id
// is events: what the program wrote first, and when, is no longer known, so that
// a client that breaks off begins again.
func replay(body []byte, events uint64) ([]message, error) {
	var d executionDocument
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, err
	}
	var out []message
	if d.Outcome != execution.OutcomeUnknownCrash {
		begun, err := encodeStarted(d.ID, d.Decision)
		if err != nil {
			return nil, err
		}
		out = append(out, message{kind: string(execution.EventStarted), data: begun})
	}
	t := &teller{}
	told := []execution.Event{
		{Type: execution.EventStdout, Data: []byte(d.Stdout)},
		{Type: execution.EventStderr, Data: []byte(d.Stderr)},
	}
	for i := range d.Artifacts {
		told = append(told, execution.Event{Type: execution.EventArtifact, Artifact: &d.Artifacts[i]})
	}
	for _, e := range told {
		m, ok, err := t.tell(e)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, m)
		}
	}
	return append(out, message{id: events, kind: eventEnded, data: body, last: true}), nil
}
