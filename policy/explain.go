package policy

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// maxTraceEvents bounds how much of an evaluation is kept for its trace. A full
// trace of the shipped policy has some 1,500 steps.
const maxTraceEvents = 10_000

// maxTraceBytes bounds the text of a trace.
const maxTraceBytes = 1 << 20

// Explain answers a question as Decide does, and says how it came about. With
// full, the steps of the evaluation are part of it; that takes some ten times
// as long, within the same deadline.
func (e *Engine) Explain(ctx context.Context, question execution.Question, full bool) execution.Explanation {
	t := &tracing{full: full}
	decision := e.decide(ctx, question, t)
	explanation := execution.Explanation{Decision: decision, Input: t.input}
	explanation.Trace, explanation.Truncated = t.text()
	return explanation
}

// tracing gathers how a decision comes about. A nil tracing gathers nothing.
type tracing struct {
	full  bool
	input json.RawMessage
	parts []tracePart
}

// tracePart is the trace of one layer.
type tracePart struct {
	title     string
	events    *eventTracer // nil where there is text already
	text      string
	truncated bool
}

func (t *tracing) keepInput(in *input) {
	if t == nil {
		return
	}
	t.input, _ = in.encode() // it has no member that cannot be encoded
}

// tracer is what the evaluator of a layer tells its steps; nil where they are
// not wanted.
func (t *tracing) tracer(title string) topdown.QueryTracer {
	if t == nil || !t.full {
		return nil
	}
	events := &eventTracer{}
	t.parts = append(t.parts, tracePart{title: title, events: events})
	return events
}

// add adds the trace of a layer that was evaluated elsewhere.
func (t *tracing) add(title, text string, truncated bool) {
	t.parts = append(t.parts, tracePart{title: title, text: text, truncated: truncated})
}

func (t *tracing) text() (text string, truncated bool) {
	var all strings.Builder
	for _, part := range t.parts {
		if part.events != nil {
			part.text, part.truncated = part.events.text()
		}
		all.WriteString("# " + part.title + "\n" + part.text)
		truncated = truncated || part.truncated
	}
	if all.Len() > maxTraceBytes {
		return strings.ToValidUTF8(all.String()[:maxTraceBytes], ""), true
	}
	return all.String(), truncated
}

// eventTracer keeps the first steps of an evaluation. An evaluation that was
// left behind may still be telling its steps while they are read.
type eventTracer struct {
	mu      sync.Mutex
	events  []*topdown.Event
	ended   bool
	dropped bool
}

// Enabled implements topdown.QueryTracer.
func (t *eventTracer) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (t *eventTracer) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

// TraceEvent implements topdown.QueryTracer.
func (t *eventTracer) TraceEvent(event topdown.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended || len(t.events) == maxTraceEvents {
		t.dropped = true
		return
	}
	t.events = append(t.events, &event)
}

func (t *eventTracer) text() (text string, truncated bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	var lines strings.Builder
	topdown.PrettyTraceWithLocation(&lines, t.events)
	return lines.String(), t.dropped
}
