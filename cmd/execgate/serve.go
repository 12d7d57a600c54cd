package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// settings are the flags of the commands that run a gateway.
type settings struct {
	file, listen, state, policy, agent string
}

func (s *settings) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.file, "config", "", "configuration file (YAML); its keys are in docs/configuration.md")
	flags.StringVar(&s.state, "state", "", "folder for everything that lasts (default $XDG_STATE_HOME/execgate, or /var/lib/execgate for root)")
	flags.StringVar(&s.policy, "policy", "", "folder of Rego and data to use instead of the embedded policy")
	flags.StringVar(&s.agent, "agent", "", "path of execgate-agent (default beside execgate)")
}

// config joins flags, environment, file and defaults, and validates them.
func (s *settings) config(cmd *cobra.Command) (Config, error) {
	cfg, err := loadConfig(s.file, os.LookupEnv)
	if err != nil {
		return cfg, err
	}
	for flag, target := range map[string]struct{ from, to *string }{
		"listen": {&s.listen, &cfg.Listen}, "state": {&s.state, &cfg.State},
		"policy": {&s.policy, &cfg.Policy.Folder}, "agent": {&s.agent, &cfg.Executor.Agent},
	} {
		if cmd.Flags().Changed(flag) {
			*target.to = *target.from
		}
	}
	if cfg.State == "" {
		if cfg.State, err = stateFolder(os.LookupEnv); err != nil {
			return cfg, err
		}
	}
	return cfg, cfg.validate()
}

func newServe() *cobra.Command {
	var s settings
	var dev bool
	var devCredentials string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Run the gateway until SIGINT or SIGTERM, which stop it in order.

Without any configuration it is a working gateway for one machine: the embedded
policy, the local Docker engine, files in the state folder, and an admin key in
STATE/admin.key.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := s.config(cmd)
			if err != nil {
				return err
			}
			if devCredentials != "" && !dev {
				return usage("--dev-credentials is for trying things out: it needs --dev")
			}
			secrets := &liveSecrets{to: cmd.ErrOrStderr()}
			return serve(cmd.Context(), cfg, appOptions{devCredentials: devCredentials, secrets: secrets}, newLogger(cfg.Log, secrets))
		},
	}
	s.register(cmd)
	cmd.Flags().BoolVar(&dev, "dev", false, "for trying things out: allow what is not for production")
	cmd.Flags().StringVar(&devCredentials, "dev-credentials", "", "with --dev: a file of credentials in the place of a Vault; they have no end and cannot be taken back")
	cmd.Flags().StringVar(&s.listen, "listen", "", "address of the HTTP API (default 127.0.0.1:8080)")
	return cmd
}

// serve runs a gateway until ctx ends. The address is taken last, so that a
// second gateway on one state folder is told about the folder.
func serve(ctx context.Context, cfg Config, options appOptions, logger *slog.Logger) error {
	for _, name := range strangers(os.Environ()) {
		logger.Warn("this variable is not a setting", "variable", name)
	}
	// What is lent is in this process's memory, and so would be in a core of it.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("keep the process from leaving a core: %w", err)
	}
	defer surviveHangups(cfg)()
	a, err := newApp(ctx, cfg, logger, options)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen (another address is named by --listen): %w", err), a.close())
	}
	if at, ok := listener.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() {
		logger.Warn("keys and code travel unencrypted on this address: let a proxy with TLS stand before it, and nothing else reach it", "listen", at.String())
	}
	logger.Info("gateway is starting", "listen", listener.Addr().String(), "state", cfg.State, "gateway", a.state.gateway, "version", version())
	err = a.run(ctx, listener)
	logger.Info("gateway has stopped")
	return err
}
