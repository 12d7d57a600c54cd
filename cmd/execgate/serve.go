package main

import (
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"
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

// config joins flags, environment, file and defaults.
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
		cfg.State, err = stateFolder(os.LookupEnv)
	}
	return cfg, err
}

func newServe() *cobra.Command {
	var s settings
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
			logger, err := newLogger(cfg.Log, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			listener, err := net.Listen("tcp", cfg.Listen)
			if err != nil {
				return fmt.Errorf("listen: %w", err)
			}
			defer listener.Close()
			a, err := newApp(cmd.Context(), cfg, logger, nil)
			if err != nil {
				return err
			}
			logger.Info("gateway is starting", "listen", listener.Addr().String(), "state", cfg.State, "gateway", a.state.gateway, "version", version())
			err = a.run(cmd.Context(), listener)
			logger.Info("gateway has stopped")
			return err
		},
	}
	s.register(cmd)
	cmd.Flags().StringVar(&s.listen, "listen", "", "address of the HTTP API (default 127.0.0.1:8080)")
	return cmd
}
