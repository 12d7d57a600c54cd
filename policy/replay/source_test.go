package replay_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/replay"
)

const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000001"

var errErased = errors.New("erased")

// recorded are decisions that a real engine made, held in memory.
type recorded struct {
	t         testing.TB
	witness   *policy.Witness
	groups    []replay.Group
	inputs    map[replay.Group][]replay.Input // by group without its count
	documents map[string]execution.PolicyDocument
	lost      map[string]uint64
	seq       uint64
}

func newRecorded(t testing.TB, organisation policy.Bundle, workers policy.Workers) *recorded {
	t.Helper()
	engine, err := policy.New(policy.Config{Deadline: time.Minute, Workers: workers})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorded{
		t: t, witness: policy.NewWitness(engine), inputs: map[replay.Group][]replay.Input{},
		documents: map[string]execution.PolicyDocument{}, lost: map[string]uint64{},
	}
	r.activate(organisation)
	return r
}

func (r *recorded) activate(organisation policy.Bundle) {
	r.t.Helper()
	if _, err := r.witness.Activate(context.Background(), organisation); err != nil {
		r.t.Fatal(err)
	}
}

// decide records a decision.
func (r *recorded) decide(q execution.Question) execution.Decision {
	r.t.Helper()
	d := r.witness.Decide(context.Background(), q)
	if d.Asked == nil {
		r.t.Fatal("the decision does not say what was asked")
	}
	g := replay.Group{Organisation: d.Asked.Organisation, Terms: d.Asked.Terms, Own: d.Asked.Own}
	if g.Own != "" {
		g.Tenant = q.Principal.Tenant
	}
	if r.inputs[g] == nil {
		r.groups = append(r.groups, g)
	}
	r.seq++
	r.inputs[g] = append(r.inputs[g], replay.Input{
		Execution: q.ID, Seq: r.seq, Tenant: q.Principal.Tenant, Time: q.Time, Asked: d.Asked.Input, Answered: d.Asked.Answer,
	})
	for _, document := range d.Asked.Documents {
		r.documents[document.Tenant+document.Revision] = document
	}
	return d
}

func (r *recorded) Groups(context.Context) ([]replay.Group, error) {
	var groups []replay.Group
	for _, g := range r.groups {
		counted := g
		counted.Count = int64(len(r.inputs[g]))
		groups = append(groups, counted)
	}
	return groups, nil
}

func (r *recorded) Each(_ context.Context, g replay.Group, do func(func(context.Context) (replay.Input, error)) error) error {
	g.Count = 0
	for _, in := range r.inputs[g] {
		if err := do(func(context.Context) (replay.Input, error) {
			if in.Asked == nil {
				return replay.Input{}, errErased
			}
			return in, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (r *recorded) Bundle(_ context.Context, revision, tenant string) (policy.Bundle, error) {
	d, ok := r.documents[tenant+revision]
	if !ok {
		return policy.Bundle{}, fmt.Errorf("no bundle %s", revision)
	}
	return policy.Unpack(d.Content, revision)
}

func (r *recorded) Terms(_ context.Context, revision string) (policy.Terms, error) {
	return policy.ReadTerms(r.documents[revision].Content, revision)
}

func (r *recorded) Lost(context.Context) (map[string]uint64, error) { return r.lost, nil }

func (r *recorded) Why(err error) string {
	if errors.Is(err, errErased) {
		return "erased"
	}
	return "unknown"
}

// question is a request that the shipped policy grants.
func question(n int) execution.Question {
	return execution.Question{
		ID: fmt.Sprintf("ex_%d", n), Time: time.Unix(1_767_225_600+int64(n), 0).UTC(), Action: execution.ActionExecute,
		Principal: execution.Principal{
			Subject: "ak_01", Tenant: "default", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey,
		},
		Request:       execution.Request{Language: "python", Code: "print(1)", Limits: execution.Limits{MemoryMiB: 256}},
		RequestSHA256: "00",
		Image:         execution.Image{Name: "python", Digest: digest},
	}
}

func shipped() policy.Bundle {
	return policy.Bundle{Files: policies.Files, Source: "shipped", Images: map[string]string{"python": digest}}
}

func rego(text string) policy.Bundle {
	return policy.Bundle{Files: fstest.MapFS{"p.rego": {Data: []byte(text)}}, Source: "candidate"}
}

// workers evaluate in the test's own process.
type workers struct {
	bundles map[string]policy.Bundle
	holders map[string]int
}

func (w *workers) Load(ctx context.Context, bundle policy.Bundle) (string, error) {
	result, err := policy.Eval(ctx, bundle, nil, []byte(`{}`))
	if err != nil {
		return "", err
	}
	if w.bundles == nil {
		w.bundles, w.holders = map[string]policy.Bundle{}, map[string]int{}
	}
	w.bundles[result.Revision] = bundle
	w.holders[result.Revision]++
	return result.Revision, nil
}

func (w *workers) Evaluate(ctx context.Context, _, revision string, input []byte, _ bool) (policy.Answer, error) {
	bundle, ok := w.bundles[revision]
	if !ok {
		return policy.Answer{}, errors.New("no such bundle")
	}
	result, err := policy.Eval(ctx, bundle, nil, input)
	return policy.Answer{Document: result.Document}, err
}

func (w *workers) Forget(revision string) {
	if w.holders[revision]--; w.holders[revision] == 0 {
		delete(w.bundles, revision)
	}
}
