package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/execgate/execgate/executor"
	"github.com/execgate/execgate/images"
)

// newExecutor makes the executor that cfg describes.
func newExecutor(cfg Config, gatewayID string, logger *slog.Logger) (*executor.Executor, error) {
	list, err := loadImages(cfg.Executor.Images)
	if err != nil {
		return nil, err
	}
	agent := cfg.Executor.Agent
	if agent == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find execgate-agent: %w; name it by --agent", err)
		}
		agent = filepath.Join(filepath.Dir(self), "execgate-agent")
	}
	return executor.New(executor.Config{
		Gateway: gatewayID, Host: cfg.Executor.Engine, Agent: agent, Images: list, Logger: logger,
		UIDs:      executor.UIDRange{First: cfg.Executor.FirstUID, Count: cfg.Executor.UIDCount},
		StopGrace: milliseconds(cfg.Executor.StopGraceMS), StartTimeout: milliseconds(cfg.Executor.StartTimeoutMS),
		Warm: cfg.Executor.warm(list),
	})
}

// loadImages reads the list of images at path, or the embedded one.
func loadImages(path string) ([]executor.Image, error) {
	list, err := images.Embedded()
	if path != "" {
		var text []byte
		if text, err = os.ReadFile(path); err == nil {
			list, err = images.Parse(text)
		}
	}
	if err != nil {
		return nil, usage("list of images: %w", err)
	}
	var out []executor.Image
	for _, image := range list {
		languages := map[string]executor.Language{}
		for name, language := range image.Languages {
			languages[name] = executor.Language{
				Command: language.Command, Text: language.Job == images.JobText,
				Session: language.Session, Fork: language.Fork,
			}
		}
		out = append(out, executor.Image{Name: image.Name, Reference: image.Reference, Languages: languages})
	}
	return out, nil
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
