package replay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/replay"
)

// some are decisions as the gateway offers them. They are made outside of a bubble
// of synctest, in which the engine's idle goroutines would wait.
func some(t testing.TB, r *recorded, n int) []replay.Decided {
	all := make([]replay.Decided, n)
	for i := range all {
		all[i] = offered(t, r, i)
	}
	return all
}

func offered(t testing.TB, r *recorded, n int) replay.Decided {
	q := question(n)
	d := r.decide(q)
	return replay.Decided{Execution: q.ID, Seq: uint64(n), Principal: q.Principal, Asked: d.Asked}
}

type shadowUnderTest struct {
	*replay.Shadow
	flips chan execution.PolicyFlip
}

// startShadow runs a shadow until the test ends.
func startShadow(t *testing.T, w policy.Workers, candidate func() (policy.Bundle, error)) *shadowUnderTest {
	t.Helper()
	u := &shadowUnderTest{flips: make(chan execution.PolicyFlip, 1000)}
	var err error
	u.Shadow, err = replay.NewShadow(replay.ShadowConfig{
		Candidate: candidate, Workers: w, Deadline: time.Minute, Logger: slog.New(slog.DiscardHandler),
		Flip: func(_ context.Context, of replay.Decided, flip execution.PolicyFlip) error {
			u.flips <- flip
			return errors.New("the log is full") // which ends nothing
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return u
}

func always(b policy.Bundle) func() (policy.Bundle, error) {
	return func() (policy.Bundle, error) { return b, nil }
}

func TestShadowTellsWhatTheCandidateDecidesOtherwise(t *testing.T) {
	r := newRecorded(t, shipped(), nil)
	closed := rego(`package execgate
decision := {"effect": "deny", "reasons": [{"code": "closed", "rule": "candidate.closed"}]} if input.request.id == "ex_2"
decision := {"effect": "deny", "reasons": [{"code": "image_not_granted", "rule": "other"}]} if input.request.id == "ex_3"
` + grants("64")[len("package execgate\n"):] + ` if input.request.id == "ex_4"`)
	made := some(t, r, 5)
	synctest.Test(t, func(t *testing.T) {
		u := startShadow(t, &workers{}, always(closed))
		for _, d := range made[2:] {
			u.Offer(d)
		}
		synctest.Wait()
		first := <-u.flips
		if first.DecidedSeq != 2 || !cmp.Equal(first.Classes, []string{"allow_to_deny"}) || first.Was != execution.EffectAllow ||
			!cmp.Equal(first.IsRules, []string{"candidate.closed"}) || first.Revision != r.witness.Revision() || first.Candidate == first.Revision {
			t.Errorf("%+v", first)
		}
		if second, third := <-u.flips, <-u.flips; second.DecidedSeq != 3 || third.DecidedSeq != 4 || third.Is != execution.EffectAllow {
			t.Errorf("%+v, %+v", second, third)
		}
		want := map[string]uint64{"allow_to_deny": 2, "limits_tightened": 1}
		if diff := cmp.Diff(want, u.Results()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestShadowOfTheSamePolicyIsSilent(t *testing.T) {
	r := newRecorded(t, shipped(), &workers{})
	if _, err := r.witness.ActivateTenant(t.Context(), "default", rego(`package execgate
decision := {"effect": "allow"}`)); err != nil {
		t.Fatal(err)
	}
	made := some(t, r, 3)
	synctest.Test(t, func(t *testing.T) {
		u := startShadow(t, &workers{}, always(shipped()))
		for _, d := range made {
			u.Offer(d)
		}
		synctest.Wait()
		if diff := cmp.Diff(map[string]uint64{"same": 3}, u.Results()); diff != "" || len(u.flips) != 0 {
			t.Error(diff)
		}
	})
}

// failing are workers that do as they are told.
type failing struct {
	workers
	evaluate func(context.Context) error
}

func (f *failing) Evaluate(ctx context.Context, tenant, revision string, input []byte, full bool) (policy.Answer, error) {
	if err := f.evaluate(ctx); err != nil {
		return policy.Answer{}, err
	}
	return f.workers.Evaluate(ctx, tenant, revision, input, full)
}

// Whatever a candidate does, it is counted and the next one is asked.
func TestShadowThatFails(t *testing.T) {
	r := newRecorded(t, shipped(), nil)
	made := some(t, r, 5)
	var broken atomic.Bool
	broken.Store(true)
	candidate := func() (policy.Bundle, error) {
		if broken.Load() {
			return rego("package execgate\ndecision := "), nil
		}
		return shipped(), nil
	}
	synctest.Test(t, func(t *testing.T) {
		u := startShadow(t, &workers{}, candidate)
		u.Offer(made[1])
		u.Offer(made[2])
		unknown := made[3]
		asked := *unknown.Asked
		asked.Documents = nil
		unknown.Asked = &asked
		u.Offer(unknown)
		synctest.Wait()
		if got := u.Results()[replay.ResultFailed]; got != 3 {
			t.Errorf("%d failed", got)
		}
		broken.Store(false)
		time.Sleep(11 * time.Second) // of synctest's clock
		u.Offer(made[4])
		synctest.Wait()
		if got := u.Results()["same"]; got != 1 {
			t.Errorf("after it was mended: %v", u.Results())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		u := startShadow(t, &workers{}, func() (policy.Bundle, error) { return policy.Bundle{}, errors.New("no folder") })
		u.Offer(made[1])
		synctest.Wait()
		if got := u.Results()[replay.ResultFailed]; got != 1 {
			t.Errorf("without a folder: %v", u.Results())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		u := startShadow(t, &failing{evaluate: func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}}, always(shipped()))
		u.Offer(made[1])
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := u.Results()[replay.ResultNoAnswer]; got != 1 || len(u.flips) != 0 {
			t.Errorf("a candidate without end: %v", u.Results())
		}
	})
}

// Offer returns at once while nobody takes what waits, and counts what finds no
// room.
func TestShadowQueueOverflows(t *testing.T) {
	r := newRecorded(t, shipped(), nil)
	s, err := replay.NewShadow(replay.ShadowConfig{
		Candidate: always(shipped()), Workers: &workers{}, Logger: slog.New(slog.DiscardHandler),
		Flip: func(context.Context, replay.Decided, execution.PolicyFlip) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	d := offered(t, r, 1)
	for range 1024 + 7 {
		s.Offer(d)
	}
	if got := s.Results()[replay.ResultOverflow]; got != 7 {
		t.Errorf("%d overflowed", got)
	}
}

// A candidate that differs in everything does not fill the log.
func TestFlipsAreRecordedAtAPace(t *testing.T) {
	r := newRecorded(t, shipped(), nil)
	closed := rego(`package execgate
decision := {"effect": "deny"}`)
	d := offered(t, r, 1)
	synctest.Test(t, func(t *testing.T) {
		u := startShadow(t, &workers{}, always(closed))
		for range 100 {
			u.Offer(d)
		}
		synctest.Wait()
		if len(u.flips) != 20 || u.Results()["allow_to_deny"] != 100 {
			t.Errorf("%d are recorded, %v", len(u.flips), u.Results())
		}
		time.Sleep(3 * time.Second)
		u.Offer(d)
		synctest.Wait()
		for len(u.flips) > 1 {
			<-u.flips
		}
		if last := <-u.flips; last.Omitted != 80 {
			t.Errorf("%d are omitted", last.Omitted)
		}
	})
}

// sampler hands out one recorded decision.
func sampler(t *testing.T, r *recorded, change func(*replay.Input)) func(context.Context) (replay.Sampled, error) {
	q := question(1)
	d := r.decide(q)
	in := replay.Input{Execution: q.ID, Seq: 1, Tenant: "default", Asked: d.Asked.Input, Answered: d.Asked.Answer}
	if change != nil {
		change(&in)
	}
	return func(context.Context) (replay.Sampled, error) { return replay.Sampled{Input: in, Asked: d.Asked}, nil }
}

func TestSelfTest(t *testing.T) {
	r := newRecorded(t, shipped(), nil)
	one := rego(`package execgate
decision := {"effect": "allow"}`)
	narrowed := newRecorded(t, shipped(), &workers{})
	if _, err := narrowed.witness.ActivateTenant(t.Context(), "default", one); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		sample func(context.Context) (replay.Sampled, error)
		want   map[string]uint64
		flips  int
	}{
		"same":        {sampler(t, r, nil), map[string]uint64{"same": 3}, 0},
		"with tenant": {sampler(t, narrowed, nil), map[string]uint64{"same": 3}, 0},
		"differs": {sampler(t, r, func(in *replay.Input) {
			in.Answered = []byte(`{"effect":"deny","reasons":[],"clamped":[],"revision":"x"}`)
		}), map[string]uint64{"differs": 3}, 1},
		"one byte": {sampler(t, r, func(in *replay.Input) { in.Answered = fmt.Appendf(nil, "%s ", in.Answered) }), map[string]uint64{"differs": 3}, 1},
		"no answer": {sampler(t, r, func(in *replay.Input) {
			in.Answered = []byte(`{"effect":"deny","reasons":[{"code":"policy_timeout"}]}`)
		}), map[string]uint64{"no_answer": 3}, 0},
		"input": {sampler(t, r, func(in *replay.Input) { in.Asked = []byte(`{"v":1,"future":2}`) }), map[string]uint64{"unreplayable": 3}, 0},
		"none yet": {func(context.Context) (replay.Sampled, error) {
			return replay.Sampled{}, &execution.Error{Kind: execution.KindNotFound}
		}, map[string]uint64{}, 0},
		"unreadable":  {func(context.Context) (replay.Sampled, error) { return replay.Sampled{}, errors.New("disk") }, map[string]uint64{"unreplayable": 3}, 0},
		"no policies": {func(context.Context) (replay.Sampled, error) { return replay.Sampled{Asked: &execution.Asked{}}, nil }, map[string]uint64{"unreplayable": 3}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var flips []execution.PolicyFlip
				s, err := replay.NewSelfTest(replay.SelfTestConfig{
					Sample: test.sample, Workers: &workers{}, Deadline: time.Minute, Logger: slog.New(slog.DiscardHandler),
					Differs: func(_ context.Context, _ replay.Sampled, flip execution.PolicyFlip) error {
						flips = append(flips, flip)
						return nil
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(context.Background(), 35*time.Second)
				defer cancel()
				if err := s.Run(ctx); err != nil {
					t.Error(err)
				}
				if diff := cmp.Diff(test.want, s.Results()); diff != "" || len(flips) != test.flips {
					t.Errorf("%d are told of:\n%s", len(flips), diff)
				}
			})
		})
	}
}
