package main

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"sync"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

// catalog keeps the policy's view of images equal to the engine's: policy
// grants names, the engine knows what each stands for now, and a decision must
// name the digest.
type catalog struct {
	executor *executor.Executor
	policy   *policy.Engine
	log      *audit.Log
	files    fs.FS
	source   string

	mu     sync.Mutex
	active map[string]string // digests by name, in the policy in force; nil where there is none
}

// Resolve implements gateway.Images. Where the engine has another image under
// the name by now, the policy is activated again with it first.
func (c *catalog) Resolve(ctx context.Context, language, name string) (execution.Image, error) {
	image, err := c.executor.Resolve(ctx, language, name)
	if err != nil {
		return image, err
	}
	if !c.knows(image) {
		// A policy that cannot be activated leaves the last one in force, which
		// then denies this image.
		c.refresh(ctx)
	}
	return image, nil
}

func (c *catalog) knows(image execution.Image) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active != nil && c.active[image.Name] == image.Digest
}

// refresh activates the policy with the engine's present images. An engine that
// does not answer has none: its requests are refused before policy is asked.
func (c *catalog) refresh(ctx context.Context) error {
	digests, err := c.executor.Digests(ctx)
	if err != nil {
		digests = map[string]string{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active != nil && maps.Equal(c.active, digests) {
		return nil
	}
	revision, err := c.policy.Activate(ctx, policy.Bundle{Files: c.files, Source: c.source, Images: digests})
	if err == nil {
		c.active = digests
	}
	return errors.Join(err, c.record(ctx, revision, err))
}

func (c *catalog) record(ctx context.Context, revision string, refused error) error {
	rec := execution.Record{
		Type:   execution.RecordPolicyActivated,
		Policy: &execution.PolicyChange{Revision: revision, Source: c.source},
	}
	if refused != nil {
		rec.Type = execution.RecordPolicyRefused
		rec.Policy.Errors = []string{refused.Error()}
		if broken, ok := errors.AsType[*policy.BundleError](refused); ok {
			rec.Policy.Errors = broken.Problems
		}
	}
	_, err := c.log.Append(ctx, rec)
	return err
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
