package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/spf13/cobra"
)

func newAuditExport() *cobra.Command {
	var folder auditFolder
	var from, to, checkpoint, out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write records as JSON lines, with the proof that none is missing or altered",
		Long: `Write the records from one number or time to another, both included, as JSON lines
that anybody can check with the log's public key, without the log: that the records
are all that stand between the two numbers, and as they were written.

The first line holds the signed checkpoint, the last one the rest of the proof.
Each line between them has a record as its "record". A range of times is the
smallest range of numbers with every record of that time.`,
		Example: `  execgate audit export --from 2026-05-01T00:00:00Z --to 2026-05-31T23:59:59Z --out may.jsonl
  execgate audit verify --export may.jsonl --key audit.pub`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var r audit.Range
			var err error
			if r.From, r.FromTime, err = parseBound("--from", from); err != nil {
				return err
			}
			if r.To, r.ToTime, err = parseBound("--to", to); err != nil {
				return err
			}
			if r.Checkpoint, err = readCheckpoint(checkpoint); err != nil {
				return err
			}
			verifier, err := folder.open()
			if err != nil {
				return err
			}
			var s audit.ExportSummary
			err = writeOut(cmd, out, func(w io.Writer) (err error) {
				s, err = audit.Export(w, folder.dir, verifier, r)
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "records %d to %d, proven by the checkpoint of %d records\n", s.From, s.To, s.Size)
			return nil
		},
	}
	folder.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "number of the first record, or a time (default the log's beginning)")
	flags.StringVar(&to, "to", "", "number of the last record, or a time (default the last that is signed)")
	flags.StringVar(&checkpoint, "checkpoint", "", "file with the checkpoint to prove against (default the log's latest)")
	flags.StringVar(&out, "out", "", "file to write (default standard output)")
	return cmd
}

// parseBound reads one end of a range: a number, a time (RFC 3339), or nothing.
func parseBound(flag, text string) (seq *uint64, at time.Time, err error) {
	if text == "" {
		return nil, at, nil
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return &n, at, nil
	}
	if at, err = time.Parse(time.RFC3339Nano, text); err != nil {
		return nil, at, usage("%s is %q: it must be the number of a record, or a time such as 2026-05-01T00:00:00Z", flag, text)
	}
	return nil, at, nil
}
