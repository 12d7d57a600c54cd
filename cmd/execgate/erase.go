package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

// eraser erases what is kept of decisions and executions. It implements gateway.Eraser.
type eraser struct {
	inputs     *store.Inputs // nil: none are kept
	executions *store.Executions
	left       string // path of a database of inputs, which may be there from when some were kept
}

// newEraser returns the eraser of a gateway that keeps inputs in i, which may be nil.
func newEraser(i *inputs, executions *store.Executions, state *state) eraser {
	e := eraser{executions: executions, left: state.path(inputsFile)}
	if i != nil {
		e.inputs = i.kept
	}
	return e
}

// Erase implements gateway.Eraser.
func (e eraser) Erase(ctx context.Context, which execution.Erasure, before func(execution.Erasure) error) error {
	selection := selectionOf(which)
	return e.executions.Erase(ctx, selection, func(results int64) error {
		which.Results = results
		if e.inputs != nil {
			_, err := e.inputs.Erase(ctx, selection, func(n store.Erased) error {
				which.Inputs, which.Materials = n.Inputs, n.Materials
				return before(which)
			})
			return err
		}
		if _, err := os.Stat(e.left); !errors.Is(err, fs.ErrNotExist) {
			return &execution.Error{
				Kind: execution.KindUnavailable, Code: "inputs_closed",
				Detail: "inputs are kept from when policy.inputs.retain_days was not 0: stop the gateway, and erase with execgate audit erase --state",
			}
		}
		return before(which)
	})
}

// selectionOf is what an erasure selects.
func selectionOf(which execution.Erasure) store.Selection {
	selection := store.Selection{Execution: which.Execution, Tenant: which.Tenant, Subject: which.Subject}
	if which.Before != nil {
		selection.Before = *which.Before
	}
	return selection
}
