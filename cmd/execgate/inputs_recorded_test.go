package main

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/store"
)

// What is kept is held against the log: whoever has the keys of the inputs can write
// others, and it shows.
func TestInputsAreHeldAgainstTheLog(t *testing.T) {
	state, log, _ := newLog(t)
	ask, answer := `{"v":1}`, `{"effect":"allow"}`
	begin := time.Now().Add(-time.Minute)
	add := func(input, answer string) uint64 {
		seq, err := log.Append(t.Context(), execution.Record{
			Type: execution.RecordDecided, Decided: &execution.Decided{
				RequestSHA256: execution.HexSHA256(nil), InputSHA256: input, AnswerSHA256: answer,
				Decision: execution.Deny("sha256:rev", execution.Reason{Code: "no"}),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return seq
	}
	digests := [2]string{execution.HexSHA256([]byte(ask)), execution.HexSHA256([]byte(answer))}
	good := add(digests[0], digests[1])
	if _, err := log.Append(t.Context(), execution.Record{Type: execution.RecordKeyRevoked, Key: &execution.KeyChange{Roles: []execution.Role{}}}); err != nil {
		t.Fatal(err)
	}
	old := add("", "")
	recorded, err := readDigests(state, begin)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		seq         uint64
		ask, answer string
		code        string
	}{
		"as recorded":     {good, ask, answer, ""},
		"another input":   {good, `{"v":2}`, answer, whyInputDiffers},
		"another answer":  {good, ask, `{"effect":"deny"}`, whyInputDiffers},
		"no decision":     {good + 1, ask, answer, whyRecordMissing},
		"from before":     {old, "anything", answer, ""},
		"after the log":   {old + 1, ask, answer, ""},
		"parts displaced": {good, ask + answer, "", whyInputDiffers},
	} {
		err := recorded.check(store.Input{Seq: test.seq, Asked: []byte(test.ask), Answered: []byte(test.answer)})
		if got := (recordedInputs{}).Why(err); (err == nil) != (test.code == "") || err != nil && got != test.code {
			t.Errorf("%s: %v, want %q", name, err, test.code)
		}
	}
	none, err := readDigests(t.TempDir(), begin)
	if err != nil || none.check(store.Input{Seq: 7}) != nil {
		t.Errorf("without a log: %v", err)
	}
}

// newLog is a log that runs, in a state folder of its own, until it is stopped.
func newLog(t *testing.T) (state string, log *audit.Log, stop func()) {
	t.Helper()
	state = t.TempDir()
	log, err := audit.New(audit.Config{Dir: filepath.Join(state, "audit"), KeyDir: filepath.Join(state, "keys"), SegmentBytes: 8 << 20, Budget: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- log.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		end()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return state, log, stop
}
