package activation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// Rollback puts the policy in force that was before the present one. Its error is
// of KindConflict where there is none.
func (m *Manager) Rollback(ctx context.Context, by *execution.Principal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	bundle, ok := m.history.before()
	if !ok {
		return &execution.Error{Kind: execution.KindConflict, Code: CodeNothingBefore, Detail: "there is no policy to go back to"}
	}
	files, signature, err := m.history.read(bundle)
	if err == nil {
		err = m.trusted(bundle, files, signature)
	}
	if err != nil {
		fault := faultOf(err)
		m.refuse(ctx, Candidate{Files: files, Source: bundle.Source, By: by}, fault, err)
		return fault
	}
	bundle.Since, bundle.By = time.Now().UTC(), ""
	if by != nil {
		bundle.By = by.Subject
	}
	if err := m.swap(ctx, files, bundle, by); err != nil {
		return err
	}
	m.forgive()
	return m.history.push(bundle)
}

// Renew puts the present policy in force again with other digests of images.
func (m *Manager) Renew(ctx context.Context, images map[string]string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if maps.Equal(m.images, images) && m.cfg.Engine.Revision() != "" {
		return nil
	}
	before := m.images
	m.images = images
	last, ok := m.history.active()
	if !ok {
		return errors.New("no policy is in force")
	}
	files, _, err := m.history.read(last)
	if err != nil {
		m.images = before
		return err
	}
	if err := m.swap(ctx, files, last, nil); err != nil {
		m.images = before
		fault := faultOf(err)
		m.refuse(ctx, Candidate{Files: files, Source: last.Source}, fault, err)
		return fault
	}
	return nil
}

// swap puts files in force and records it. What cannot be recorded does not
// remain in force.
func (m *Manager) swap(ctx context.Context, files policy.Files, is execution.PolicyActivation, by *execution.Principal) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), swapTimeout)
	defer cancel()
	before := m.cfg.Engine.Revision()
	revision, err := m.cfg.Engine.Activate(ctx, policy.Bundle{Files: files, Source: is.Source, Images: m.images, Tools: m.cfg.Tools})
	if err != nil {
		return err
	}
	err = m.cfg.Record(ctx, execution.Record{
		Type: execution.RecordPolicyActivated, Principal: by,
		Policy: &execution.PolicyChange{Revision: revision, Source: is.Source, Digest: is.Digest, Sequence: is.Sequence},
	})
	if err != nil {
		return errors.Join(&execution.Error{
			Kind: execution.KindUnavailable, Code: "audit_unavailable", RetryAfter: 5 * time.Second,
			Detail: "the audit log cannot be written, and no policy comes into force that is not recorded", Err: err,
		}, m.undo(ctx, before))
	}
	m.state.Lock()
	m.counts.Activated++
	m.state.Unlock()
	m.cfg.Logger.InfoContext(ctx, "policy is in force", "revision", revision, "source", is.Source, "sequence", is.Sequence)
	if m.cfg.Changed != nil && before != "" && before != revision {
		m.cfg.Changed()
	}
	return nil
}

// undo puts the policy in force again that was before a swap.
func (m *Manager) undo(ctx context.Context, before string) error {
	last, ok := m.history.active()
	if before == "" || !ok {
		return nil // there was none, and nothing was granted yet by this one
	}
	files, _, err := m.history.read(last)
	if err != nil {
		return err
	}
	if _, err := m.cfg.Engine.Activate(ctx, policy.Bundle{Files: files, Source: last.Source, Images: m.images, Tools: m.cfg.Tools}); err != nil {
		return fmt.Errorf("go back to the policy before: %w", err)
	}
	return nil
}

// forgive forgets the last refusal, since another policy came into force after it.
func (m *Manager) forgive() {
	m.state.Lock()
	defer m.state.Unlock()
	m.refused = nil
}

// refuse records that a candidate does not come into force.
func (m *Manager) refuse(ctx context.Context, c Candidate, fault *execution.Error, err error) {
	refusal := &execution.PolicyRefusal{Source: c.Source, At: time.Now().UTC(), Code: fault.Code, Errors: problemsOf(err)}
	change := &execution.PolicyChange{Source: c.Source, Errors: refusal.Errors}
	if c.Files != nil {
		refusal.Digest = c.Files.Digest()
		change.Digest = refusal.Digest
	}
	if c.Signature != nil {
		change.Sequence = c.Signature.Sequence
	}
	m.state.Lock()
	m.refused = refusal
	m.counts.Refused++
	m.state.Unlock()
	m.cfg.Logger.ErrorContext(ctx, "a policy is refused; the one in force, if there is one, stays", "source", c.Source, "code", fault.Code, "error", err)
	if err := m.cfg.Record(context.WithoutCancel(ctx), execution.Record{
		Type: execution.RecordPolicyRefused, Principal: c.By, Policy: change,
	}); err != nil {
		m.cfg.Logger.ErrorContext(ctx, "the refusal of a policy is not recorded", "error", err)
	}
}
