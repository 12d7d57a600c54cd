package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/identity"
	"github.com/execgate/execgate/images"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/store"
	"github.com/execgate/execgate/vault"
	"golang.org/x/sync/errgroup"
)

// app is the whole program as a value: every part, wired and not yet running.
type app struct {
	cfg      Config
	logger   *slog.Logger
	state    *state
	store    *store.Store
	keys     *identity.APIKeys
	log      *audit.Log
	policy   *policy.Engine
	catalog  *catalog
	executor *executor.Executor
	service  *gateway.Service
	gateway  *gateway.Gateway
}

// newApp wires the parts. authenticator replaces API keys where it is not nil.
// The caller must call run, or close.
func newApp(ctx context.Context, cfg Config, logger *slog.Logger, authenticator gateway.Authenticator) (_ *app, err error) {
	a := &app{cfg: cfg, logger: logger}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.state, err = openState(cfg.State); err != nil {
		return nil, err
	}
	if a.log, err = audit.New(audit.Config{
		Dir: a.state.path("audit"), KeyDir: a.state.path("keys"), SegmentBytes: cfg.Audit.SegmentMiB << 20,
		Budget: milliseconds(cfg.Audit.BudgetMS), Logger: logger,
	}); err != nil {
		return nil, err
	}
	if a.store, err = store.Open(ctx, a.state.path("store.db")); err != nil {
		return nil, err
	}
	if a.keys, err = identity.New(a.store); err != nil {
		return nil, err
	}
	if a.policy, err = policy.New(policy.Config{
		Logger: logger, Deadline: milliseconds(cfg.Policy.DeadlineMS),
		Environment: cfg.Policy.Environment, InputCode: cfg.Policy.InputCode,
	}); err != nil {
		return nil, err
	}
	if a.executor, err = newExecutor(cfg, a.state.gateway, logger); err != nil {
		return nil, err
	}
	files, source, err := policyFiles(cfg.Policy.Folder)
	if err != nil {
		return nil, err
	}
	a.catalog = &catalog{executor: a.executor, policy: a.policy, log: a.log, files: files, source: source}
	if a.service, err = gateway.NewService(gateway.ServiceConfig{
		Images: a.catalog, Decider: a.policy, Lender: vault.Unconfigured{}, Executor: a.executor, Recorder: a.log,
		Logger: logger, MaxRunning: cfg.Requests.MaxRunning,
	}); err != nil {
		return nil, err
	}
	if authenticator == nil {
		authenticator = a.keys
	}
	a.gateway, err = gateway.New(gateway.Config{
		Service: a.service, Authenticator: authenticator, Keys: a.keys, Recorder: a.log, Logger: logger,
		Probers:      map[string]gateway.Prober{"audit": a.log, "policy": a.policy, "engine": a.executor, "store": a.store},
		MaxBodyBytes: cfg.Requests.MaxBodyKiB << 10, MaxCodeBytes: int(cfg.Requests.MaxCodeKiB << 10),
		DrainTimeout: milliseconds(cfg.Requests.DrainMS),
	})
	return a, err
}

func newExecutor(cfg Config, gatewayID string, logger *slog.Logger) (*executor.Executor, error) {
	list, err := loadImages(cfg.Executor.Images)
	if err != nil {
		return nil, err
	}
	agent := cfg.Executor.Agent
	if agent == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find execgate-agent: %w; name it by --agent", err)
		}
		agent = filepath.Join(filepath.Dir(self), "execgate-agent")
	}
	return executor.New(executor.Config{
		Gateway: gatewayID, Host: cfg.Executor.Engine, Agent: agent, Images: list, Logger: logger,
		UIDs:      executor.UIDRange{First: cfg.Executor.FirstUID, Count: cfg.Executor.UIDCount},
		StopGrace: milliseconds(cfg.Executor.StopGraceMS), StartTimeout: milliseconds(cfg.Executor.StartTimeoutMS),
	})
}

// loadImages reads the list of images at path, or the embedded one.
func loadImages(path string) ([]executor.Image, error) {
	list, err := images.Embedded()
	if path != "" {
		var text []byte
		if text, err = os.ReadFile(path); err == nil {
			list, err = images.Parse(text)
		}
	}
	if err != nil {
		return nil, usage("list of images: %w", err)
	}
	var out []executor.Image
	for _, image := range list {
		languages := map[string][]string{}
		for name, language := range image.Languages {
			languages[name] = language.Command
		}
		out = append(out, executor.Image{Name: image.Name, Reference: image.Reference, Languages: languages})
	}
	return out, nil
}

// run serves on listener until ctx ends, and returns when everything has been
// stopped in order: no new work, running work ended, sandboxes removed, the
// last record durable.
func (a *app) run(ctx context.Context, listener net.Listener) error {
	defer a.close()
	// What stops last runs under contexts of its own.
	logCtx, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	executorCtx, stopExecutor := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLog()
	defer stopExecutor()

	var parts errgroup.Group
	parts.Go(func() error { return a.log.Run(logCtx) })
	parts.Go(func() error {
		defer stopLog()
		return a.executor.Run(executorCtx)
	})
	parts.Go(func() error {
		defer stopExecutor()
		if err := a.prepare(ctx); err != nil {
			listener.Close()
			return err
		}
		return a.gateway.Serve(ctx, listener)
	})
	return parts.Wait()
}

// prepare does what must be done before the first request: it deals with what a
// crash left, puts the policy in force, and makes the first key.
func (a *app) prepare(ctx context.Context) error {
	if err := a.executor.Reap(ctx); err != nil {
		a.logger.Warn("the engine does not answer yet; abandoned sandboxes are removed when it does", "error", err)
	}
	var unended []gateway.Unended
	for _, open := range a.log.Unended() {
		u := gateway.Unended{Execution: open.Execution, DecidedSeq: open.DecidedSeq, RequestID: open.RequestID, TraceID: open.TraceID}
		if open.Principal != nil {
			u.Principal = *open.Principal
		}
		unended = append(unended, u)
	}
	if err := a.service.CloseUnended(ctx, unended); err != nil {
		return err
	}
	if err := a.catalog.refresh(ctx); err != nil {
		a.logger.Error("no policy is in force: every request is denied", "error", err)
	}
	path := a.state.path("admin.key")
	made, err := a.keys.Bootstrap(ctx, path, func(key execution.Key) error {
		_, err := a.log.Append(ctx, execution.Record{
			Type: execution.RecordKeyCreated,
			Key:  &execution.KeyChange{ID: key.ID, Tenant: key.Tenant, Roles: key.Roles},
		})
		return err
	})
	if err != nil {
		return err
	}
	if made {
		a.logger.Info("admin key made", "file", path)
	}
	return nil
}

// close releases what newApp opened. It may be called again.
func (a *app) close() error {
	var errs []error
	if a.log != nil {
		errs = append(errs, a.log.Close())
	}
	if a.store != nil {
		errs = append(errs, a.store.Close())
		a.store = nil
	}
	if a.state != nil {
		errs = append(errs, a.state.close())
		a.state = nil
	}
	return errors.Join(errs...)
}

func newLogger(cfg LogConfig, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, usage("log.level is %q: it is one of debug, info, warn, error", cfg.Level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch cfg.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usage("log.format is %q: it is one of text, json", cfg.Format)
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
