package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/execgate/execgate/audit"
	"github.com/spf13/cobra"
)

func newAuditProve() *cobra.Command {
	var folder auditFolder
	var from, checkpoint, out string
	var redacted bool
	cmd := &cobra.Command{
		Use:   "prove [SEQ]",
		Short: "Write a proof that a record is in the log, or that the log extends an earlier one",
		Long: `Write a proof that anybody can check with the log's public key, without the log:
that the record with the number SEQ is in it, that it extends what it was at an
earlier checkpoint (--from), or both.

The log may be in use, or a copy. What was recorded in the last second is not
signed yet, and has no proof. A redacted proof does not show the record, only its
salted digest.`,
		Example: `  execgate audit prove 17 --out proof.json
  execgate audit verify --proof proof.json --key audit.pub`,
		Args: args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			o := audit.ProveOptions{Redacted: redacted}
			if len(given) > 0 {
				seq, err := strconv.ParseUint(given[0], 10, 64)
				if err != nil {
					return usage("%q is not the number of a record", given[0])
				}
				o.Seq = &seq
			}
			if o.Seq == nil && from == "" {
				return usage("name the number of a record, or an earlier checkpoint by --from; see `%s --help`", cmd.CommandPath())
			}
			verifier, err := folder.open()
			if err != nil {
				return err
			}
			if o.From, err = readCheckpoint(from); err != nil {
				return err
			}
			if o.Checkpoint, err = readCheckpoint(checkpoint); err != nil {
				return err
			}
			proof, err := audit.Prove(folder.dir, verifier, o)
			if err != nil {
				return err
			}
			return writeOut(cmd, out, proof.Encode)
		},
	}
	folder.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "file with an earlier checkpoint, which the log is proven to extend")
	flags.StringVar(&checkpoint, "checkpoint", "", "file with the checkpoint to prove against (default the log's latest)")
	flags.BoolVar(&redacted, "redacted", false, "leave the record's content out")
	flags.StringVar(&out, "out", "", "file to write (default standard output)")
	return cmd
}

// readCheckpoint reads a checkpoint that a flag names; nil where none is named.
func readCheckpoint(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, usage("read the checkpoint: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return nil, usage("read the checkpoint: %w", err)
	}
	return data, nil
}

// writeOut lets write write to the file that --out names, which is there only if
// all of it was written, or to standard output.
func writeOut(cmd *cobra.Command, path string, write func(io.Writer) error) error {
	if path == "" {
		w := bufio.NewWriter(cmd.OutOrStdout())
		return errors.Join(write(w), w.Flush())
	}
	partial := path + ".part"
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return os.Rename(partial, path)
}
