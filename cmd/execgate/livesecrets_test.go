package main

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/execgate/execgate/scrub"
)

// A value that is lent is kept out of the log in any form, whatever is logged; others
// are not touched.
func TestLogWithoutWhatIsLent(t *testing.T) {
	const value = "A1a-x7Qw\"Zt9pLr/20"
	for _, format := range logFormats {
		var out strings.Builder
		secrets := &liveSecrets{to: &out}
		logger := newLogger(LogConfig{Format: format}, secrets)
		logger.Error("before", "error", errors.New("the value is "+value))
		if !strings.Contains(out.String(), "A1a-x7Qw") {
			t.Fatal("the log does not say what this test is about")
		}
		out.Reset()
		first, err := scrub.NewSet(value)
		if err != nil {
			t.Fatal(err)
		}
		second, err := scrub.NewSet("another-value")
		if err != nil {
			t.Fatal(err)
		}
		secrets.Add("ex_1", first)
		secrets.Add("ex_2", second)
		logger.Error("while it is lent", "error", errors.New("the value is "+value), "encoded", base64.StdEncoding.EncodeToString([]byte(value)), "other", "another-value", "id", "ex_1")
		secrets.Remove("ex_1") // it may be spoken of a while longer
		logger.Error("at its end", "error", errors.New(value))
		got := out.String()
		if strings.Contains(got, "A1a-x7Qw") || strings.Contains(got, "QTFhLXg3UX") || strings.Contains(got, "another-value") {
			t.Errorf("%s: the log holds a value: %s", format, got)
		}
		if !strings.Contains(got, "ex_1") || !strings.Contains(got, "while it is lent") || strings.Count(got, "\n") != 2 {
			t.Errorf("%s: the log lost what is no value: %s", format, got)
		}
	}
}
