package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// format is how a command prints: text for people, json for programs.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

// register adds the flag --output, which every command that prints has. What
// text means is said by the command.
func (f *format) register(cmd *cobra.Command, help string) {
	*f = formatText
	cmd.Flags().Var(f, "output", help)
	// It fails only where the flag does not exist.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{string(formatText), string(formatJSON)}, cobra.ShellCompDirectiveNoFileComp))
}

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(text string) error {
	switch format(text) {
	case formatText, formatJSON:
		*f = format(text)
		return nil
	}
	return fmt.Errorf("it is one of %s, %s", formatText, formatJSON)
}

// printJSON writes v for people and programs alike.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
