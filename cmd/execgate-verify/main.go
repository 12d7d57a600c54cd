// Command execgate-verify checks audit logs of Execgate, proofs and exports of
// them, with nothing but the log's public key. It needs no gateway, no network and
// no state, and does what execgate audit verify does.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/execgate/execgate/audit/inspection"
)

// Exit codes, those of execgate.
const (
	exitFailed = 1
	exitUsage  = 2
)

const help = `Check an audit log of Execgate, a proof or an export, with its public key alone.

  execgate-verify --key audit.pub --dir FOLDER [--witness FILE]...
  execgate-verify --key audit.pub --proof FILE
  execgate-verify --key audit.pub --export FILE

Exit codes: 0 it holds; 1 it does not, or could not be read; 2 the command line is
wrong.

`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var r inspection.Request
	flags := flag.NewFlagSet("execgate-verify", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), help)
		flags.PrintDefaults()
	}
	flags.StringVar(&r.Key, "key", "", "`file` with a public key that the log has or had")
	flags.StringVar(&r.Dir, "dir", "", "`folder` of the log, or of a copy of it")
	flags.StringVar(&r.Proof, "proof", "", "`file` that execgate audit prove wrote")
	flags.StringVar(&r.Export, "export", "", "`file` that execgate audit export wrote")
	flags.Func("witness", "`file` of a witness to hold the log against; may be repeated", func(path string) error {
		r.Witnesses = append(r.Witnesses, path)
		return nil
	})
	flags.BoolFunc("json", "print the whole report as JSON", func(string) error { r.JSON = true; return nil })
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return exitUsage
	case flags.NArg() > 0 || r.Key == "":
		flags.Usage()
		return exitUsage
	}
	holds, err := inspection.Run(stdout, r)
	if err != nil {
		fmt.Fprintln(stderr, "execgate-verify:", err)
		if _, ok := errors.AsType[inspection.UsageError](err); ok {
			return exitUsage
		}
		return exitFailed
	}
	if !holds {
		return exitFailed
	}
	return 0
}
