package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/activation"
)

// organisation is the organisation's policy: where the configured one is, and what
// puts one in force. It implements gateway.Policies.
type organisation struct {
	*activation.Manager
	folder string             // empty: none is configured
	server *activation.Server // nil: none is configured
	logger *slog.Logger
	tried  activation.Candidate // what was tried at the start
}

// firstFetchTimeout bounds how long a start waits for a bundle server.
const firstFetchTimeout = 20 * time.Second

// watchAgain is when a folder that cannot be watched is tried again.
const watchAgain = 10 * time.Second

func newOrganisation(cfg PolicyConfig, dir string, engine activation.Engine, workers activation.Workers, log *audit.Log, tools map[string]execution.ToolFacts, renewed func(), logger *slog.Logger) (*organisation, error) {
	o := &organisation{folder: cfg.Folder, logger: logger}
	if cfg.Folder != "" {
		if info, err := os.Stat(cfg.Folder); err != nil {
			return nil, usage("policy folder: %w", err)
		} else if !info.IsDir() {
			return nil, usage("policy folder: %s is not a folder", cfg.Folder)
		}
	}
	var keys policy.Keys
	if cfg.Keys != "" {
		text, err := os.ReadFile(cfg.Keys)
		if err != nil {
			return nil, usage("policy.keys: %w", err)
		}
		if keys, err = policy.ParsePublicKeys(text); err != nil {
			return nil, usage("policy.keys: %s: %w", cfg.Keys, err)
		}
	}
	shipped, err := policy.ReadFiles(policies.Files)
	if err != nil {
		return nil, err
	}
	if cfg.URL != "" {
		if o.server, err = activation.NewServer(activation.ServerConfig{
			URL: cfg.URL, TokenFile: cfg.TokenFile, Interval: milliseconds(cfg.PollMS), Logger: logger,
			Unreadable: func(ctx context.Context, err error) { o.Unreadable(ctx, cfg.URL, err) },
		}); err != nil {
			return nil, usage("policy.url: %w", err)
		}
	}
	o.Manager, err = activation.New(activation.Config{
		Engine: engine, Workers: workers, Keys: keys, RequireTests: cfg.RequireTests, Obligations: obligations(cfg), Shipped: shipped.Digest(), Dir: dir, Tools: tools,
		Record:  appendTo(log),
		Changed: renewed, Logger: logger,
	})
	return o, err
}

// start puts the first policy in force.
func (o *organisation) start(ctx context.Context, images map[string]string) error {
	configured, err := o.configured(ctx)
	err = o.Start(ctx, images, configured, err)
	// A machine that starts is busy: what was too slow then is tried once more.
	fault, _ := errors.AsType[*execution.Error](err)
	if err == nil || execution.KindOf(err) != execution.KindUnavailable && (fault == nil || fault.Code != activation.CodeTooSlow) {
		o.tried = configured
	} else if o.server != nil {
		o.server.Again()
	}
	return err
}

// configured is the policy that the configuration names.
func (o *organisation) configured(ctx context.Context) (activation.Candidate, error) {
	switch {
	case o.server != nil:
		ctx, cancel := context.WithTimeout(ctx, firstFetchTimeout)
		defer cancel()
		return o.server.First(ctx)
	case o.folder != "":
		return activation.ReadFolder(o.folder)
	}
	files, err := policy.ReadFiles(policies.Files)
	return activation.Candidate{Files: files, Source: activation.Embedded}, err
}

// follow puts in force what is configured, whenever that changes, until ctx ends.
func (o *organisation) follow(ctx context.Context) {
	switch {
	case o.server != nil:
		o.server.Run(ctx, o.Submit)
	case o.folder != "":
		watch(ctx, o.folder, o.logger, activation.NewFollower(o.Manager, o.folder, o.tried).Look)
	}
}

// watch has a folder looked at, whenever it changes, until ctx ends. Where it cannot
// be watched for a time, what is in force stays.
func watch(ctx context.Context, folder string, logger *slog.Logger, look func(context.Context) bool) {
	for ctx.Err() == nil {
		err := activation.Watch(ctx, folder, logger, look)
		if err == nil {
			return
		}
		logger.WarnContext(ctx, "policies cannot be watched; it is tried again", "folder", folder, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
		}
	}
}

// State implements gateway.Policies.
func (o *organisation) State(context.Context) execution.PolicyState { return o.Manager.State() }

// callers is the source of bundles that callers send.
const callers = "api"

// Put implements gateway.Policies.
func (o *organisation) Put(ctx context.Context, archive []byte, by execution.Principal) error {
	return o.SubmitArchive(ctx, archive, callers, &by)
}

// Rollback implements gateway.Policies.
func (o *organisation) Rollback(ctx context.Context, by execution.Principal) error {
	return o.Manager.Rollback(ctx, &by)
}
