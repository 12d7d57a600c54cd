package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy/worker"
)

// RemoteConfig is what a Remote is made from.
type RemoteConfig struct {
	// Command is the program and the arguments with which it calls ServeWorker.
	Command []string
	// Deadline bounds one evaluation in a worker. Zero means DefaultDeadline.
	Deadline time.Duration
	// Prepare bounds what comes before a question is evaluated: its turn, and a bundle that
	// the worker has to compile again. Zero means two seconds, or Deadline where that is
	// longer: a machine on which an answer takes its time is slow at this too.
	Prepare time.Duration
	// Workers is how many processes there are at most. Zero means three.
	Workers int
	// MemoryMiB is what one process may take for bundles and evaluations. Zero
	// means 512.
	MemoryMiB int64
}

const (
	defaultWorkers   = 3
	defaultMemoryMiB = 512
	maxQueued        = 64 // evaluations of one tenant that wait for a worker
	maxLoaded        = 64 // bundles that one worker holds
)

// The times that a worker has for what is not the evaluation.
const (
	loadTimeout    = 30 * time.Second // to compile a bundle for the first time
	defaultPrepare = 2 * time.Second
	suiteTimeout   = 5 * time.Minute // to run a bundle's own tests
)

// maxAnswerBytes bounds what a worker may answer.
const maxAnswerBytes = 8 << 20

// Remote evaluates bundles in worker processes, which are bounded in memory and
// are killed where they do not answer in time. All its methods may be called
// concurrently. It implements Workers.
type Remote struct {
	deadline, prepare time.Duration
	pool              *worker.Pool

	mu      sync.Mutex
	bundles map[string]loaded // by revision
}

// loaded is a bundle that is held, for as many as have loaded it.
type loaded struct {
	shipment *shipment
	holders  int
}

// shipment is a bundle on its way to workers.
type shipment struct {
	Revision string                         `json:"revision"`
	Files    Files                          `json:"files"`
	Images   map[string]string              `json:"images,omitempty"`
	Tools    map[string]execution.ToolFacts `json:"tools,omitempty"`
}

// NewRemote returns a Remote that has started no process yet.
func NewRemote(config RemoteConfig) (*Remote, error) {
	if config.Deadline < 0 || config.Prepare < 0 || config.MemoryMiB < 0 || config.Workers < 0 {
		return nil, errors.New("policy workers: a bound is negative")
	}
	if config.Deadline == 0 {
		config.Deadline = DefaultDeadline
	}
	if config.Prepare == 0 {
		config.Prepare = max(defaultPrepare, config.Deadline)
	}
	if config.Workers == 0 {
		config.Workers = defaultWorkers
	}
	if config.MemoryMiB == 0 {
		config.MemoryMiB = defaultMemoryMiB
	}
	pool, err := worker.New(worker.Config{
		Command: append(slices.Clone(config.Command), strconv.FormatInt(config.MemoryMiB, 10)),
		// The collector works harder before the process dies of its bound; one
		// processor is what a runaway may take.
		Env:  []string{"GOMEMLIMIT=" + strconv.FormatInt(config.MemoryMiB*3/4, 10) + "MiB", "GOMAXPROCS=1"},
		Size: config.Workers, MaxQueued: maxQueued,
	})
	if err != nil {
		return nil, err
	}
	return &Remote{deadline: config.Deadline, prepare: config.Prepare, pool: pool, bundles: make(map[string]loaded)}, nil
}

// Close ends the workers.
func (r *Remote) Close() { r.pool.Close() }

// Load implements Workers.
func (r *Remote) Load(ctx context.Context, bundle Bundle) (revision string, err error) {
	s, err := ship(bundle)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	// Under a key of its own: what compiles for long keeps no tenant waiting.
	err = r.pool.Do(ctx, "load "+s.Revision, func(ctx context.Context, p *worker.Process) error {
		return provide(ctx, p, s)
	})
	if err != nil {
		return s.Revision, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bundles[s.Revision] = loaded{s, r.bundles[s.Revision].holders + 1}
	return s.Revision, nil
}

// Forget implements Workers.
func (r *Remote) Forget(revision string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bundles[revision]
	if b.holders--; b.holders > 0 {
		r.bundles[revision] = b
	} else {
		delete(r.bundles, revision)
	}
}

// Evaluate implements Workers.
func (r *Remote) Evaluate(ctx context.Context, tenant, revision string, input []byte, full bool) (Answer, error) {
	r.mu.Lock()
	s := r.bundles[revision].shipment
	r.mu.Unlock()
	if s == nil {
		return Answer{}, fmt.Errorf("the policy %s is not loaded", revision)
	}
	waiting, cancel := context.WithTimeout(ctx, r.prepare)
	defer cancel()
	var answer Answer
	var others bool // the process ended, and had worked before
	evaluate := func(waiting context.Context, p *worker.Process) (err error) {
		known, _ := p.Known.([]string)
		defer func() {
			others = len(known) > 0 && p.Broken() && !errors.Is(err, context.DeadlineExceeded) && waiting.Err() == nil
		}()
		if err := provide(waiting, p, s); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, r.deadline)
		defer cancel()
		answer, err = evaluateIn(ctx, p, workerRequest{Op: opEvaluate, Revision: revision, Input: input, Full: full})
		return err
	}
	err := r.pool.Do(waiting, tenant, evaluate)
	if err != nil && others {
		// It may have died of what other tenants' bundles had left in it, or before it
		// was asked: in the new one that takes its place there is nothing of theirs.
		err = r.pool.Do(waiting, tenant, evaluate)
	}
	return answer, err
}

func evaluateIn(ctx context.Context, p *worker.Process, request workerRequest) (Answer, error) {
	reply, err := ask(ctx, p, request)
	if err != nil {
		return Answer{}, err
	}
	if reply.Answer == nil {
		return Answer{}, errors.New("the worker gave no answer")
	}
	return *reply.Answer, nil
}

// Test runs a bundle's own tests, as the function Test does, in a worker.
func (r *Remote) Test(ctx context.Context, bundle Bundle) (TestReport, error) {
	s, err := ship(bundle)
	if err != nil {
		return TestReport{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, suiteTimeout)
	defer cancel()
	var report TestReport
	err = r.pool.Do(ctx, "test "+s.Revision, func(ctx context.Context, p *worker.Process) error {
		reply, err := ask(ctx, p, workerRequest{Op: opTest, Bundle: s})
		if err == nil && reply.Report == nil {
			return errors.New("the worker gave no report")
		}
		if err == nil {
			report = *reply.Report
		}
		return err
	})
	return report, err
}

// ship reads a bundle. What is in it is for the worker to look at.
func ship(bundle Bundle) (*shipment, error) {
	files, err := ReadFiles(bundle.Files)
	if err != nil {
		return nil, fmt.Errorf("load policy from %s: %w", bundle.Source, err)
	}
	revision, err := bundle.revisionOf(files)
	return &shipment{Revision: revision, Files: files, Images: maps.Clone(bundle.Images), Tools: maps.Clone(bundle.Tools)}, err
}

// provide makes sure that a process has a bundle, in the place of the one that it
// used least where it has too many.
func provide(ctx context.Context, p *worker.Process, s *shipment) error {
	known, _ := p.Known.([]string) // revisions, the one used last at the end
	if at := slices.Index(known, s.Revision); at >= 0 {
		p.Known = append(slices.Delete(known, at, at+1), s.Revision)
		return nil
	}
	request := workerRequest{Op: opLoad, Bundle: s}
	if len(known) >= maxLoaded {
		request.Drop, known = known[0], known[1:]
	}
	if _, err := ask(ctx, p, request); err != nil {
		return err
	}
	p.Known = append(known, s.Revision)
	return nil
}

// ask sends a request to a worker. What it answers is not trusted: it evaluates
// what others wrote.
func ask(ctx context.Context, p *worker.Process, request workerRequest) (workerReply, error) {
	message, err := json.Marshal(request)
	if err != nil {
		return workerReply{}, err
	}
	answer, err := p.Exchange(ctx, message, maxAnswerBytes)
	if err != nil {
		return workerReply{}, err
	}
	var reply workerReply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return workerReply{}, fmt.Errorf("the worker's answer: %w", err)
	}
	switch {
	case len(reply.Problems) > 0:
		return workerReply{}, &BundleError{Problems: reply.Problems}
	case reply.Error != "":
		return workerReply{}, errors.New(reply.Error)
	}
	return reply, nil
}

// workerRequest is one message to a worker.
type workerRequest struct {
	Op       workerOp        `json:"op"`
	Bundle   *shipment       `json:"bundle,omitempty"`   // of opLoad, opTest
	Drop     string          `json:"drop,omitempty"`     // of opLoad: a revision that is not needed
	Revision string          `json:"revision,omitempty"` // of opEvaluate
	Input    json.RawMessage `json:"input,omitempty"`    // of opEvaluate
	Full     bool            `json:"full,omitempty"`     // of opEvaluate
}

type workerOp string

const (
	opLoad     workerOp = "load"
	opEvaluate workerOp = "evaluate"
	opTest     workerOp = "test"
)

// workerReply is the answer to one message.
type workerReply struct {
	Problems []string    `json:"problems,omitempty"` // of a *BundleError
	Error    string      `json:"error,omitempty"`
	Answer   *Answer     `json:"answer,omitempty"`
	Report   *TestReport `json:"report,omitempty"`
}

var _ Workers = (*Remote)(nil)
