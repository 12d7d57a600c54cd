package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// What one obligation redacts, another does not bring back, wherever its patterns begin
// and end: in the result, and in the stream wherever that is cut.
func TestObligationsRedactEachForItself(t *testing.T) {
	const text = "the key is AKIA1234 and more"
	for name, other := range map[string]string{
		"before": " A", "within": "KI", "at its end": "4 a", "all of it and more": "is AKIA1234 and", "elsewhere": "more",
	} {
		t.Run(name, func(t *testing.T) {
			all, err := newRedactions([][]string{{"AKIA[0-9]{4}"}, {other}})
			if err != nil {
				t.Fatal(err)
			}
			value, _ := json.Marshal(text)
			out := all.result(execution.Result{Stdout: []byte(text), Stderr: []byte(text), Value: value, ValueError: text})
			for _, got := range []string{string(out.Stdout), string(out.Stderr), string(out.Value), out.ValueError} {
				if strings.Contains(got, "KIA") || strings.Contains(got, "1234") || !strings.Contains(got, redacted) {
					t.Errorf("%q", got)
				}
			}
			for step := range len(text) {
				var told []byte
				events := all.events(func(e execution.Event) error { told = append(told, e.Data...); return nil })
				for rest := []byte(text); len(rest) > 0; {
					n := min(step+1, len(rest))
					if err := events.add(execution.Event{Type: execution.EventStdout, Data: rest[:n]}); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := events.rest(execution.Truncated{}); err != nil {
					t.Fatal(err)
				}
				if string(told) != string(out.Stdout) {
					t.Errorf("in pieces of %d: %q, want %q", step+1, told, out.Stdout)
				}
			}
		})
	}
}

// The bounds are those of all together: a tenant's obligations do not multiply them.
func TestBoundsOfManyObligations(t *testing.T) {
	var many [][]string
	for range maxPatterns + 1 {
		many = append(many, []string{"a"})
	}
	if _, err := newRedactions(many); err == nil {
		t.Errorf("%d obligations are taken", len(many))
	}
}
