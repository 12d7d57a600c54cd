package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// ApprovalsConfig is about requests that await approval.
type ApprovalsConfig struct {
	MaxPending int    `yaml:"max_pending"` // of one tenant
	PendingMiB int64  `yaml:"pending_mib"` // of one tenant
	Webhook    string `yaml:"webhook"`     // name of the one that is told; empty: none
}

// WebhooksConfig is about addresses that are told of events, by name.
type WebhooksConfig struct {
	URLs    map[string]string `yaml:"urls"`
	Secrets map[string]string `yaml:"secrets"` // path of a file
}

// check reports what is wrong with the webhooks, but for what is in the files.
func (c Config) checkWebhooks() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Webhooks.URLs)) {
		if c.Webhooks.Secrets[name] == "" {
			errs = append(errs, fmt.Errorf("webhooks.secrets has no file for the webhook %q: name one that holds at least 16 random bytes", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Webhooks.Secrets)) {
		if c.Webhooks.URLs[name] == "" {
			errs = append(errs, fmt.Errorf("webhooks.urls has no address for the webhook %q", name))
		}
	}
	if name := c.Approvals.Webhook; name != "" && c.Webhooks.URLs[name] == "" {
		errs = append(errs, fmt.Errorf("approvals.webhook is %q, which webhooks.urls does not have", name))
	}
	return errors.Join(errs...)
}

// newWebhooks reads the secrets.
func newWebhooks(cfg WebhooksConfig, logger *slog.Logger) (*gateway.Webhooks, error) {
	all := map[string]gateway.Webhook{}
	for name, address := range cfg.URLs {
		secret, err := readSecret(cfg.Secrets[name])
		if err != nil {
			return nil, fmt.Errorf("secret of the webhook %q: %w", name, err)
		}
		all[name] = gateway.Webhook{URL: address, Secret: secret}
	}
	return gateway.NewWebhooks(all, logger)
}

// readSecret reads a file, but for a newline at its end. One that everybody may read
// is refused.
func readSecret(path string) (execution.Secret, error) {
	info, err := os.Stat(path)
	if err != nil {
		return execution.Secret{}, err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o007 != 0 {
		return execution.Secret{}, fmt.Errorf("%s has the mode %v: it must be a file that others cannot read; run chmod 600 on it", path, mode)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return execution.Secret{}, err
	}
	return execution.NewSecret(string(bytes.TrimSuffix(content, []byte("\n")))), nil
}
