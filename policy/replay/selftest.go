package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// The results of a SelfTest, beside "same" and WhyNoAnswer.
const (
	ResultDiffers      = "differs"
	ResultUnreplayable = "unreplayable"
)

// Sampled is a recorded decision and what it takes to replay it.
type Sampled struct {
	Input Input
	Asked *execution.Asked
}

// SelfTestConfig is what a SelfTest is made from.
type SelfTestConfig struct {
	// Sample returns some recent decision, as it was recorded. Its error is of
	// execution.KindNotFound where there is none yet, or none that has not been
	// erased.
	Sample func(ctx context.Context) (Sampled, error)
	// Every is the time between two replays; zero: 10 s.
	Every time.Duration
	// Workers evaluate what was recorded: it is never evaluated in this process.
	Workers policy.Workers
	// Deadline bounds one evaluation; zero: policy.DefaultDeadline.
	Deadline time.Duration
	// Differs is told of a decision that its own revision does not reproduce.
	Differs func(ctx context.Context, of Sampled, flip execution.PolicyFlip) error
	Logger  *slog.Logger
}

// SelfTest replays decisions by the policies that made them, a few a minute. Each
// must come out byte for byte: a difference means that the record, the policy or
// this program is not what it was, and that no replay can be believed.
type SelfTest struct {
	config SelfTestConfig

	mu      sync.Mutex
	results map[string]uint64
	told    map[uint64]bool // decisions whose difference is recorded

	// Of Run alone:
	organisation, terms string
	compiled            *policy.Compiled
}

// maxTold bounds the differences that are recorded.
const maxTold = 100

// NewSelfTest checks config and starts nothing.
func NewSelfTest(config SelfTestConfig) (*SelfTest, error) {
	if config.Sample == nil || config.Workers == nil || config.Differs == nil || config.Logger == nil {
		return nil, errors.New("self-test: no samples, no workers, nobody to tell, or no logger")
	}
	if config.Every <= 0 {
		config.Every = 10 * time.Second
	}
	return &SelfTest{config: config, results: map[string]uint64{}, told: map[uint64]bool{}}, nil
}

// Results counts what came of the replays.
func (t *SelfTest) Results() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.results)
}

// Run replays until ctx ends.
func (t *SelfTest) Run(ctx context.Context) error {
	defer t.drop()
	tick := time.NewTicker(t.config.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.one(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// one replays one decision.
func (t *SelfTest) one(ctx context.Context) {
	sampled, err := t.config.Sample(ctx)
	if execution.KindOf(err) == execution.KindNotFound {
		return
	}
	var is execution.Decision
	if err == nil {
		is, err = t.decide(ctx, sampled)
	}
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		t.count(ResultUnreplayable)
		t.config.Logger.WarnContext(ctx, "a recorded decision cannot be replayed", "error", err)
		return
	}
	text, err := json.Marshal(is)
	switch {
	case err != nil:
		t.count(ResultUnreplayable)
	case bytes.Equal(text, sampled.Input.Answered):
		t.count(string(Same))
	default:
		t.differs(ctx, sampled, is, text)
	}
}

// differs tells of a difference, unless one of both is no answer at all.
func (t *SelfTest) differs(ctx context.Context, sampled Sampled, is execution.Decision, text []byte) {
	var was decision
	if err := json.Unmarshal(sampled.Input.Answered, &was); err != nil {
		t.count(ResultUnreplayable)
		return
	}
	if noAnswer(is.Reasons) || noAnswer(was.Reasons) {
		t.count(WhyNoAnswer)
		return
	}
	classes, err := Compare(sampled.Input.Answered, text)
	if err != nil {
		t.count(ResultUnreplayable)
		return
	}
	if classes[0] == Same {
		classes = []Class{Other} // in what Compare does not look at
	}
	t.count(ResultDiffers)
	if !t.tell(sampled.Input.Seq) {
		return
	}
	t.config.Logger.ErrorContext(ctx, "a recorded decision is not what its own policy decides",
		"execution", sampled.Input.Execution, "seq", sampled.Input.Seq, "revision", sampled.Asked.Organisation)
	flip := flipOf(sampled.Input.Seq, is.Revision, sampled.Asked.Organisation, sampled.Input.Answered, text, classes)
	if err := t.config.Differs(ctx, sampled, flip); err != nil && ctx.Err() == nil {
		t.config.Logger.ErrorContext(ctx, "a difference of a replay could not be recorded", "error", err)
	}
}

// tell reports whether a decision's difference is to be recorded: once.
func (t *SelfTest) tell(seq uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told[seq] || len(t.told) >= maxTold {
		return false
	}
	t.told[seq] = true
	return true
}

func (t *SelfTest) count(result string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.results[result]++
}

// decide asks the revisions by which was decided. They are compiled once for all
// samples that follow one another with the same ones.
func (t *SelfTest) decide(ctx context.Context, sampled Sampled) (execution.Decision, error) {
	asked := sampled.Asked
	if t.compiled == nil || t.organisation != asked.Organisation || t.terms != asked.Terms {
		t.drop()
		organisation, terms, err := readOrganisation(asked)
		if err != nil {
			return execution.Decision{}, err
		}
		compiled, err := policy.Compile(ctx, policy.CompileConfig{
			Organisation: organisation, Terms: terms, Deadline: t.config.Deadline,
			Workers: t.config.Workers, Isolated: true, Logger: t.config.Logger,
		})
		if err != nil {
			return execution.Decision{}, err
		}
		t.compiled, t.organisation, t.terms = compiled, asked.Organisation, asked.Terms
	}
	t.compiled.DropTenants()
	if asked.Own != "" {
		own, tenant, err := readOwn(asked)
		if err != nil {
			return execution.Decision{}, err
		}
		if err := t.compiled.SetTenant(ctx, tenant, own); err != nil {
			return execution.Decision{}, err
		}
	}
	return t.compiled.Decide(ctx, sampled.Input.Asked)
}

func (t *SelfTest) drop() {
	if t.compiled != nil {
		t.compiled.Close()
	}
	t.compiled = nil
}
