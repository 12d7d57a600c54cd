package activation

import (
	"context"
	"errors"
	"fmt"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// The codes of what keeps a candidate from coming into force.
const (
	CodeUnreadable    = "policy_unreadable"
	CodeBroken        = "policy_broken"       // it does not compile, or has what no bundle may have
	CodeTooLarge      = "policy_too_large"    // a bound on size or number is passed
	CodeUnsigned      = "policy_unsigned"     // no signature, or not one of a trusted key over these files
	CodeSequence      = "policy_sequence"     // its sequence does not rise
	CodeTests         = "policy_tests_failed" // its own tests fail, or there are none
	CodeMustDeny      = "policy_allows_what_none_may"
	CodeTooSlow       = "policy_too_slow" // it does not answer an ordinary question within the deadline
	CodeUntried       = "policy_untried"  // through no fault of its own
	CodeNothingBefore = "policy_nothing_before"
)

// sampled is how often a candidate is asked a question at most: an answer is slower
// the first time, and a busy machine is not the policy's fault.
const sampled = 3

// check says what keeps a candidate from coming into force. Everything that looks
// into it runs in worker processes.
func (m *Manager) check(ctx context.Context, c Candidate) error {
	digest := c.Files.Digest()
	if m.ofProgram(c.Source, digest) {
		return nil
	}
	images, highest := m.present()
	if err := m.checkSignature(c, highest); err != nil {
		return err
	}
	if digest == m.cfg.Shipped {
		return nil
	}
	bundle := policy.Bundle{Files: c.Files, Source: c.Source, Images: images, Tools: m.cfg.Tools}
	revision, err := m.cfg.Workers.Load(ctx, bundle)
	if err != nil {
		return err
	}
	defer m.cfg.Workers.Forget(revision)
	if err := m.trial.test(ctx, bundle); err != nil {
		return err
	}
	if err := m.trial.time(ctx, revision); err != nil {
		return err
	}
	return m.checkMustDeny(ctx, c.Files, images, revision)
}

// checkSignature wants a signature where keys are configured, and a sequence above
// every one before: who holds an old bundle, signed as it is, cannot bring it back.
func (m *Manager) checkSignature(c Candidate, highest uint64) error {
	if len(m.cfg.Keys) == 0 {
		return nil
	}
	if c.Signature == nil {
		return fault(CodeUnsigned, fmt.Errorf("it has no signature (%s); execgate policy sign makes one", policy.SignatureName))
	}
	if err := m.cfg.Keys.Verify(c.Files, c.Signature); err != nil {
		return fault(CodeUnsigned, err)
	}
	if c.Signature.Sequence <= highest {
		return fault(CodeSequence, fmt.Errorf("its sequence is %d, and %d was in force already: sign it with a higher one, or go back by a rollback", c.Signature.Sequence, highest))
	}
	return nil
}

// trial tries bundles in worker processes.
type trial struct {
	workers      Workers
	requireTests bool
}

// test runs a bundle's own tests.
func (t trial) test(ctx context.Context, bundle policy.Bundle) error {
	report, err := t.workers.Test(ctx, bundle)
	if err != nil {
		return err
	}
	var failed []string
	for _, test := range report.Results {
		if test.Outcome == policy.TestFailed || test.Outcome == policy.TestErrored {
			failed = append(failed, fmt.Sprintf("%s: %s.%s: %s %s", test.Location, test.Package, test.Name, test.Outcome, test.Error))
		}
	}
	switch {
	case len(failed) > 0:
		return fault(CodeTests, &policy.BundleError{Problems: failed})
	case len(report.Results) == 0 && t.requireTests:
		return fault(CodeTests, errors.New("it has no tests, which the configuration asks for (policy.require_tests)"))
	}
	return nil
}

// time wants an answer to an ordinary question within the deadline that questions
// have. What the answer is does not matter here.
func (t trial) time(ctx context.Context, revision string) error {
	question, err := policy.OrdinaryQuestion()
	if err != nil {
		return err
	}
	if _, err = t.ask(ctx, revision, question); err != nil && ctx.Err() == nil {
		return fault(CodeTooSlow, fmt.Errorf("it gave no answer to an ordinary question in time: %w", err))
	}
	return err
}

// ask asks a candidate, again where it gives no answer.
func (t trial) ask(ctx context.Context, revision string, question []byte) (answer policy.Answer, err error) {
	for range sampled {
		if answer, err = t.workers.Evaluate(ctx, candidateKey(revision), revision, question, false); err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			return policy.Answer{}, ctx.Err()
		}
	}
	return policy.Answer{}, err
}

// candidateKey is under what a candidate waits for a worker: no tenant's name, so that
// none waits behind it.
func candidateKey(revision string) string { return "candidate " + revision }

// checkMustDeny wants a denial of what every policy denies.
func (m *Manager) checkMustDeny(ctx context.Context, files policy.Files, images map[string]string, revision string) error {
	report, err := policy.MustDeny(ctx, files, images, m.cfg.Obligations, func(ctx context.Context, input []byte) (policy.Answer, error) {
		answer, err := m.trial.ask(ctx, revision, input)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			// No denial: in force, on a machine that is less busy, it may answer.
			return policy.Answer{}, fault(CodeTooSlow, fmt.Errorf("it gave no answer in time to a question that every policy denies: %w", err))
		}
		return answer, err
	})
	if err != nil {
		return err
	}
	if err := report.Err(); err != nil {
		return fault(CodeMustDeny, err)
	}
	return nil
}

// fault is what is wrong with a candidate, by its code.
func fault(code string, err error) error {
	kind := execution.KindInvalid
	if code == CodeSequence {
		kind = execution.KindConflict
	}
	return &execution.Error{Kind: kind, Code: code, Detail: "the policy is refused: " + err.Error(), Err: err}
}

// faultOf gives an error that has no code yet that of its cause.
func faultOf(err error) *execution.Error {
	if e, ok := errors.AsType[*execution.Error](err); ok {
		return e
	}
	if broken, ok := errors.AsType[*policy.BundleError](err); ok {
		e := &execution.Error{Kind: execution.KindInvalid, Code: CodeBroken, Detail: "the policy is refused: " + broken.Error(), Err: err}
		if broken.TooLarge {
			e.Kind, e.Code = execution.KindTooLarge, CodeTooLarge
		}
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &execution.Error{Kind: execution.KindInvalid, Code: CodeTooSlow, Detail: "the policy is refused: it takes too long to compile or to test", Err: err}
	}
	return &execution.Error{Kind: execution.KindUnavailable, Code: CodeUntried, Detail: "the policy could not be tried; the gateway's log has the error", Err: err}
}

// The bounds of what a record says of a refusal.
const (
	maxProblems     = 64
	maxProblemBytes = 1 << 10
)

// problemsOf are the words of an error, one for each problem.
func problemsOf(err error) []string {
	problems := []string{err.Error()}
	if broken, ok := errors.AsType[*policy.BundleError](err); ok {
		problems = broken.Problems
	}
	cut := make([]string, 0, min(len(problems), maxProblems))
	for _, p := range problems[:min(len(problems), maxProblems)] {
		cut = append(cut, p[:min(len(p), maxProblemBytes)])
	}
	return cut
}
