package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/execgate/execgate/audit"
	"golang.org/x/sync/errgroup"
)

// withLogAtRest runs the log of a gateway that is stopped while use appends to it. Its
// witnesses are asked and told as by the gateway, so that nothing is added to a log that
// was rolled back, and what is added cannot be rolled back unseen.
func withLogAtRest(ctx context.Context, cfg Config, held *state, logger *slog.Logger, use func(*audit.Log) error) (err error) {
	if err := checkWitnesses(cfg, held); err != nil {
		return err
	}
	config, err := auditConfig(cfg, held, logger)
	if err != nil {
		return err
	}
	log, err := audit.New(config)
	if err != nil {
		return err
	}
	logging, stop := context.WithCancel(context.WithoutCancel(ctx))
	var parts errgroup.Group
	parts.Go(func() error { return log.Run(logging) })
	defer func() {
		stop()
		err = errors.Join(err, parts.Wait())
	}()
	return use(log)
}

// checkWitnesses refuses to open the log of a gateway that had a witness at its last
// start, and would have another one now, or none. Which ones it had nothing tells, but
// whether they are the same.
func checkWitnesses(cfg Config, held *state) error {
	last, err := lastConfig(held.path(configFile))
	if err != nil {
		return err
	}
	now, none := digestSettings(cfg, last.Key), digestUnder(last.Key, "")
	for _, name := range []string{"audit.witness_file", "audit.witness_url"} {
		if was, ok := last.Settings[name]; ok && was != none && was != now[name] {
			return usage("the gateway of %s was last started with another %s, which is to be told of what is recorded now: name its configuration by --config, or set %s", held.dir, name, setting{key: name}.variable())
		}
	}
	return nil
}
