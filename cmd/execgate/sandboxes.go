package main

import (
	"log/slog"
	"time"

	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/executor"
)

// newExecutor makes the executor that cfg describes.
func newExecutor(cfg Config, gatewayID string, broker *egress.Broker, logger *slog.Logger) (*executor.Executor, error) {
	list, err := cfg.sandboxImages()
	if err != nil {
		return nil, err
	}
	agent, err := agentPath(cfg)
	if err != nil {
		return nil, err
	}
	return executor.New(executor.Config{
		Gateway: gatewayID, Host: cfg.Executor.Engine, Agent: agent, Images: list, Logger: logger,
		UIDs:      executor.UIDRange{First: cfg.Executor.FirstUID, Count: cfg.Executor.UIDCount},
		StopGrace: milliseconds(cfg.Executor.StopGraceMS), StartTimeout: milliseconds(cfg.Executor.StartTimeoutMS),
		Warm: cfg.Executor.warm(list), Reserved: cfg.Requests.Reserved, Egress: broker, HideNames: cfg.Egress.UngrantedNames == namesHidden,
	})
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
