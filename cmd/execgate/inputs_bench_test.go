package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/replay"
	"github.com/execgate/execgate/store"
)

var replayedDecisions = flag.Int("replayed", 20_000, "how many recorded decisions BenchmarkReplayOfTheStore keeps and replays")

// BenchmarkReplayOfTheStore replays decisions as `execgate policy replay` does: read
// from the database, decrypted, and asked of a candidate. kept/s is what one writer
// keeps of them.
func BenchmarkReplayOfTheStore(b *testing.B) {
	const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000001"
	ctx, dir := context.Background(), b.TempDir()
	engine, err := policy.New(policy.Config{Deadline: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	witness := policy.NewWitness(engine)
	if _, err := witness.Activate(ctx, policy.Bundle{Files: policies.Files, Images: map[string]string{"python": digest}}); err != nil {
		b.Fatal(err)
	}
	asked := witness.Decide(ctx, execution.Question{
		ID: "ex_1", Time: time.Now(), Action: execution.ActionExecute, RequestSHA256: "00",
		Principal: execution.Principal{Subject: "ak_1", Tenant: "default", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey},
		Request:   execution.Request{Language: "python", Code: "print(1)"}, Image: execution.Image{Name: "python", Digest: digest},
	}).Asked

	db, err := store.Open(ctx, filepath.Join(dir, inputsFile))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	kept, err := store.NewInputs(store.InputsConfig{Store: db, KeyFile: filepath.Join(dir, inputsKey), MaxBytes: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	for n := range *replayedDecisions {
		in := store.Input{
			Execution: fmt.Sprintf("ex_%d", n), Seq: uint64(n), Tenant: "default", Time: time.Now(), Asked: asked.Input, Answered: asked.Answer,
			Revisions: store.Revisions{Organisation: asked.Organisation, Terms: asked.Terms},
		}
		for _, d := range asked.Documents {
			in.Documents = append(in.Documents, store.Document{Kind: d.Kind, Digest: d.Revision, Content: d.Content})
		}
		kept.Keep(in)
		if n%1024 == 1023 || n == *replayedDecisions-1 {
			if err := kept.Flush(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
	keeping := time.Since(began)

	reader, err := openRecordedInputs(ctx, dir)
	if err != nil {
		b.Fatal(err)
	}
	defer reader.Close()
	candidate := policy.Bundle{Files: policies.Files, Source: "candidate"}
	source := recordedInputs{reader, store.Span{Until: time.Now().Add(time.Hour)}, &recordedDigests{}}
	for b.Loop() {
		report, err := replayAll(ctx, replay.Config{Source: source, Is: &candidate})
		if err != nil || report.Classes[replay.Same] != uint64(*replayedDecisions) {
			b.Fatalf("%+v, %v", report, err)
		}
		b.ReportMetric(report.PerSecond(), "decisions/s")
	}
	b.ReportMetric(float64(*replayedDecisions)/keeping.Seconds(), "kept/s")
}
