package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/replay"
	"github.com/execgate/execgate/store"
)

// Where in the state folder the inputs of decisions are.
const (
	inputsFile = "inputs.db"
	inputsKey  = "inputs.key"
)

// recordedInputs are the inputs of a time, as a source of replays.
type recordedInputs struct {
	reader   *store.InputsReader
	span     store.Span
	recorded *recordedDigests
}

// openRecordedInputs reads the inputs in a state folder, in which a gateway may be
// at work.
func openRecordedInputs(ctx context.Context, state string) (*store.InputsReader, error) {
	reader, err := store.OpenInputs(ctx, filepath.Join(state, inputsFile), filepath.Join(state, inputsKey))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage("no inputs of decisions are kept in %s: name the gateway's state folder by --state, and see policy.inputs.retain_days: %w", state, err)
	}
	return reader, err
}

// Groups implements replay.Source.
func (r recordedInputs) Groups(ctx context.Context) ([]replay.Group, error) {
	found, err := r.reader.Groups(ctx, r.span)
	groups := make([]replay.Group, len(found))
	for i, g := range found {
		groups[i] = replay.Group{
			Organisation: g.Revisions.Organisation, Terms: g.Revisions.Terms, Own: g.Revisions.Own, Tenant: g.Tenant, Count: g.Count,
		}
	}
	return groups, err
}

// Each implements replay.Source.
func (r recordedInputs) Each(ctx context.Context, g replay.Group, do func(func(context.Context) (replay.Input, error)) error) error {
	kept := store.InputGroup{
		Revisions: store.Revisions{Organisation: g.Organisation, Own: g.Own, Terms: g.Terms}, Tenant: g.Tenant,
	}
	return r.reader.Each(ctx, kept, r.span, func(sealed *store.SealedInput) error {
		return do(func(ctx context.Context) (replay.Input, error) {
			in, err := sealed.Open(ctx)
			if err == nil {
				err = r.recorded.check(in)
			}
			return replay.Input{
				Execution: in.Execution, Seq: in.Seq, Tenant: in.Tenant, Time: in.Time, Asked: in.Asked, Answered: in.Answered,
			}, err
		})
	})
}

// Bundle implements replay.Source.
func (r recordedInputs) Bundle(ctx context.Context, revision, tenant string) (policy.Bundle, error) {
	document, err := r.reader.Document(ctx, store.DocumentBundle, revision, tenant)
	if err != nil {
		return policy.Bundle{}, err
	}
	return policy.Unpack(document, revision)
}

// Terms implements replay.Source.
func (r recordedInputs) Terms(ctx context.Context, revision string) (policy.Terms, error) {
	document, err := r.reader.Document(ctx, store.DocumentTerms, revision, "")
	if err != nil {
		return policy.Terms{}, err
	}
	return policy.ReadTerms(document, revision)
}

// Lost implements replay.Source.
func (r recordedInputs) Lost(ctx context.Context) (map[string]uint64, error) {
	return r.reader.Lost(ctx, r.span)
}

// Why implements replay.Source.
func (r recordedInputs) Why(err error) string {
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Code != "" {
		return e.Code
	}
	return store.CodeInputUnreadable
}
