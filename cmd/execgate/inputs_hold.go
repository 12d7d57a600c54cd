package main

import (
	"context"
	"time"

	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
)

// obligations are those that the gateway can meet, of that configuration.
func obligations(cfg PolicyConfig) []string { return gateway.Obligations(cfg.Inputs.RetainDays > 0) }

// HoldRequest implements gateway.Materials.
func (i *inputs) HoldRequest(ctx context.Context, in gateway.DecidedInput, until time.Time, request []byte) error {
	input := inputOf(in)
	held := store.Held{Input: &input, Until: until}
	if request != nil {
		held.Materials = []store.Material{materialOf(in, store.PartRequest, request)}
	}
	if err := i.kept.Hold(ctx, held); err != nil {
		return err
	}
	i.offer(in)
	return nil
}

// HoldOutput implements gateway.Materials.
func (i *inputs) HoldOutput(ctx context.Context, in gateway.DecidedInput, until time.Time, output []byte) error {
	return i.kept.Hold(ctx, store.Held{Materials: []store.Material{materialOf(in, store.PartOutput, output)}, Until: until})
}

func materialOf(in gateway.DecidedInput, part string, content []byte) store.Material {
	return store.Material{
		Execution: in.ID, Part: part, Seq: in.Seq, Tenant: in.Principal.Tenant, Subject: in.Principal.Subject, Time: in.Time, Content: content,
	}
}
