package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
	"github.com/spf13/cobra"
)

func newAuditShowFull() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "show-full EXECUTION",
		Short: "Print what is kept encrypted of an execution or a session",
		Long: `Decrypt and print as JSON what policy was asked about an execution, or a session,
and what it answered; and, where the obligation record_full was made, the
request, and the output as the caller has it. What stands in the log by its
digest is held against that: "recorded" says whether it is what was recorded.

It reads the state folder and the keys in it: it is for the gateway's operator, on
the gateway's machine. That it was read is recorded first, and nothing is shown where
that fails: by the gateway at EXECGATE_URL, with the key of an auditor of the tenant
default, where one is at work in the folder; else here, for which the gateway's
configuration is needed where that names witnesses.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			cfg, err := s.config(cmd)
			if err != nil {
				return err
			}
			full, err := readFull(cmd.Context(), cfg.State, given[0])
			if err != nil {
				return err
			}
			if err := recordShown(cmd.Context(), cfg, full, newLogger(cfg.Log, cmd.ErrOrStderr())); err != nil {
				return fmt.Errorf("nothing is shown that is not recorded first: %w", err)
			}
			return printRecords(cmd.OutOrStdout(), full, true)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.state, "state", "", "state folder of the gateway; it may be at work")
	flags.StringVar(&s.file, "config", "", "configuration file of the gateway: it may name witnesses")
	return cmd
}

// fullExecution is all that is kept of an execution.
type fullExecution struct {
	Execution string        `json:"execution"`
	Tenant    string        `json:"tenant"`
	Subject   string        `json:"subject"`
	Decisions []fullPart    `json:"decisions"`
	Request   *fullMaterial `json:"request,omitempty"`
	Output    *fullMaterial `json:"output,omitempty"`
}

// fullPart is what policy was asked and answered, once.
type fullPart struct {
	Seq      uint64          `json:"seq"`
	Time     time.Time       `json:"time"`
	Missing  string          `json:"missing,omitempty"`  // why it is not here: input_erased or input_unreadable
	Recorded string          `json:"recorded,omitempty"` // how it compares with the record, see recordedAs
	Input    json.RawMessage `json:"input,omitempty"`
	Answer   json.RawMessage `json:"answer,omitempty"`
}

// fullMaterial is a request or an output.
type fullMaterial struct {
	Missing string          `json:"missing,omitempty"` // as of fullPart
	SHA256  string          `json:"sha256,omitempty"`  // of a request: request_sha256 of its record
	Content json.RawMessage `json:"content,omitempty"`
}

// readFull fails with exit code 1 where nothing was ever kept of id, or not any more.
func readFull(ctx context.Context, state, id string) (*fullExecution, error) {
	reader, err := openRecordedInputs(ctx, state)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	inputs, materials, err := reader.OfExecution(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(inputs)+len(materials) == 0 {
		return nil, fmt.Errorf("nothing is kept of %.100q: it is no execution or session of this gateway, or was forgotten", id)
	}
	full := &fullExecution{Execution: id, Decisions: []fullPart{}}
	if len(inputs) > 0 {
		recorded, err := readDigests(state, inputs[0].Time)
		if err != nil {
			return nil, err
		}
		for _, sealed := range inputs {
			full.Tenant, full.Subject = sealed.Tenant, sealed.Subject
			part := fullPart{Seq: sealed.Seq, Time: sealed.Time}
			in, err := sealed.Open(ctx)
			if part.Missing, err = missing(err); err != nil {
				return nil, err
			}
			if part.Missing == "" {
				part.Input, part.Answer, part.Recorded = in.Asked, in.Answered, recordedAs(recorded, in)
			}
			full.Decisions = append(full.Decisions, part)
		}
	}
	for _, sealed := range materials {
		full.Tenant, full.Subject = sealed.Tenant, sealed.Subject
		m, err := sealed.Open(ctx)
		material := &fullMaterial{}
		if material.Missing, err = missing(err); err != nil {
			return nil, err
		}
		if material.Missing == "" {
			material.SHA256 = execution.HexSHA256(m.Content)
			if material.Content, err = readable(m); err != nil {
				return nil, err
			}
		}
		if sealed.Part == store.PartOutput {
			full.Output = material
		} else {
			full.Request = material
		}
	}
	return full, nil
}

// missing is why something that is kept cannot be opened, or the error that says
// nothing of that.
func missing(err error) (string, error) {
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Kind == execution.KindGone {
		return e.Code, nil
	}
	return "", err
}

// recordedAs says how an input compares with its record: matches, input_differs,
// record_missing, or not_compared where the record is gone or has no digest.
func recordedAs(recorded *recordedDigests, in store.Input) string {
	if err := recorded.check(in); err != nil {
		return recordedInputs{}.Why(err)
	}
	if recorded.of[in.Seq] == [16]byte{} {
		return "not_compared"
	}
	return "matches"
}

// readable is a material as people read it: output that is text is shown as text.
func readable(m store.Material) (json.RawMessage, error) {
	if m.Part != store.PartOutput {
		return m.Content, nil
	}
	var output map[string]json.RawMessage
	if err := json.Unmarshal(m.Content, &output); err != nil {
		return nil, fmt.Errorf("read the output: %w", err)
	}
	for _, stream := range []string{"stdout", "stderr"} {
		var written []byte
		if err := json.Unmarshal(output[stream], &written); err != nil {
			return nil, fmt.Errorf("read the output: %w", err)
		}
		if !utf8.Valid(written) {
			output[stream+"_base64"] = output[stream]
			delete(output, stream)
			continue
		}
		text, err := json.Marshal(string(written))
		if err != nil {
			return nil, err
		}
		output[stream] = text
	}
	return json.Marshal(output)
}
