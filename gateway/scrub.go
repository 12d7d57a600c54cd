package gateway

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/scrub"
)

// scrubber keeps the values of what a program was given out of what it gives back:
// output, result, artifacts and their names. It stands between the executor and
// whatever policy has redacted.
type scrubber struct {
	set  *scrub.Set
	tell func(execution.Event) error // nil: nobody is told

	mu             sync.Mutex
	stdout, stderr scrubbedStream
}

// scrubbedStream is one stream of output on its way to be told.
type scrubbedStream struct {
	writer *scrub.Writer
	passed []byte // what the writer has let go since the last event
}

// Write implements io.Writer for the writer.
func (s *scrubbedStream) Write(p []byte) (int, error) {
	s.passed = append(s.passed, p...)
	return len(p), nil
}

// take is what has been let go, which is the taker's from then on.
func (s *scrubbedStream) take() []byte {
	passed := s.passed
	s.passed = nil
	return passed
}

// newScrubber is a scrubber of what exposed holds. A value that is secret by its name
// and too short to be told from innocent text cannot be kept out of anything: it is an
// error, and the execution does not run. Other short values, such as a port, pass.
func newScrubber(exposed []execution.Exposed, tell func(execution.Event) error) (*scrubber, error) {
	var values []string
	for _, e := range exposed {
		for name, field := range e.Fields {
			value := field.Reveal()
			if len(strings.TrimSpace(value)) >= scrub.MinLength {
				values = append(values, value)
			} else if value != "" && secretByName(name) {
				return nil, unscrubbable(e.Credential.Tool, fmt.Errorf("field %q is too short", name))
			}
		}
	}
	set, err := scrub.NewSet(values...)
	if err != nil {
		return nil, unscrubbable(exposed[0].Credential.Tool, err)
	}
	s := &scrubber{set: set, tell: tell}
	s.stdout.writer, s.stderr.writer = scrub.NewWriter(&s.stdout, set), scrub.NewWriter(&s.stderr, set)
	return s, nil
}

// secretByName reports whether a field of that name is one that opens something.
func secretByName(name string) bool {
	name = strings.ToLower(name)
	if name == "private_key_type" {
		return false
	}
	for _, part := range []string{"pass", "secret", "token", "key", "credential", "pin"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

func unscrubbable(tool string, cause error) error {
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: "credential_unscrubbable",
		Detail: fmt.Sprintf("the credential of the tool %q has a value that could not be kept out of the output; "+
			"the operator has to store one of at least %d characters", tool, scrub.MinLength),
		Err: cause,
	}
}

// events is what the executor tells; nil where nobody is told.
func (s *scrubber) events() func(execution.Event) error {
	if s.tell == nil {
		return nil
	}
	return s.event
}

func (s *scrubber) event(e execution.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Type {
	case execution.EventStdout:
		return s.passOn(&s.stdout, e)
	case execution.EventStderr:
		return s.passOn(&s.stderr, e)
	case execution.EventArtifact:
		artifact := s.artifact(*e.Artifact)
		e.Artifact = &artifact
	}
	return s.tell(e)
}

func (s *scrubber) passOn(stream *scrubbedStream, e execution.Event) error {
	if _, err := stream.writer.Write(e.Data); err != nil {
		return err
	}
	if e.Data = stream.take(); len(e.Data) == 0 {
		return nil
	}
	return s.tell(e)
}

// rest tells what was held back, once the program has ended. Where a stream was cut
// off, what could be the beginning of a secret stays untold.
func (s *scrubber) rest(cutOff execution.Truncated) error {
	if s.tell == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, left := range []struct {
		kind   execution.EventType
		stream *scrubbedStream
		cutOff bool
	}{{execution.EventStdout, &s.stdout, cutOff.Stdout}, {execution.EventStderr, &s.stderr, cutOff.Stderr}} {
		if left.cutOff {
			continue
		}
		if err := left.stream.writer.Close(); err != nil {
			errs = append(errs, err)
		} else if data := left.stream.take(); len(data) > 0 {
			errs = append(errs, s.tell(execution.Event{Type: left.kind, Data: data}))
		}
	}
	return errors.Join(errs...)
}

func (s *scrubber) artifact(a execution.Artifact) execution.Artifact {
	a.Path, a.Content = s.set.Text(a.Path), s.set.Bytes(a.Content)
	a.Size = int64(len(a.Content))
	return a
}

// result is result as it may leave. A result whose secrets stand across its parts is
// withheld.
func (s *scrubber) result(in execution.Result) execution.Result {
	in.Stdout, in.Stderr = s.output(in.Stdout, in.Truncated.Stdout), s.output(in.Stderr, in.Truncated.Stderr)
	in.ValueError = s.set.Text(in.ValueError)
	value, err := rewriteJSON(in.Value, s.set.Text)
	if err != nil || s.set.Text(string(value)) != string(value) {
		value, in.ValueError = nil, errWithheldSecret
	}
	in.Value = value
	artifacts := make([]execution.Artifact, len(in.Artifacts))
	for i, a := range in.Artifacts {
		artifacts[i] = s.artifact(a)
	}
	if in.Artifacts != nil {
		in.Artifacts = artifacts
	}
	return in
}

// errWithheldSecret stands in the place of a result that holds a secret in a way that
// cannot be masked.
const errWithheldSecret = "the result is withheld: it holds a credential"

// output is one stream as it may leave. Where it was cut off it is without what could
// be the beginning of a secret.
func (s *scrubber) output(text []byte, cutOff bool) []byte {
	if !cutOff {
		return s.set.Bytes(text)
	}
	var kept scrubbedStream
	if _, err := scrub.NewWriter(&kept, s.set).Write(text); err != nil {
		return nil // the writer below has no errors
	}
	return kept.take()
}

// scrubbed is what came of an execution as it may go on. Of what cannot be scrubbed
// nothing goes on.
func (s *Service) scrubbed(scrubber *scrubber, result execution.Result, runErr error) (out execution.Result, err error) {
	err = runErr
	if runErr != nil {
		return execution.Result{Outcome: result.Outcome, Session: result.Session, Usage: result.Usage}, runErr
	}
	var scrubErr error
	defer func() {
		if scrubErr != nil {
			out = withheld(result)
			out.Artifacts = nil
		}
	}()
	defer s.recovered("scrub", &scrubErr)
	if toldErr := s.tellRest(scrubber.rest, result.Truncated); toldErr != nil {
		s.log.Warn("the last of the output is not told", "error", toldErr)
	}
	return scrubber.result(result), nil
}
