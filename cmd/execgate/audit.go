package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/execgate/execgate/audit/inspection"
	"github.com/spf13/cobra"
)

func newAudit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Check the audit log, and find records in it",
	}
	group(cmd, newAuditVerify(), newAuditQuery(), newAuditTail(), newAuditShow(), newAuditReindex(), newAuditProve(), newAuditExport(), newAuditRotateKey(), newAuditExporters(), newAuditSchema(), newAuditErase(), newAuditShowFull())
	return cmd
}

// auditFolder is the flags by which commands name a log and its public key.
type auditFolder struct{ state, dir, key string }

func (f *auditFolder) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.state, "state", "", "state folder of the gateway whose log it is")
	flags.StringVar(&f.dir, "dir", "", "folder of the log (default STATE/audit)")
	flags.StringVar(&f.key, "key", "", "file with the log's public key (default STATE/keys/audit.pub)")
}

// resolve fills in what was not said.
func (f *auditFolder) resolve() error {
	if f.dir != "" && f.key != "" {
		return nil
	}
	if f.state == "" {
		var err error
		if f.state, err = stateFolder(os.LookupEnv); err != nil {
			return err
		}
	}
	f.dir, f.key = orElse(f.dir, filepath.Join(f.state, "audit")), orElse(f.key, filepath.Join(f.state, "keys", "audit.pub"))
	return nil
}

// open is resolve, and reads the public key.
func (f *auditFolder) open() (verifier string, err error) {
	if err := f.resolve(); err != nil {
		return "", err
	}
	text, err := os.ReadFile(f.key)
	if err != nil {
		return "", usage("read the log's public key: %w", err)
	}
	return string(text), nil
}

func newAuditVerify() *cobra.Command {
	var folder auditFolder
	var request inspection.Request
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
  execgate audit verify --dir COPY --key audit.pub

With --witness the log is also held against what a witness has seen of it. With
--proof or --export that file is checked, and no log is needed. execgate-verify
does the same and nothing else.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file := request.Proof + request.Export
			if file != "" && folder.dir != "" {
				return usage("--dir is a log, and --proof or --export something else: check one of them")
			}
			if err := folder.resolve(); err != nil {
				return err
			}
			request.Key, request.JSON = folder.key, output == formatJSON
			if file == "" {
				request.Dir = folder.dir
			}
			holds, err := inspection.Run(cmd.OutOrStdout(), request)
			if _, ok := errors.AsType[inspection.UsageError](err); ok {
				return usage("%w", err)
			}
			if err != nil {
				return err
			}
			if !holds {
				return exitCode(exitFailed)
			}
			return nil
		},
	}
	folder.register(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&request.Witnesses, "witness", nil, "file with checkpoints that a witness kept; may be repeated")
	flags.StringVar(&request.Proof, "proof", "", "file that audit prove wrote, to be checked in the place of a log")
	flags.StringVar(&request.Export, "export", "", "file that audit export wrote, to be checked in the place of a log")
	output.register(cmd, "text, or json for the whole report")
	return cmd
}

func orElse(value, other string) string {
	if value == "" {
		return other
	}
	return value
}
