package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/audit/witness"
	"github.com/execgate/execgate/gateway"
)

// auditConfig is how the log in a state folder is opened. It removes nothing: what may
// go is for a gateway with its exporters to know.
func auditConfig(cfg Config, state *state, logger *slog.Logger) (audit.Config, error) {
	witnesses, err := newWitnesses(cfg.Audit, state.dir)
	return audit.Config{
		Dir: state.path("audit"), KeyDir: state.path("keys"), SegmentBytes: cfg.Audit.SegmentMiB << 20,
		Budget: milliseconds(cfg.Audit.BudgetMS), Logger: logger, Witnesses: witnesses,
	}, err
}

// newWitnesses makes the witnesses that are configured.
func newWitnesses(cfg AuditConfig, stateDir string) (witnesses []audit.Witness, err error) {
	if cfg.WitnessFile != "" {
		file, err := witness.NewFile(cfg.WitnessFile)
		if err != nil {
			return nil, usage("audit.witness_file: %w", err)
		}
		if within(cfg.WitnessFile, stateDir) {
			return nil, usage("audit.witness_file %s lies in the state folder: what is rolled back with it witnesses nothing, name a file elsewhere", cfg.WitnessFile)
		}
		witnesses = append(witnesses, file)
	}
	if cfg.WitnessURL == "" {
		if cfg.WitnessTokenFile != "" || cfg.WitnessCAFile != "" {
			return nil, usage("audit.witness_token_file and audit.witness_ca_file are for audit.witness_url, which is empty")
		}
		return witnesses, nil
	}
	server, err := witness.NewHTTP(witness.HTTPConfig{URL: cfg.WitnessURL, TokenFile: cfg.WitnessTokenFile, CAFile: cfg.WitnessCAFile})
	if err != nil {
		return nil, usage("audit.witness_url: %w", err)
	}
	return append(witnesses, server), nil
}

// auditProber says how the log does. A witness that has not the newest checkpoints, and
// old segments that cannot be removed, are worth a warning, and no reason to take no work.
type auditProber struct{ log *audit.Log }

// Ready implements gateway.Prober.
func (p auditProber) Ready(ctx context.Context) error {
	if err := p.log.Ready(ctx); err != nil {
		return err
	}
	var behind []string
	for _, w := range p.log.Witnesses() {
		if w.Err != nil {
			behind = append(behind, w.Name)
		}
	}
	if p.log.Retaining() != nil {
		return gateway.Warning("the audit log cannot remove old segments, and is full some time: the gateway's log says why")
	}
	if len(behind) > 0 {
		return gateway.Warning(fmt.Sprintf("the audit log's witness does not keep the latest checkpoints: %s; the gateway's log says why", strings.Join(behind, ", ")))
	}
	return nil
}
