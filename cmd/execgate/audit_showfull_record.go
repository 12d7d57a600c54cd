package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
)

// recordShown has it recorded that full is shown: by the gateway that is at work in the
// state folder, or where none is, here.
func recordShown(ctx context.Context, cfg Config, full *fullExecution, logger *slog.Logger) (err error) {
	if _, err := audit.IDOf(filepath.Join(cfg.State, "audit")); err != nil {
		return fmt.Errorf("there is no log that could have the record: %w", err)
	}
	held, err := openState(cfg.State)
	if errors.Is(err, errStateInUse) {
		return recordShownAtGateway(ctx, cfg.State, full)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.close()) }()
	principal, err := operator{}.Authenticate(ctx, execution.Secret{})
	if err != nil {
		return err
	}
	return withLogAtRest(ctx, cfg, held, logger, func(log *audit.Log) error {
		_, err := log.Append(ctx, execution.Record{
			Type: execution.RecordAuditRead, Principal: &principal,
			AuditRead: &execution.AuditRead{
				What: execution.ReadFull, Filter: map[string]string{"execution": full.Execution}, Count: full.count(), Effect: execution.EffectAllow,
			},
		})
		return err
	})
}

// recordShownAtGateway asks the gateway at EXECGATE_URL, and believes it where the record
// is in the log of this folder: another gateway has another one.
func recordShownAtGateway(ctx context.Context, state string, full *fullExecution) error {
	c, err := newClient()
	if err != nil {
		return fmt.Errorf("a gateway is at work in %s, and has to be asked: %w", state, err)
	}
	got, err := c.call(ctx, http.MethodPost, "/v1/records/reads", map[string]any{"execution": full.Execution, "count": full.count()})
	if err == nil {
		err = got.err()
	}
	if err != nil {
		return err
	}
	var noted struct {
		Record    uint64 `json:"record"`
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(got.body, &noted); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	found, _, err := audit.NewFetcher(filepath.Join(state, "audit")).Fetch(ctx, []uint64{noted.Record}, 1)
	if err != nil {
		return err
	}
	for _, r := range found {
		if r.Type == execution.RecordAuditRead && r.RequestID == noted.RequestID && r.AuditRead.What == execution.ReadFull &&
			r.AuditRead.Filter["execution"] == full.Execution {
			return nil
		}
	}
	return usage("the gateway at %s is not the one that is at work in %s: the record is not in that log", envURL, state)
}

// count is how many parts there are.
func (f *fullExecution) count() int {
	n := len(f.Decisions)
	for _, m := range []*fullMaterial{f.Request, f.Output} {
		if m != nil {
			n++
		}
	}
	return n
}
