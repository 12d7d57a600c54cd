package gateway

import (
	"fmt"
	"strings"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/scrub"
)

// scrubber keeps the values of what a program was given out of what it gives back:
// output, result, artifacts and their names. It stands between the executor and
// whatever policy has redacted.
type scrubber struct {
	set  *scrub.Set
	told *maskedEvents // nil: nobody is told
}

// scrubbedStream is the masker of one stream of output.
type scrubbedStream struct {
	writer *scrub.Writer
	passed []byte // what the writer has let go since the last look
}

func newScrubbedStream(set *scrub.Set) *scrubbedStream {
	s := &scrubbedStream{}
	s.writer = scrub.NewWriter(s, set)
	return s
}

// Write implements io.Writer for the writer. It has no errors, and so the writer has
// none.
func (s *scrubbedStream) Write(p []byte) (int, error) {
	s.passed = append(s.passed, p...)
	return len(p), nil
}

func (s *scrubbedStream) write(piece []byte) []byte {
	s.writer.Write(piece)
	return s.take()
}

func (s *scrubbedStream) end(cutOff bool) []byte {
	if cutOff {
		return nil
	}
	s.writer.Close()
	return s.take()
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
	s := &scrubber{set: set}
	if tell != nil {
		s.told = &maskedEvents{tell: s.artifacts(tell), stdout: newScrubbedStream(set), stderr: newScrubbedStream(set)}
	}
	return s, nil
}

// artifacts is tell for events whose artifacts are not scrubbed yet.
func (s *scrubber) artifacts(tell func(execution.Event) error) func(execution.Event) error {
	return func(e execution.Event) error {
		if e.Artifact != nil {
			artifact := s.artifact(*e.Artifact)
			e.Artifact = &artifact
		}
		return tell(e)
	}
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
	if s.told == nil {
		return nil
	}
	return s.told.add
}

// rest tells what was held back, once the program has ended.
func (s *scrubber) rest(cutOff execution.Truncated) error {
	if s.told == nil {
		return nil
	}
	return s.told.rest(cutOff)
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
	return newScrubbedStream(s.set).write(text)
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
