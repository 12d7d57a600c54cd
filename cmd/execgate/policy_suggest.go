package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

// maxSuggested bounds how many records of one execution are looked at: no budget that
// makes sense allows more.
const maxSuggested = 1_000_000

func newPolicySuggest() *cobra.Command {
	var state, dir, id string
	cmd := &cobra.Command{
		Use:   "suggest",
		Short: "Print the network rules that a recorded run would have needed",
		Long: `Read in the audit log what one execution sent out, or tried to, and print the
rules for it: a fragment of the policy's data.json, network of the tenant.

The rules are as tight as the records allow: exact hosts, the ports, methods and
paths that were used, private where the address was. What is certain and what a
person has to judge stands on standard error, in lines that begin with #. A run
shows what a program did, not what it should do: read the rules before they are
put in force.

It reads the state folder and changes nothing there. It checks no signatures;
"execgate audit verify" does.`,
		Example: `  execgate policy suggest --execution ex_01M84Z3F8X42WYJRJ8DAKSXPXV >network.json`,
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id == "" {
				return usage("--execution is missing: name the execution whose records are to be read")
			}
			if dir == "" {
				if state == "" {
					var err error
					if state, err = stateFolder(os.LookupEnv); err != nil {
						return err
					}
				}
				dir = filepath.Join(state, "audit")
			}
			sent, err := readSent(dir, id)
			if err != nil {
				return err
			}
			s := suggest(sent)
			for _, note := range s.notes {
				if _, err := fmt.Fprintln(cmd.ErrOrStderr(), "# "+note); err != nil {
					return fmt.Errorf("print the notes: %w", err)
				}
			}
			if err := printJSON(cmd.OutOrStdout(), s.fragment(sent.tenant)); err != nil {
				return fmt.Errorf("print the rules: %w", err)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&id, "execution", "", "id of the execution")
	flags.StringVar(&state, "state", "", "state folder of the gateway; it may be at work")
	flags.StringVar(&dir, "dir", "", "folder of the log (default STATE/audit)")
	return cmd
}

// sent is what the log says of one execution.
type sent struct {
	tenant  string
	asked   []execution.Destination // in its request
	denied  bool                    // the execution itself
	decided []execution.Record      // of RecordEgressDecided
	ended   map[uint64]execution.Record
	over    bool // there is the execution's end
}

// readSent reads the records of an execution.
func readSent(dir, id string) (sent, error) {
	s := sent{ended: make(map[uint64]execution.Record)}
	for record, err := range audit.Read(dir) {
		if err != nil {
			return sent{}, err
		}
		if record.Execution != id {
			continue
		}
		if record.Principal != nil {
			s.tenant = record.Principal.Tenant
		}
		switch {
		case record.Decided != nil:
			s.asked, s.denied = record.Decided.Network, !record.Decided.Decision.Allowed()
		case record.EgressDecided != nil:
			if s.decided = append(s.decided, record); len(s.decided) > maxSuggested {
				return sent{}, fmt.Errorf("the execution %s has more than %d records of what it sent out", id, maxSuggested)
			}
		case record.EgressEnded != nil:
			s.ended[record.EgressEnded.DecidedSeq] = record
		case record.Ended != nil:
			s.over = true
		}
	}
	if s.tenant == "" {
		return sent{}, usage("the log in %s has no record of the execution %q", dir, id)
	}
	return s, nil
}
