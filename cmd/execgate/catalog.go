package main

import (
	"context"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

// activateTimeout bounds putting a policy in force. It is not the time of the
// request that caused it: everybody's next request depends on it.
const activateTimeout = 30 * time.Second

// catalog keeps the policy's view of images equal to the engine's: policy
// grants names, the engine knows what each stands for now, and a decision must
// name the digest.
type catalog struct {
	executor *executor.Executor
	policies *organisation
	policy   *policy.Witness
	logger   *slog.Logger

	mu sync.Mutex // also held while a policy is activated
	// tried are the digests by name that activation was last tried with, nil
	// before; refused is what came of it.
	tried   map[string]string
	refused error
}

// Resolve implements gateway.Images. Where the engine has another image under
// the name by now, the policy is activated again with it first.
func (c *catalog) Resolve(ctx context.Context, language, name string) (execution.Image, error) {
	image, err := c.executor.Resolve(ctx, language, name)
	if err != nil || c.knows(image) {
		return image, err
	}
	digests, err := c.executor.Digests(ctx)
	if err != nil {
		return image, err
	}
	// A policy that cannot be activated leaves the last one in force, which
	// then denies this image.
	if err := c.activate(ctx, digests); err != nil {
		c.logger.ErrorContext(ctx, "the policy could not be activated with the engine's present images", "error", err)
	}
	return image, nil
}

// knows reports whether activating again could change nothing.
func (c *catalog) knows(image execution.Image) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tried != nil && c.tried[image.Name] == image.Digest
}

// load activates the policy for the first time. An engine that does not answer
// has no images: its requests are refused before policy is asked.
func (c *catalog) load(ctx context.Context) error {
	digests, err := c.executor.Digests(ctx)
	if err != nil {
		digests = map[string]string{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tried, c.refused = digests, c.policies.start(ctx, digests)
	return c.refused
}

// activate puts the policy in force with these digests: the very files that are, and
// not what is in a folder by now. What was refused is refused again without being
// tried: requests cause this, and must not make the gateway compile, or fill the
// log, once each.
func (c *catalog) activate(ctx context.Context, digests map[string]string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tried != nil && maps.Equal(c.tried, digests) {
		return c.refused
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), activateTimeout)
	defer cancel()
	err := c.policies.Renew(ctx, digests)
	if execution.KindOf(err) == execution.KindUnavailable && err != nil {
		return err // tried again, until it is in the log
	}
	c.tried, c.refused = digests, err
	return err
}

// Ready implements gateway.Prober. What is wrong with a policy is not for
// everybody, so the answer says where it stands.
func (c *catalog) Ready(ctx context.Context) error {
	if c.policy.Revision() == "" {
		return &execution.Error{
			Kind: execution.KindUnavailable, Code: execution.CodePolicyNotLoaded,
			Detail: "no policy is in force, so every request is denied: the configured one was refused; the gateway's log and its policy_refused record say why",
		}
	}
	return c.policy.Ready(ctx)
}

// policyFiles opens the policy in folder, or the embedded one.
func policyFiles(folder string) (files fs.FS, source string, err error) {
	if folder == "" {
		return policies.Files, "embedded", nil
	}
	root, err := os.OpenRoot(folder) // holds also against links put there later
	if err != nil {
		return nil, "", usage("policy folder: %w", err)
	}
	return root.FS(), folder, nil
}
