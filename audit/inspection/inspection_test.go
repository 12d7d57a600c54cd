package inspection

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
)

// What a caller put into a record is proven as it is, and shown so that no terminal
// obeys it.
func TestHostileRecordIsShownHarmlessly(t *testing.T) {
	const hostile = "a\u009b2J\u202eb\u007f\U000e0041é"
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	log, err := audit.New(audit.Config{Dir: at("audit"), KeyDir: at("keys"), SegmentBytes: 1 << 20, Budget: time.Minute}) // a busy disk is no finding
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	seq, err := log.Append(ctx, execution.Record{Type: execution.RecordKeyCreated, Key: &execution.KeyChange{ID: "ak_1", Tenant: hostile}})
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	proof, err := audit.Prove(at("audit"), log.Verifier(), audit.ProveOptions{Seq: &seq})
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := proof.Encode(&text); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"key": []byte(log.Verifier()), "proof": text.Bytes()} {
		if err := os.WriteFile(at(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, asJSON := range []bool{false, true} {
		var shown bytes.Buffer
		holds, err := Run(&shown, Request{Key: at("key"), Proof: at("proof"), JSON: asJSON})
		if err != nil || !holds {
			t.Fatalf("%v: %s", err, shown.Bytes())
		}
		if i := strings.IndexAny(shown.String(), "\u009b\u202e\u007f\U000e0041"); i >= 0 || !strings.Contains(shown.String(), "é") {
			t.Errorf("JSON %v: shown as %q", asJSON, shown.String())
		}
		var report struct {
			Record execution.Record `json:"record"`
		}
		if asJSON {
			if err := json.Unmarshal(shown.Bytes(), &report); err != nil || report.Record.Key.Tenant != hostile {
				t.Errorf("it says another thing: %v, %+v", err, report)
			}
		}
	}
}
