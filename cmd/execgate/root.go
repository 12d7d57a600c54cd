package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// untilSignal returns a context that the first signal ends, so that all stops in order;
// a second one kills, as by default. It does so before anything shows that there was a
// first: else one in between would be lost. restore has the first kill too.
func untilSignal(ctx context.Context) (_ context.Context, restore func()) {
	ctx, stop := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	restored := make(chan struct{})
	go func() {
		defer close(restored)
		select {
		case first := <-signals:
			signal.Stop(signals)
			stop(fmt.Errorf("%s signal received", first))
		case <-ctx.Done():
			signal.Stop(signals)
			return
		}
		select {
		case second := <-signals: // came with the first
			_ = syscall.Kill(syscall.Getpid(), second.(syscall.Signal)) // to oneself it does not fail
		default:
		}
	}()
	return ctx, func() {
		stop(nil)
		<-restored
	}
}

// Main runs one command line and returns its exit code.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, restore := untilSignal(ctx)
	defer restore()

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

// newRoot returns the tree of commands. It is made anew for each command line,
// because flags keep what they were set to.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "execgate",
		Short: "The gateway through which AI agents run code",
		Long: `Execgate decides each execution by Rego that you own, runs it in a sandbox that
has no network, and leaves a record that nobody can edit.

Exit codes: 0 done; 1 failed; 2 the command line, the configuration or the
request is wrong; 3 a replay found what it was to fail on; 69 the gateway, its engine, its log or its state folder is not
to be had; 75 the gateway is busy, or the
request awaits approval; 77 denied, or the key is not accepted; 124
timed out; 125 stopped by another limit or killed; 130 interrupted. The exit
code of a program that ended by itself is passed on.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	group(root, newServe(), newRun(), newKeys(), newApprovalsCommand(), newTools(), newAudit(), newUsage(), newPolicy(), newImage(), newVersion(), newPolicyWorker())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w; see `%s --help`", err, cmd.CommandPath())
	})
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

// group makes cmd the head of commands, which does nothing by itself.
func group(cmd *cobra.Command, commands ...*cobra.Command) {
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if len(given) == 0 {
			return nil
		}
		advice := ""
		if alike := cmd.SuggestionsFor(given[0]); len(alike) > 0 {
			advice = "; did you mean " + strings.Join(alike, " or ") + "?"
		}
		return usage("unknown command %q for %q%s; see `%[2]s --help`", given[0], cmd.CommandPath(), advice)
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(commands...)
}

// required makes flags required. Cobra's own check would not be an error of
// usage.
func required(cmd *cobra.Command, names ...string) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		for _, name := range names {
			if !cmd.Flags().Changed(name) {
				return usage("--%s is missing; see `%s --help`", name, cmd.CommandPath())
			}
		}
		return run(cmd, given)
	}
}
