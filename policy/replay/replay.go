package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// Config says what is compared with what.
type Config struct {
	Source Source
	// Was is the organisation's policy that Is is compared with; nil: what was
	// recorded.
	Was *policy.Bundle
	// Is is the organisation's policy that is asked; nil: the recorded revision of
	// each decision, which must reproduce it byte for byte.
	Is *policy.Bundle
	// Workers evaluate the policies of tenants. Where it is nil, decisions that
	// depend on one are unreplayable.
	Workers policy.Workers
	// Isolated has Workers evaluate the organisation's policies too.
	Isolated bool
	// Deadline bounds one evaluation; zero: a second, so that a busy machine does
	// not turn an answer into another.
	Deadline time.Duration
	// Parallel is how many are evaluated at once; zero: as many as there are
	// processors.
	Parallel int
	// Samples is how many samples of each class are kept; zero: 10.
	Samples int
	Logger  *slog.Logger
}

// The reasons for which a decision is unreplayable, beside those of the Source.
const (
	WhyPolicyMissing = "policy_missing" // a policy that decided is not kept, or not readable
	WhyPolicyBroken  = "policy_broken"  // a policy that decided does not compile any more
	WhyInputUnknown  = "input_unknown"  // this version cannot read the input
	// WhyNoAnswer: the policy ran out of time, or its worker failed, when it was
	// recorded or now. That says nothing of the policy.
	WhyNoAnswer = "no_answer"
)

// Run replays everything in the source. It fails where the source does, with a
// *policy.BundleError where Was or Is does not compile, and with ctx.
func Run(ctx context.Context, config Config) (*Report, error) {
	if config.Source == nil {
		return nil, errors.New("replay: no source")
	}
	if config.Parallel <= 0 {
		config.Parallel = runtime.GOMAXPROCS(0)
	}
	if config.Samples <= 0 {
		config.Samples = 10
	}
	if config.Deadline <= 0 {
		config.Deadline = time.Second
	}
	r := &run{Config: config, report: newReport()}
	defer r.close()
	began := time.Now()
	groups, err := config.Source.Groups(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := r.group(ctx, g); err != nil {
			return nil, err
		}
	}
	if err := r.tryUnasked(ctx); err != nil {
		return nil, err
	}
	lost, err := config.Source.Lost(ctx)
	if err != nil {
		return nil, err
	}
	for why, n := range lost {
		r.report.Unreplayable[why] += n
	}
	r.report.Was, r.report.Is = named(config.Was), named(config.Is)
	r.report.Seconds = time.Since(began).Seconds()
	return r.report, nil
}

func named(b *policy.Bundle) string {
	if b == nil {
		return "recorded"
	}
	return b.Source
}

// run is one Run.
type run struct {
	Config
	report *Report

	organisation, terms string // that the two below are compiled for
	was, is             *policy.Compiled
	tried               bool // Was and Is compile
}

func (r *run) close() {
	for _, c := range []*policy.Compiled{r.was, r.is} {
		if c != nil {
			c.Close()
		}
	}
	r.was, r.is, r.organisation, r.terms = nil, nil, "", ""
}

// group replays one group.
func (r *run) group(ctx context.Context, g Group) error {
	if why, err := r.prepare(ctx, g); err != nil {
		return err
	} else if why != "" {
		r.report.Unreplayable[why] += uint64(g.Count)
		return nil
	}
	opens := make(chan func(context.Context) (Input, error), 4*r.Parallel)
	reports := make([]*Report, r.Parallel)
	var workers sync.WaitGroup
	for i := range reports {
		reports[i] = newReport()
		workers.Go(func() {
			for open := range opens {
				r.one(ctx, open, reports[i])
			}
		})
	}
	err := r.Source.Each(ctx, g, func(open func(context.Context) (Input, error)) error {
		select {
		case opens <- open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(opens)
	workers.Wait()
	for _, report := range reports {
		r.report.add(report, r.Samples)
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// prepare compiles what a group needs, where it is not the same as for the last.
func (r *run) prepare(ctx context.Context, g Group) (why string, err error) {
	if r.is == nil || g.Organisation != r.organisation || g.Terms != r.terms {
		r.close()
		if why, err := r.compile(ctx, g); why != "" || err != nil {
			return why, err
		}
		r.organisation, r.terms = g.Organisation, g.Terms
	}
	for _, c := range []*policy.Compiled{r.was, r.is} {
		if c == nil {
			continue
		}
		c.DropTenants()
		if g.Own == "" {
			continue
		}
		own, err := r.Source.Bundle(ctx, g.Own, g.Tenant)
		if err == nil {
			err = c.SetTenant(ctx, g.Tenant, own)
		}
		if err != nil {
			return r.unusable(ctx, err)
		}
	}
	return "", nil
}

// compile compiles both sides for a group. The digests of images are those of the
// time: policies grant names, and inputs have digests.
func (r *run) compile(ctx context.Context, g Group) (why string, err error) {
	recorded, err := r.Source.Bundle(ctx, g.Organisation, "")
	if err != nil {
		return r.unusable(ctx, err)
	}
	terms, err := r.Source.Terms(ctx, g.Terms)
	if err != nil {
		return r.unusable(ctx, err)
	}
	compile := func(b policy.Bundle) (*policy.Compiled, error) {
		b.Images, b.Tools = recorded.Images, recorded.Tools
		return policy.Compile(ctx, policy.CompileConfig{
			Organisation: b, Terms: terms, Deadline: r.Deadline, Workers: r.Workers, Isolated: r.Isolated, Logger: r.Logger,
		})
	}
	if r.Is == nil {
		if r.is, err = compile(recorded); err != nil {
			r.is = nil
			return r.unusable(ctx, err)
		}
	} else if r.is, err = compile(*r.Is); err != nil {
		r.is = nil
		return "", err
	}
	if r.Was != nil {
		if r.was, err = compile(*r.Was); err != nil {
			r.was = nil
			return "", err
		}
	}
	r.tried = true
	return "", nil
}

// tryUnasked compiles what was never asked, because there was nothing to ask it:
// that it does not compile is to be said all the same.
func (r *run) tryUnasked(ctx context.Context) error {
	for _, b := range []*policy.Bundle{r.Was, r.Is} {
		if b == nil || r.tried {
			continue
		}
		c, err := policy.Compile(ctx, policy.CompileConfig{Organisation: *b, Workers: r.Workers, Isolated: r.Isolated})
		if err != nil {
			return err
		}
		c.Close()
	}
	return nil
}

// unusable says why a policy that decided cannot be asked again.
func (r *run) unusable(ctx context.Context, err error) (string, error) {
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if r.Logger != nil {
		r.Logger.WarnContext(ctx, "a recorded policy cannot be asked again", "error", err)
	}
	if _, broken := errors.AsType[*policy.BundleError](err); broken {
		return WhyPolicyBroken, nil
	}
	return WhyPolicyMissing, nil
}

// one replays one input.
func (r *run) one(ctx context.Context, open func(context.Context) (Input, error), report *Report) {
	if ctx.Err() != nil {
		return // the channel is being emptied
	}
	in, err := open(ctx)
	if err != nil {
		report.Unreplayable[r.Source.Why(err)]++
		return
	}
	was := in.Answered
	if r.was != nil {
		if was, err = decide(ctx, r.was, in); err != nil {
			report.Unreplayable[WhyInputUnknown]++
			return
		}
	}
	is, err := decide(ctx, r.is, in)
	if err != nil {
		report.Unreplayable[WhyInputUnknown]++
		return
	}
	if bytes.Equal(was, is) {
		report.count([]Class{Same}, nil, nil, r.Samples)
		return
	}
	r.different(in, was, is, report)
}

func decide(ctx context.Context, c *policy.Compiled, in Input) ([]byte, error) {
	d, err := c.Decide(ctx, in.Asked)
	if err != nil {
		return nil, err
	}
	return json.Marshal(d)
}

// different counts two decisions that are not the same bytes. Of a decision that
// is asked of its own revision nothing may differ; of others the revision does.
func (r *run) different(in Input, was, is []byte, report *Report) {
	classes, err := Compare(was, is)
	if err != nil {
		report.Unreplayable[WhyInputUnknown]++
		return
	}
	identity := r.Is == nil && r.Was == nil
	if !identity && slices.Contains(classes, Same) {
		report.count(classes, nil, nil, r.Samples)
		return
	}
	if identity && slices.Contains(classes, Same) {
		classes = []Class{Other}
	}
	s, rules := sampleOf(in, was, is)
	if r.Was == nil && noAnswer(s.WasReasons) || identity && noAnswer(s.IsReasons) {
		report.Unreplayable[WhyNoAnswer]++
		return
	}
	s.Classes = classes
	report.count(classes, &s, rules, r.Samples)
}

// noAnswer reports whether a decision denies for want of an answer, which
// depends on the machine and not on the policy alone.
func noAnswer(reasons []execution.Reason) bool {
	return slices.ContainsFunc(reasons, func(r execution.Reason) bool {
		return r.Code == execution.CodePolicyTimeout || r.Code == execution.CodePolicyNotLoaded
	})
}

// sampleOf describes a decision that differs, and names the rules that only one
// of both decisions gives.
func sampleOf(in Input, was, is []byte) (Sample, []string) {
	var before, after decision
	var asked struct {
		Action struct{ Kind, Tool string } `json:"action"`
	}
	// They were read before, but for the input, whose action is then unknown.
	for text, into := range map[*[]byte]any{&was: &before, &is: &after, &in.Asked: &asked} {
		if err := json.Unmarshal(*text, into); err != nil {
			continue
		}
	}
	s := Sample{
		Execution: in.Execution, Seq: in.Seq, Time: in.Time, Tenant: in.Tenant, Action: asked.Action.Tool,
		Was: before.Effect, Is: after.Effect, WasReasons: before.Reasons, IsReasons: after.Reasons,
	}
	if s.Action == "" {
		s.Action = asked.Action.Kind
	}
	if !before.denies() && !after.denies() {
		s.Limits = limitChanges(before.Grant.Limits, after.Grant.Limits)
	}
	wasRules, isRules := rules(before.Reasons), rules(after.Reasons)
	var only []string
	for _, id := range slices.Concat(wasRules, isRules) {
		if !(slices.Contains(wasRules, id) && slices.Contains(isRules, id)) {
			only = append(only, id)
		}
	}
	return s, only
}

func limitChanges(was, is map[string]int64) (changes []LimitChange) {
	for _, limit := range execution.AllLimits() {
		if was[limit.Name] != is[limit.Name] {
			changes = append(changes, LimitChange{limit.Name, was[limit.Name], is[limit.Name]})
		}
	}
	return changes
}

// String is the report's one line.
func (r *Report) String() string {
	return fmt.Sprintf("%d decisions replayed, %d differ", r.Replayed, r.Differing)
}
