package main

import (
	"os"

	"github.com/spf13/cobra"
)

// program is what the flags of run say.
type program struct {
	language, image, runtime, session, input, stdin string

	limits, env, files, network, tools, metadata []string
	artifacts                                    string
	output                                       format
	local, decide                                bool
	settings                                     settings
}

// newRun returns the command that runs one program.
func newRun() *cobra.Command {
	var p program
	cmd := &cobra.Command{
		Use:   "run [FILE|-] | run --image NAME -- COMMAND [ARG...]",
		Short: "Run a program in a sandbox",
		Long: `Run the code in FILE, or on standard input, or a command in an image, as
POST /v1/executions does, and pass its output and exit code on. A result is
printed as JSON after the program's output.

The gateway is the one at EXECGATE_URL (default http://127.0.0.1:8080), asked
with the key in EXECGATE_API_KEY. With --local everything happens in this
process, for the operator of this machine.`,
		Example: `  execgate run hello.py
  echo 'result = sum(INPUT_DATA)' | execgate run --input '[1,2,3]'
  execgate run --limit memory_mib=128 --limit timeout_ms=5000 job.py
  execgate run --local --image python -- /usr/bin/python3 --version`,
		RunE: func(cmd *cobra.Command, given []string) error {
			if err := p.onlyLocal(cmd); err != nil {
				return err
			}
			body, err := p.body(cmd, given)
			if err != nil {
				return err
			}
			use := func(c *client) error { return p.send(cmd, c, body) }
			if p.decide {
				use = func(c *client) error { return p.ask(cmd, c, body) }
			}
			if p.local {
				cfg, err := p.settings.config(cmd)
				if err != nil {
					return err
				}
				if p.settings.file == "" && os.Getenv("EXECGATE_LOG_LEVEL") == "" {
					cfg.Log.Level = "error" // the program's own output is what is looked at
				}
				return withLocalGateway(cmd.Context(), cfg, cmd.ErrOrStderr(), use)
			}
			c, err := newClient()
			if err != nil {
				return err
			}
			return use(c)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&p.language, "language", "", "language of the code (default python, or none with a command or a session)")
	flags.StringVar(&p.image, "image", "", "name of the image")
	flags.StringVar(&p.runtime, "runtime", "", "OCI runtime, such as runc")
	flags.StringVar(&p.session, "session", "", "id of an open session to run in; language, image and runtime are its own")
	flags.StringVar(&p.input, "input", "", "JSON value that the program sees as INPUT_DATA; @FILE reads it from a file")
	flags.StringVar(&p.stdin, "stdin", "", "file that is the program's standard input")
	flags.StringArrayVar(&p.limits, "limit", nil, "a limit as name=value, such as memory_mib=256")
	flags.StringArrayVar(&p.env, "env", nil, "a variable as NAME=value")
	flags.StringArrayVar(&p.files, "file", nil, "a file for /workspace, as PATH or NAME=PATH")
	flags.StringArrayVar(&p.network, "network", nil, "a destination as host:port")
	flags.StringArrayVar(&p.tools, "tool", nil, "a tool to use")
	flags.StringArrayVar(&p.metadata, "metadata", nil, "a claim about the request as name=value")
	flags.StringVar(&p.artifacts, "artifacts", "", "folder that artifacts are written to")
	p.output.register(cmd, "text, or json for the whole answer")
	flags.BoolVar(&p.decide, "decide", false, "run nothing: say what policy would, as POST /v1/decisions does")
	flags.BoolVar(&p.local, "local", false, "do everything in this process, without a gateway")
	p.settings.register(cmd)
	for _, name := range []string{"config", "state", "policy", "agent"} {
		cmd.Flags().Lookup(name).Usage += "; only with --local"
	}
	return cmd
}

// onlyLocal refuses settings of a gateway where another one is asked: they would
// do nothing, and a policy that does nothing must not look as if it held.
func (p *program) onlyLocal(cmd *cobra.Command) error {
	for _, name := range []string{"config", "state", "policy", "agent"} {
		if !p.local && cmd.Flags().Changed(name) {
			return usage("--%s is for --local; a running gateway has its own", name)
		}
	}
	return nil
}
