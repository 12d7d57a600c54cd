package main

import (
	"os"

	"github.com/execgate/execgate/policy"
)

// setCeilings puts the ceilings of a file in force; none where path is empty.
func setCeilings(engine *policy.Engine, path string) error {
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return usage("policy.ceilings: %w", err)
	}
	ceilings, err := policy.ParseCeilings(text)
	if err != nil {
		return usage("policy.ceilings: %s: %w", path, err)
	}
	return engine.SetCeilings(ceilings)
}
