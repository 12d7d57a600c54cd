package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/replay"
	"github.com/execgate/execgate/store"
)

// sampledAmong is how many of the newest decisions the self-test picks from.
const sampledAmong = 10_000

// inputs keeps what policy was asked while the gateway runs, and has some of it
// asked again. It implements gateway.Inputs.
type inputs struct {
	log     *audit.Log
	db      *store.Store   // nil: nothing is kept
	kept    *store.Inputs  // nil: nothing is kept
	workers *policy.Remote // of its own: no request waits for what is asked here
	shadow  *replay.Shadow // nil: there is no candidate
	test    *replay.SelfTest
}

// openInputs returns nil where nothing is to be kept and there is no candidate.
func openInputs(ctx context.Context, cfg PolicyConfig, state *state, log *audit.Log, logger *slog.Logger) (_ *inputs, err error) {
	if cfg.Inputs.RetainDays == 0 && cfg.Shadow == "" {
		return nil, nil
	}
	i := &inputs{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.close())
		}
	}()
	replaying := cfg
	replaying.DeadlineMS = max(cfg.DeadlineMS, replayDeadlineMS)
	if i.workers, err = newPolicyWorkers(replaying); err != nil {
		return nil, err
	}
	if cfg.Inputs.RetainDays > 0 {
		if err := i.openKept(ctx, cfg, state, logger); err != nil {
			return nil, err
		}
	}
	if cfg.Shadow != "" {
		i.shadow, err = replay.NewShadow(replay.ShadowConfig{
			Candidate: func() (policy.Bundle, error) { return candidateIn(cfg.Shadow) },
			Workers:   i.workers, Deadline: milliseconds(replaying.DeadlineMS), Flip: i.flip, Logger: logger,
		})
	}
	return i, err
}

// replayDeadlineMS is the least time for an evaluation that nobody waits for: a
// busy machine must not turn an answer into another.
const replayDeadlineMS = 1000

func (i *inputs) openKept(ctx context.Context, cfg PolicyConfig, state *state, logger *slog.Logger) (err error) {
	if i.db, err = store.Open(ctx, state.path(inputsFile)); err != nil {
		return err
	}
	if i.kept, err = store.NewInputs(store.InputsConfig{
		Store: i.db, KeyFile: state.path(inputsKey), Retain: time.Duration(cfg.Inputs.RetainDays) * 24 * time.Hour,
		MaxBytes: cfg.Inputs.MaxMiB << 20, Logger: logger,
	}); err != nil {
		return err
	}
	i.test, err = replay.NewSelfTest(replay.SelfTestConfig{
		Sample: i.sample, Workers: i.workers, Deadline: milliseconds(max(cfg.DeadlineMS, replayDeadlineMS)), Differs: i.differs, Logger: logger,
	})
	return err
}

// Keep implements gateway.Inputs.
func (i *inputs) Keep(in gateway.DecidedInput) {
	if i.kept != nil {
		i.kept.Keep(inputOf(in))
	}
	i.offer(in)
}

// inputOf is a decision as it is kept.
func inputOf(in gateway.DecidedInput) store.Input {
	kept := store.Input{
		Execution: in.ID, Seq: in.Seq, Tenant: in.Principal.Tenant, Subject: in.Principal.Subject, Time: in.Time,
		Revisions: store.Revisions{Organisation: in.Asked.Organisation, Own: in.Asked.Own, Terms: in.Asked.Terms},
		Asked:     in.Asked.Input, Answered: in.Asked.Answer,
	}
	for _, d := range in.Asked.Documents {
		kept.Documents = append(kept.Documents, store.Document{Kind: d.Kind, Digest: d.Revision, Tenant: d.Tenant, Content: d.Content})
	}
	return kept
}

// offer has the shadow asked, where there is one.
func (i *inputs) offer(in gateway.DecidedInput) {
	if i.shadow != nil {
		i.shadow.Offer(replay.Decided{
			Execution: in.ID, Seq: in.Seq, Principal: in.Principal, RequestID: in.RequestID, TraceID: in.TraceID, Asked: in.Asked,
		})
	}
}

// run asks again until serving ends, and writes until recording ends, which is
// when nobody decides any more.
func (i *inputs) run(serving, recording context.Context) error {
	var parts errgroup.Group
	if i.shadow != nil {
		parts.Go(func() error { return i.shadow.Run(serving) })
	}
	if i.test != nil {
		parts.Go(func() error { return i.test.Run(serving) })
	}
	if i.kept != nil {
		parts.Go(func() error { return i.kept.Run(recording) })
	}
	return parts.Wait()
}

func (i *inputs) close() error {
	if i.workers != nil {
		i.workers.Close()
	}
	if i.db != nil {
		return i.db.Close()
	}
	return nil
}

// flip records that the candidate decides otherwise.
func (i *inputs) flip(ctx context.Context, of replay.Decided, flip execution.PolicyFlip) error {
	_, err := i.log.Append(ctx, execution.Record{
		Type: execution.RecordPolicyFlip, Time: time.Now().UTC(), Execution: executionOf(of.Execution), Principal: &of.Principal,
		RequestID: of.RequestID, TraceID: of.TraceID, Flip: &flip,
	})
	return err
}

// differs records that a decision is not what its own policy decides.
func (i *inputs) differs(ctx context.Context, of replay.Sampled, flip execution.PolicyFlip) error {
	_, err := i.log.Append(ctx, execution.Record{
		Type: execution.RecordReplayDiffers, Time: time.Now().UTC(), Execution: executionOf(of.Input.Execution), Flip: &flip,
	})
	return err
}

// executionOf is empty for what is the id of a session.
func executionOf(id string) string {
	if execution.ValidID(execution.PrefixExecution, id) {
		return id
	}
	return ""
}

// sample picks one of the newest decisions of this process, with the policies that
// made it. Another version of this program may have decided otherwise.
func (i *inputs) sample(ctx context.Context) (replay.Sampled, error) {
	among := min(sampledAmong, int64(i.kept.Counts().Kept))
	if among == 0 {
		return replay.Sampled{}, &execution.Error{Kind: execution.KindNotFound}
	}
	sealed, err := i.kept.Pick(ctx, among, rand.Int64N(among))
	if err != nil {
		return replay.Sampled{}, err
	}
	in, err := sealed.Open(ctx)
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Code == store.CodeInputErased {
		return replay.Sampled{}, &execution.Error{Kind: execution.KindNotFound, Code: e.Code, Detail: e.Detail}
	}
	if err != nil {
		return replay.Sampled{}, err
	}
	asked := &execution.Asked{Organisation: in.Revisions.Organisation, Own: in.Revisions.Own, Terms: in.Revisions.Terms}
	for _, name := range []execution.PolicyDocument{
		{Kind: execution.PolicyBundle, Revision: asked.Organisation},
		{Kind: execution.PolicyTerms, Revision: asked.Terms},
		{Kind: execution.PolicyBundle, Revision: asked.Own, Tenant: in.Tenant},
	} {
		if name.Revision == "" {
			continue
		}
		if name.Content, err = i.kept.Document(ctx, name.Kind, name.Revision, name.Tenant); err != nil {
			return replay.Sampled{}, err
		}
		asked.Documents = append(asked.Documents, name)
	}
	return replay.Sampled{
		Input: replay.Input{
			Execution: in.Execution, Seq: in.Seq, Tenant: in.Tenant, Time: in.Time, Asked: in.Asked, Answered: in.Answered,
		},
		Asked: asked,
	}, nil
}

// Ready implements gateway.Prober. It warns, and never refuses: a decision of the
// past that cannot be reproduced does not make those of now wrong. i may be nil.
func (i *inputs) Ready(context.Context) error {
	if i != nil && i.test != nil && i.test.Results()[replay.ResultDiffers] > 0 {
		return gateway.Warning("a recorded decision is not what its own policy decides: see the replay_differs records, and run `execgate policy replay`")
	}
	return nil
}

// inputFigures are what the metrics of inputs are read from.
type inputFigures struct {
	kept    store.InputCounts
	shadow  map[string]uint64
	replays map[string]uint64
}

// Figures counts since the start. It may be called where i is nil.
func (i *inputs) Figures() (f inputFigures) {
	if i == nil {
		return f
	}
	if i.kept != nil {
		f.kept = i.kept.Counts()
	}
	if i.shadow != nil {
		f.shadow = i.shadow.Results()
	}
	if i.test != nil {
		f.replays = i.test.Results()
	}
	return f
}
