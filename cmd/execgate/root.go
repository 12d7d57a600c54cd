package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs one command line and returns its exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// The first signal stops in order; a second one kills, as by default.
	ctx, restore := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer restore()
	context.AfterFunc(ctx, restore)

	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if err != nil {
		fmt.Fprintln(stderr, "execgate:", err)
	}
	return codeOf(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "execgate",
		Short: "The gateway through which AI agents run code and call tools",
		Long: `Execgate decides each execution by Rego that you own, runs it in a sandbox that
has no network, and leaves a record that nobody can edit.

Exit codes: 0 done; 2 usage; 69 the gateway or its engine is out of reach;
75 the gateway is busy; 77 denied; 124 timed out; 125 stopped by another limit
or killed; otherwise that of the program, or 1.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see `%s --help`", err, cmd.CommandPath())
	})
	root.AddCommand(newServe(), newRun(), newKeys(), newAudit(), newPolicy(), newVersion())
	return root
}

// args wraps a check of positional arguments, so that its error is one of usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := check(cmd, given); err != nil {
			return usage("%w; see `%s --help`", err, cmd.CommandPath())
		}
		return nil
	}
}
