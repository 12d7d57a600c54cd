package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/egress"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/export"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/identity"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/store"
)

// app is the whole program as a value: every part, wired and not yet running.
type app struct {
	cfg       Config
	logger    *slog.Logger
	state     *state
	store     *store.Store
	keys      *identity.APIKeys
	log       *audit.Log
	records   *records
	policy    *policy.Witness
	inputs    *inputs        // nil: none are kept
	workers   *policy.Remote // evaluate what others than the organisation wrote
	narrowing *narrowing
	policies  *organisation
	catalog   *catalog
	executor  *executor.Executor
	broker    *egress.Broker
	lender    *lender
	// exporters deliver what log has.
	exporters *export.Exporters
	idle      bool // neither they nor the index of records run
	service   *gateway.Service
	gateway   *gateway.Gateway
}

// appOptions are what is no setting of a gateway.
type appOptions struct {
	authenticator gateway.Authenticator // in the place of API keys; nil: those
	// devCredentials is the path of a file with credentials, in the place of a Vault;
	// empty: there is none.
	devCredentials string
	// secrets keeps values out of the log; nil: there is none to keep them out of.
	secrets *liveSecrets
	// idle leaves what is recorded for a later gateway to export and to index.
	idle bool
}

// newApp wires the parts. The caller must call run, or close.
func newApp(ctx context.Context, cfg Config, logger *slog.Logger, options appOptions) (_ *app, err error) {
	a := &app{cfg: cfg, logger: logger, idle: options.idle}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	tools, err := cfg.tools()
	if err != nil {
		return nil, err
	}
	if a.state, err = openState(cfg.State); err != nil {
		return nil, err
	}
	logConfig, err := auditConfig(cfg, a.state, logger)
	if err != nil {
		return nil, err
	}
	logConfig.RetainAge, logConfig.MaxBytes = milliseconds(cfg.Audit.RetainDays*24*60*60*1000), cfg.Audit.MaxMiB<<20
	logConfig.DropExported, logConfig.Exported = cfg.Audit.WhenFull == "drop_exported", func() uint64 { return a.exporters.Acknowledged() }
	if !a.idle { // an index that does not run would hold the log for ever
		logConfig.Indexed = func() uint64 { return a.records.synced() }
	}
	logConfig.Heartbeat = milliseconds(cfg.Audit.HeartbeatS * 1000)
	if a.log, err = audit.New(logConfig); err != nil {
		return nil, err
	}
	if a.exporters, err = newExporters(cfg, a.state, a.log, logger); err != nil {
		return nil, err
	}
	if a.store, err = store.Open(ctx, a.state.path("store.db")); err != nil {
		return nil, err
	}
	if a.records, err = openRecords(ctx, a.state, a.log, logger); err != nil {
		return nil, err
	}
	if a.keys, err = identity.New(a.store); err != nil {
		return nil, err
	}
	if a.workers, err = newPolicyWorkers(cfg.Policy); err != nil {
		return nil, err
	}
	engine, err := policy.New(policy.Config{
		Logger: logger, Deadline: milliseconds(cfg.Policy.DeadlineMS),
		Environment: cfg.Policy.Environment, InputCode: cfg.Policy.InputCode, Obligations: obligations(cfg.Policy), Workers: a.workers,
	})
	if err != nil {
		return nil, err
	}
	a.policy = policy.NewWitness(engine)
	if a.lender, err = newLender(cfg.Vault, options.devCredentials, a.store, a.log, logger); err != nil {
		return nil, err
	}
	inside := &insideTools{}
	if a.broker, err = newBroker(cfg.Egress, a.log, logConfig.Budget, engine, a.lender, inside, logger); err != nil {
		return nil, err
	}
	if a.executor, err = newExecutor(cfg, a.state.gateway, a.broker, logger); err != nil {
		return nil, err
	}
	if a.policies, err = newOrganisation(cfg.Policy, a.state.path("policy"), a.policy, a.workers, a.log, tools.Facts(), a.executor.Renew, logger); err != nil {
		return nil, err
	}
	if a.narrowing, err = newNarrowing(cfg.Policy, a.policy, a.workers, a.log, logger); err != nil {
		return nil, err
	}
	a.catalog = &catalog{executor: a.executor, policies: a.policies, policy: a.policy, logger: logger}
	executions, err := store.NewExecutions(a.store, cfg.Requests.ResultsMiB<<20)
	if err != nil {
		return nil, err
	}
	sessions, err := store.NewSessions(a.store)
	if err != nil {
		return nil, err
	}
	approvals, err := newApprovals(cfg.Approvals, a.store, a.state)
	if err != nil {
		return nil, err
	}
	webhooks, err := newWebhooks(cfg.Webhooks, logger)
	if err != nil {
		return nil, err
	}
	if a.inputs, err = openInputs(ctx, cfg.Policy, a.state, a.log, logger); err != nil {
		return nil, err
	}
	config := gateway.ServiceConfig{
		Images: a.catalog, Decider: engine, Lender: a.lender, Executor: carrying{a.executor, a.broker}, Recorder: a.log,
		Executions: kept{executions}, Sandboxes: a.executor, Sessions: keptSessions{sessions}, Logger: logger,
		Approvals: approvals, Requesters: a.keys, Webhooks: webhooks, PendingWebhook: cfg.Approvals.Webhook, Tools: tools,
		MaxRunning: cfg.Requests.MaxRunning, MaxQueued: cfg.Requests.MaxQueued, Reserved: cfg.Requests.Reserved,
		KeepResults: milliseconds(cfg.Requests.KeepResultsMS), MaxSessions: cfg.Sessions.Max,
		RecordBudget: logConfig.Budget,
	}
	if options.secrets != nil {
		config.Secrets = options.secrets
	}
	if a.inputs != nil {
		config.Decider, config.Inputs = a.policy, a.inputs
		if a.inputs.kept != nil {
			config.Materials = a.inputs
		}
	}
	if a.service, err = gateway.NewService(config); err != nil {
		return nil, err
	}
	inside.Service = a.service
	authenticator := options.authenticator
	if authenticator == nil {
		authenticator = a.keys
	}
	metrics, err := metricsHandler(parts{a.executor, a.service, a.log, a.policy, a.inputs, policyChanges{a.policies, a.narrowing}, a.broker, a.lender, a.exporters, a.records}, logger)
	if err != nil {
		return nil, err
	}
	probers := map[string]gateway.Prober{
		"audit": auditProber{a.log}, "policy": a.catalog, "engine": a.executor, "store": a.store, "replay": a.inputs, "egress": a.broker,
	}
	if len(cfg.Exporters) > 0 {
		probers["export"] = delivering{a.exporters}
	}
	if a.lender.vault != nil {
		probers["vault"] = a.lender.vault
	}
	a.gateway, err = gateway.New(gateway.Config{
		Service: a.service, Authenticator: authenticator, Keys: a.keys, Policies: a.policies, Eraser: newEraser(a.inputs, executions, a.state), Recorder: a.log, Records: a.records, Logger: logger, Metrics: metrics,
		Probers:      probers,
		MaxBodyBytes: cfg.Requests.MaxBodyKiB << 10, MaxCodeBytes: int(cfg.Requests.MaxCodeKiB << 10),
		DrainTimeout: milliseconds(cfg.Requests.DrainMS),
	})
	return a, err
}

// close releases what newApp opened. It may be called again.
func (a *app) close() error {
	var errs []error
	if a.workers != nil {
		a.workers.Close()
	}
	if a.inputs != nil {
		errs = append(errs, a.inputs.close())
		a.inputs = nil
	}
	if a.records != nil {
		errs = append(errs, a.records.index.Close())
		a.records = nil
	}
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

// appendTo makes records durable in log, for those who have no use for their numbers.
func appendTo(log *audit.Log) func(context.Context, execution.Record) error {
	return func(ctx context.Context, r execution.Record) error {
		_, err := log.Append(ctx, r)
		return err
	}
}
