package executor

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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

// imagesAge is how often it is looked what the images' names stand for, and
// imagesMaxAge how old that may be where somebody waits for it.
const (
	imagesAge    = 2 * time.Second
	imagesMaxAge = 5 * imagesAge
)

// agentAge is how soon the agent's volume is looked at again, where sandboxes
// do not start.
const agentAge = 10 * time.Second

// engine is a container engine that has been found fit: what was learned of it
// holds until it is lost.
type engine struct {
	cli    *client.Client
	facts  engineFacts
	images *images
	since  time.Time
	// cgroupDriver is cgroupfs, systemd or none.
	cgroupDriver string
	// starts and removals are the turns of those who have none reserved.
	starts, removals *turns
}

// engines finds the engine when it is first needed and again after it was lost.
type engines struct {
	cfg Config
	cli *client.Client
	// helper is the execution on the labels of containers that this life makes
	// to reach the agent's volume: they are no execution's, and not abandoned
	// before their deadline; those of an earlier life are.
	helper string

	mu      sync.Mutex
	ready   *engine
	attempt *attempt // under way, or nil
}

// attempt is one preparation, which everyone who needs the engine waits for: a
// hung engine costs its callers one timeout, and not one after another.
type attempt struct {
	done   chan struct{}
	engine *engine
	err    error
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
	return &engines{cfg: cfg, cli: cli, helper: execution.NewID("helper_", time.Now())}, nil
}

// get returns the engine, preparing it where that was not done yet. Its errors
// are of KindUnavailable, or ctx's.
func (s *engines) get(ctx context.Context) (*engine, error) {
	s.mu.Lock()
	if s.ready != nil {
		defer s.mu.Unlock()
		return s.ready, nil
	}
	a := s.attempt
	if a == nil {
		a = &attempt{done: make(chan struct{})}
		s.attempt = a
		// It is not the first caller's alone, so it does not end with its context.
		go s.try(context.WithoutCancel(ctx), a)
	}
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.engine, a.err
	case <-ctx.Done():
		return nil, unavailable(ctx.Err())
	}
}

func (s *engines) try(ctx context.Context, a *attempt) {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	e, err := s.prepare(ctx)
	if err != nil {
		a.err = unavailable(err)
	}
	a.engine = e
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready, s.attempt = e, nil
	close(a.done)
}

// known returns the engine if it has been found fit, and nil otherwise.
func (s *engines) known() *engine {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// forget makes the next call of get look at the engine again.
func (s *engines) forget(e *engine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready == e {
		s.ready = nil
	}
}

// doubt is called with the error of one sandbox. The engine is forgotten where
// it does not answer, and where it does not start sandboxes: its volume with the
// agent may be gone.
func (s *engines) doubt(ctx context.Context, e *engine, err error) {
	if errors.Is(err, errNotStarted) && time.Since(e.since) > agentAge || s.ping(ctx) != nil {
		s.forget(e)
	}
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
	found, err := resolveImages(ctx, s.cli, s.cfg.Images)
	if err != nil {
		return nil, err
	}
	volume, err := provideAgent(ctx, s.cli, s.cfg.Agent, info.Architecture, found, s.helperLabels())
	if err != nil {
		return nil, err
	}
	s.cfg.Logger.Info("engine is ready", "version", info.ServerVersion, "api", s.cli.ClientVersion(), "cgroup", info.CgroupVersion, "images", len(found))
	return &engine{
		cli: s.cli, since: time.Now(), facts: engineFacts{AgentVolume: volume, Seccomp: profile},
		images: newImages(s.cli, s.cfg.Images, found), cgroupDriver: info.CgroupDriver,
		starts: newTurns(info.NCPU), removals: newTurns(info.NCPU),
	}, nil
}

func (s *engines) helperLabels() map[string]string {
	return map[string]string{
		labelGateway: s.cfg.Gateway, labelExecution: s.helper,
		labelDeadline: strconv.FormatInt(time.Now().Add(2*prepareTimeout).UnixMilli(), 10),
	}
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

// lost is the error of an engine that went away while a program ran.
func lost(err error) error {
	return &execution.Error{
		Kind: execution.KindUnavailable, Code: execution.CodeEngineUnavailable, RetryAfter: retryAfter,
		Detail: "The container engine went away while the program ran. What the program did until then is not known.",
		Err:    err,
	}
}
