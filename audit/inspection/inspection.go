// Package inspection checks audit logs, proofs and exports for a person: it is what
// execgate audit verify and execgate-verify have in common.
package inspection

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/execgate/execgate/audit"
)

// maxProof bounds a proof: it has one record, of 1 MiB at most.
const maxProof = 16 << 20

// Request says what is checked, with the public key in the file Key: one of Dir,
// Proof and Export.
type Request struct {
	Key string
	// Dir is the folder of a log, or of a copy of one; Witnesses are files with
	// checkpoints of it, which it is held against.
	Dir       string
	Witnesses []string
	// Proof and Export are files that audit prove and audit export wrote.
	Proof, Export string
	// JSON prints the whole report, and not text for a person.
	JSON bool
}

// UsageError says that the request makes no sense, or names what cannot be read.
type UsageError struct{ error }

// Unwrap returns the cause.
func (e UsageError) Unwrap() error { return e.error }

// Run checks what r names, prints what came of it, and reports whether it holds.
// The error says that it could not be checked.
func Run(w io.Writer, r Request) (holds bool, err error) {
	named := 0
	for _, name := range []string{r.Dir, r.Proof, r.Export} {
		if name != "" {
			named++
		}
	}
	if named != 1 {
		return false, UsageError{errors.New("name one thing to check: a log's folder, a proof or an export")}
	}
	if len(r.Witnesses) > 0 && r.Dir == "" {
		return false, UsageError{errors.New("a witness is something to hold a log's folder against, and there is none")}
	}
	key, err := os.ReadFile(r.Key)
	if err != nil {
		return false, UsageError{fmt.Errorf("read the log's public key: %w", err)}
	}
	if r.Dir != "" {
		report, err := audit.Verify(r.Dir, string(key), r.Witnesses...)
		if err != nil {
			return false, err
		}
		return report.Integrity.OK && report.Completeness.OK, r.print(w, report, func() { showLog(w, report) })
	}
	report, err := r.checkFile(string(key))
	if err != nil {
		return false, err
	}
	return report.Integrity.OK, r.print(w, report, func() { showProof(w, report) })
}

// checkFile checks a proof or an export.
func (r Request) checkFile(key string) (report audit.ProofReport, err error) {
	name := r.Proof + r.Export
	f, err := os.Open(name)
	if err != nil {
		return report, UsageError{fmt.Errorf("read what is to be checked: %w", err)}
	}
	defer f.Close()
	if r.Export != "" {
		return audit.CheckExport(f, key)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxProof))
	if err != nil {
		return report, fmt.Errorf("read the proof: %w", err)
	}
	return audit.CheckProof(data, key)
}

func (r Request) print(w io.Writer, report any, show func()) error {
	if !r.JSON {
		show()
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	_, err = w.Write(append(TerminalJSON(text), '\n'))
	return err
}

func showLog(w io.Writer, r audit.Report) {
	fmt.Fprintf(w, "log           %s\n", r.Origin)
	fmt.Fprintf(w, "records       %d in %d segments, %d decisions that allowed, %d ends\n", r.Records, r.Segments, r.Decided, r.Ended)
	fmt.Fprintf(w, "tree          size %d, root %s, signed up to %d\n", r.TreeSize, r.Root, r.Covered)
	if r.Witnessed > 0 {
		fmt.Fprintf(w, "witnessed     up to %d\n", r.Witnessed)
	}
	for _, key := range r.Keys {
		switch {
		case key.Until > 0:
			fmt.Fprintf(w, "key           %s, up to %d records\n", key.Key, key.Until)
		case len(r.Keys) > 1:
			fmt.Fprintf(w, "key           %s, now\n", key.Key)
		}
	}
	showVerdict(w, "integrity", r.Integrity)
	showVerdict(w, "completeness", r.Completeness)
}

func showProof(w io.Writer, r audit.ProofReport) {
	fmt.Fprintf(w, "log           %s\n", r.Origin)
	if r.Integrity.OK {
		fmt.Fprintf(w, "checkpoint    of %d records\n", r.Size)
		switch {
		case r.Records == 1 && r.Redacted:
			fmt.Fprintf(w, "record        %d, not shown\n", r.First)
		case r.Record != nil:
			fmt.Fprintf(w, "record        %s\n", TerminalJSON(r.Record))
		case r.Records+r.Voids > 0:
			fmt.Fprintf(w, "records       %d to %d, complete; %d of the numbers are void\n", r.First, r.Last, r.Voids)
		}
		if r.ExtendsSize > 0 {
			fmt.Fprintf(w, "extends       the checkpoint of %d records\n", r.ExtendsSize)
		}
	}
	showVerdict(w, "integrity", r.Integrity)
}

func showVerdict(w io.Writer, name string, v audit.Verdict) {
	word := "holds"
	if !v.OK {
		word = "BROKEN"
	}
	fmt.Fprintf(w, "%-13s %s\n", name, word)
	for _, f := range v.Findings {
		fmt.Fprintf(w, "  %s\n", f)
	}
	if v.Omitted > 0 {
		fmt.Fprintf(w, "  and %d more\n", v.Omitted)
	}
	for _, f := range v.Notes {
		fmt.Fprintf(w, "  note: %s\n", f)
	}
}
