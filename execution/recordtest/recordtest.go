// Package recordtest holds the records that tests write against the schema that
// ships.
package recordtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/execgate/execgate/execution"
)

// schema is compiled once, with formats checked.
var schema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(execution.RecordSchema))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("record.schema.json", document); err != nil {
		return nil, err
	}
	return c.Compile("record.schema.json")
})

// Check fails the test where rec is not what execution.RecordSchema describes. Of a
// record that no log has numbered yet the version is taken as set.
func Check(t testing.TB, rec execution.Record) {
	t.Helper()
	if err := Problem(rec); err != nil {
		t.Error(err)
	}
}

// Problem is what Check reports; nil where rec is as it must be.
func Problem(rec execution.Record) error {
	if rec.V == 0 {
		rec.V = execution.RecordVersion
	}
	compiled, err := schema()
	if err != nil {
		return err
	}
	text, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	if err := compiled.Validate(value); err != nil {
		return fmt.Errorf("a record is not what its schema says: %w\n%s", err, text)
	}
	return nil
}

// Checked checks what the recorders of a package's tests are given, which know of no
// test. The zero Checked is ready for use.
type Checked struct {
	mu       sync.Mutex
	problems []error
}

// Add checks one record.
func (c *Checked) Add(rec execution.Record) {
	if err := Problem(rec); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.problems = append(c.problems, err)
	}
}

// Run runs the tests, for TestMain, and returns the exit code: a failure also where a
// record was not what it must be.
func (c *Checked) Run(m *testing.M) int {
	code := m.Run()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, err := range c.problems[:min(len(c.problems), 20)] {
		fmt.Fprintln(os.Stderr, "FAIL:", err)
	}
	if len(c.problems) > 0 {
		return max(code, 1)
	}
	return code
}
