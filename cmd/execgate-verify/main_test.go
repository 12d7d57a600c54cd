package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/audit/witness"
	"github.com/execgate/execgate/execution"
)

// The verifier checks what execgate writes, and its exit codes are execgate's.
func TestVerifier(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	kept, err := witness.NewFile(at("witness"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.New(audit.Config{Dir: at("audit"), KeyDir: at("keys"), SegmentBytes: 1 << 20, Budget: time.Minute, Witnesses: []audit.Witness{kept}}) // a busy disk is no finding
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	for range 5 {
		_, appendErr := log.Append(ctx, execution.Record{Type: execution.RecordKeyCreated, Key: &execution.KeyChange{ID: "ak_1", Tenant: "acme"}})
		err = errors.Join(err, appendErr)
	}
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	key, seq := log.Verifier(), uint64(2)
	proof, err := audit.Prove(at("audit"), key, audit.ProveOptions{Seq: &seq})
	if err != nil {
		t.Fatal(err)
	}
	var text, export bytes.Buffer
	_, exportErr := audit.Export(&export, at("audit"), key, audit.Range{})
	if err := errors.Join(proof.Encode(&text), exportErr); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"proof": text.Bytes(), "export": export.Bytes(), "key": []byte(key + "\n"),
		"altered proof":  bytes.Replace(text.Bytes(), []byte("acme"), []byte("evil"), 1),
		"altered export": bytes.Replace(export.Bytes(), []byte("acme"), []byte("evil"), 1),
		"empty witness":  nil,
	} {
		if err := os.WriteFile(at(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args string
		code int
		want string // on either output
	}{
		{"--dir audit --key key", 0, "completeness  holds"},
		{"--dir audit --key key --witness witness", 0, "witnessed     up to 5"},
		{"--dir audit --key key --witness empty+witness", 1, "no checkpoint of this log"},
		{"--dir audit --key key --json", 0, `"tree_size": 5`},
		{"--proof proof --key key", 0, `record        {"seq":2,`},
		{"--proof altered+proof --key key", 1, "record 2, offset 0"},
		{"--export export --key key", 0, "records       0 to 4, complete"},
		{"--export altered+export --key key", 1, "line 2, offset"},
		{"--dir missing --key key", 1, "missing"},
		{"--dir audit --key proof", 1, "verifier key"},
		{"--dir audit --key missing", 2, "public key"},
		{"--dir audit", 2, "--proof FILE"},
		{"--dir audit --proof proof --key key", 2, "one thing"},
		{"--key key", 2, "one thing"},
		{"--proof proof --key key --witness witness", 2, "folder"},
		{"--proof missing --key key", 2, "missing"},
		{"--help", 0, "Exit codes"},
		{"--nonsense", 2, "nonsense"},
		{"--dir audit --key key more", 2, "Exit codes"},
	} {
		args := strings.Fields(c.args)
		for i, arg := range args {
			if !strings.HasPrefix(arg, "--") && i > 0 && strings.HasPrefix(args[i-1], "--") {
				args[i] = at(strings.ReplaceAll(arg, "+", " "))
			}
		}
		var out bytes.Buffer
		if code := run(args, &out, &out); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: exit code %d, want %d with %q:\n%s", c.args, code, c.code, c.want, &out)
		}
	}
}
