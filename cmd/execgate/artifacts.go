package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/execgate/execgate/execution"
)

// saveArtifacts writes artifacts below folder, and nowhere else.
func saveArtifacts(folder string, artifacts []execution.Artifact) error {
	if folder == "" || len(artifacts) == 0 {
		return nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("save artifacts: %w", err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return fmt.Errorf("save artifacts: %w", err)
	}
	defer root.Close()
	for _, artifact := range artifacts {
		if err := root.MkdirAll(filepath.Dir(artifact.Path), 0o755); err != nil {
			return fmt.Errorf("save artifacts: %w", err)
		}
		if err := root.WriteFile(artifact.Path, artifact.Content, 0o644); err != nil {
			return fmt.Errorf("save artifacts: %w", err)
		}
	}
	return nil
}
