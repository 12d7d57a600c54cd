package executor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"github.com/execgate/execgate/execution"
)

// prepareTimeout bounds everything that is learned of an engine before the
// first sandbox.
const prepareTimeout = 20 * time.Second

// probeTimeout bounds the question whether the engine answers.
const probeTimeout = 2 * time.Second

// retryAfter is what a caller is told while the engine is away.
const retryAfter = 2 * time.Second

// engine is a container engine that has been found fit: what was learned of it
// holds until it is lost.
type engine struct {
	cli    *client.Client
	facts  engineFacts
	images map[string]imageState // by name
}

// engines finds the engine when it is first needed and again after it was lost.
type engines struct {
	cfg Config
	cli *client.Client

	mu    sync.Mutex // held while preparing, so that it is done once
	ready *engine
}

func newEngines(cfg Config) (*engines, error) {
	opts := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if cfg.Host != "" {
		opts = append(opts, client.WithHost(cfg.Host))
	}
	cli, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, fmt.Errorf("executor: address of the engine: %w", err)
	}
	return &engines{cfg: cfg, cli: cli}, nil
}

// get returns the engine, preparing it where that was not done yet.
func (s *engines) get(ctx context.Context) (*engine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready != nil {
		return s.ready, nil
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	e, err := s.prepare(ctx)
	if err != nil {
		return nil, unavailable(err)
	}
	s.ready = e
	return e, nil
}

// forget makes the next call of get look at the engine again.
func (s *engines) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = nil
}

func (s *engines) prepare(ctx context.Context) (*engine, error) {
	if err := s.ping(ctx); err != nil {
		return nil, err
	}
	info, err := s.cli.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the engine about itself: %w", err)
	}
	if err := fit(info); err != nil {
		return nil, err
	}
	profile, err := seccompProfile(info.Architecture)
	if err != nil {
		return nil, err
	}
	images, err := resolveImages(ctx, s.cli, s.cfg.Images)
	if err != nil {
		return nil, err
	}
	volume, err := provideAgent(ctx, s.cli, s.cfg.Agent, info.Architecture, images)
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("engine is ready", "version", info.ServerVersion, "api", s.cli.ClientVersion(), "cgroup", info.CgroupVersion, "images", len(images))
	return &engine{cli: s.cli, facts: engineFacts{AgentVolume: volume, Seccomp: profile}, images: images}, nil
}

// ping asks whether the engine answers at all.
func (s *engines) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if _, err := s.cli.Ping(ctx); err != nil {
		return fmt.Errorf("reach the engine at %s: %w", s.cli.DaemonHost(), err)
	}
	s.cli.NegotiateAPIVersion(ctx)
	return nil
}

// fit refuses an engine on which a sandbox could not be what it must be. What
// only shows in a running sandbox is compared there (verify.go).
func fit(info system.Info) error {
	if info.OSType != "linux" {
		return fmt.Errorf("the engine runs %s containers; sandboxes need linux", info.OSType)
	}
	for _, option := range info.SecurityOptions {
		if strings.Contains(option, "name=seccomp") {
			return nil
		}
	}
	return fmt.Errorf("the engine has no seccomp, without which a sandbox is not one")
}

// unavailable is the error of an engine that cannot serve now.
func unavailable(err error) error {
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: execution.CodeEngineUnavailable, RetryAfter: retryAfter,
		Detail: "The container engine cannot run anything at the moment. Nothing was run; try again later.",
		Err:    err,
	}
}
