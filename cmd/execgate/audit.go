package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/execgate/execgate/audit"
	"github.com/spf13/cobra"
)

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check the audit log",
	}
	group(cmd, newAuditVerify(), newAuditExporters(), newAuditSchema(), newAuditErase(), newAuditShowFull())
	return cmd
}

func newAuditVerify() *cobra.Command {
	var state, dir, key string
	var output format
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the log is intact and complete",
		Long: `Check every frame, number and signature of an audit log.

Integrity says that what is there is what was written. Completeness says that
nothing is missing: no segment, no end of a decision, no signature over the last
records; of a log in use it may be false for a second. The exit code is 0 where
both hold.

A copy of the log is checked with nothing but the public key:
  execgate audit verify --dir COPY --key audit.pub`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" || key == "" {
				if state == "" {
					var err error
					if state, err = stateFolder(os.LookupEnv); err != nil {
						return err
					}
				}
				dir, key = orElse(dir, filepath.Join(state, "audit")), orElse(key, filepath.Join(state, "keys", "audit.pub"))
			}
			verifier, err := os.ReadFile(key)
			if err != nil {
				return usage("read the log's public key: %w", err)
			}
			report, err := audit.Verify(dir, string(verifier))
			if err != nil {
				return err
			}
			if output == formatJSON {
				if err := printJSON(cmd.OutOrStdout(), report); err != nil {
					return err
				}
			} else {
				showReport(cmd.OutOrStdout(), report)
			}
			if !report.Integrity.OK || !report.Completeness.OK {
				return exitCode(exitFailed)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&state, "state", "", "state folder of the gateway whose log it is")
	flags.StringVar(&dir, "dir", "", "folder of the log (default STATE/audit)")
	flags.StringVar(&key, "key", "", "file with the log's public key (default STATE/keys/audit.pub)")
	output.register(cmd, "text, or json for the whole report")
	return cmd
}

func orElse(value, other string) string {
	if value == "" {
		return other
	}
	return value
}

func showReport(w io.Writer, r audit.Report) {
	fmt.Fprintf(w, "log           %s\n", r.Origin)
	fmt.Fprintf(w, "records       %d in %d segments, %d decisions that allowed, %d ends\n", r.Records, r.Segments, r.Decided, r.Ended)
	fmt.Fprintf(w, "tree          size %d, root %s, signed up to %d\n", r.TreeSize, r.Root, r.Covered)
	for _, verdict := range []struct {
		name string
		audit.Verdict
	}{{"integrity", r.Integrity}, {"completeness", r.Completeness}} {
		word := "holds"
		if !verdict.OK {
			word = "BROKEN"
		}
		fmt.Fprintf(w, "%-13s %s\n", verdict.name, word)
		for _, f := range verdict.Findings {
			fmt.Fprintf(w, "  %s\n", f)
		}
		if verdict.Omitted > 0 {
			fmt.Fprintf(w, "  and %d more\n", verdict.Omitted)
		}
		for _, f := range verdict.Notes {
			fmt.Fprintf(w, "  note: %s\n", f)
		}
	}
}
