package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
	"github.com/execgate/execgate/policy/activation"
)

// busyWorkers answer in time only once so many questions were too much for the machine.
type busyWorkers struct {
	activation.Workers
	late atomic.Int64
}

func (b *busyWorkers) Evaluate(ctx context.Context, tenant, revision string, input []byte, full bool) (policy.Answer, error) {
	if b.late.Add(-1) >= 0 {
		return policy.Answer{}, context.DeadlineExceeded
	}
	return b.Workers.Evaluate(ctx, tenant, revision, input, full)
}

// A gateway that starts on a busy machine has its policy all the same.
func TestPolicyThatWasTooSlowAtTheStart(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	shippedPolicy(t, folder)
	_, log, _ := newLog(t)
	logger := slog.New(slog.DiscardHandler)
	engine, err := policy.New(policy.Config{Deadline: time.Minute, Logger: logger})
	must(t, err)
	remote, err := newPolicyWorkers(PolicyConfig{DeadlineMS: 60_000})
	must(t, err)
	defer remote.Close()
	workers := &busyWorkers{Workers: remote}
	workers.late.Store(3) // as often as one question is asked
	o, err := newOrganisation(PolicyConfig{Folder: folder}, t.TempDir(), engine, workers, log, nil, nil, logger)
	must(t, err)
	err = o.start(t.Context(), map[string]string{"python": "sha256:" + strings.Repeat("1", 64), "node": "sha256:" + strings.Repeat("2", 64)})
	if e, ok := errors.AsType[*execution.Error](err); !ok || e.Code != activation.CodeTooSlow {
		t.Fatalf("at the start: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan struct{})
	go func() { o.follow(ctx); close(followed) }()
	eventually(t, "the policy is in force", func() bool { return engine.Revision() != "" })
	stop()
	<-followed
}
