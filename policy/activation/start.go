package activation

import (
	"context"
	"errors"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// Start puts the first policy in force, with the digests that images' names stand
// for: the configured one, unless a later one came in force before the gateway
// was stopped, and the configured one has not changed since. Where the configured
// one is refused, the last good one serves; it is an error where there is none, and
// nothing is in force. unread is why the configured one
// could not be read at all.
func (m *Manager) Start(ctx context.Context, images map[string]string, configured Candidate, unread error) error {
	m.trying.Lock()
	defer m.trying.Unlock()
	m.mu.Lock()
	m.images = images
	wanted := unread == nil && m.wants(configured)
	m.mu.Unlock()
	err := unread
	if unread != nil {
		m.refuse(ctx, configured, &execution.Error{Kind: execution.KindInvalid, Code: CodeUnreadable, Detail: "the policy cannot be read", Err: unread}, unread)
	} else if wanted {
		if err = m.submit(ctx, configured); err == nil {
			return nil
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	last, kept := m.history.active()
	if !kept {
		if err == nil {
			err = errors.New("no policy is kept")
		}
		return err
	}
	files, signature, readErr := m.history.read(last)
	if readErr == nil {
		readErr = m.trusted(last, files, signature)
	}
	if readErr != nil {
		m.refuse(ctx, Candidate{Files: files, Source: last.Source}, faultOf(readErr), readErr)
		return errors.Join(err, readErr)
	}
	if swapErr := m.swap(ctx, files, last, nil); swapErr != nil {
		return errors.Join(err, swapErr)
	}
	return nil
}

// wants reports whether what is configured is to be tried at a start. What somebody
// put in force, or went back to, stays until there is something new where the
// policy is configured; the one that the program brings is never that.
func (m *Manager) wants(configured Candidate) bool {
	last, kept := m.history.active()
	digest := configured.Files.Digest()
	switch {
	case !kept:
		return true
	case last.By != "":
		return digest != m.cfg.Shipped && m.history.Seen[configured.Source] != digest
	}
	return last.Source != configured.Source || last.Digest != digest
}

// ofProgram reports whether a bundle is the one that is part of the program, and was
// read there.
func (m *Manager) ofProgram(source, digest string) bool {
	return source == Embedded && digest == m.cfg.Shipped
}

// trusted holds a bundle that was kept against the keys there are now: they may be
// others than when it came.
func (m *Manager) trusted(is execution.PolicyActivation, files policy.Files, signature *policy.Signature) error {
	if len(m.cfg.Keys) == 0 || m.ofProgram(is.Source, is.Digest) {
		return nil
	}
	if signature == nil {
		return fault(CodeUnsigned, errors.New("the policy that was kept has no signature, and one is asked for now"))
	}
	if err := m.cfg.Keys.Verify(files, signature); err != nil {
		return fault(CodeUnsigned, err)
	}
	return nil
}
