package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy"
)

// Bounds of a Shadow.
const (
	shadowWaiting      = 1024
	shadowWaitingBytes = 16 << 20
	// Flips are recorded so many at once, and then at this pace; further ones are
	// counted in the next.
	flipsAtOnce   = 20
	flipsInterval = time.Second
)

// ShadowConfig is what a Shadow is made from.
type ShadowConfig struct {
	// Candidate reads the policy that might take the organisation's place. It is
	// called anew every Reload; zero: 10 s.
	Candidate func() (policy.Bundle, error)
	Reload    time.Duration
	// Workers evaluate it: it is never evaluated in this process.
	Workers policy.Workers
	// Deadline bounds one evaluation; zero: policy.DefaultDeadline.
	Deadline time.Duration
	// Flip is told of decisions that the candidate makes otherwise.
	Flip   func(ctx context.Context, of Decided, flip execution.PolicyFlip) error
	Logger *slog.Logger
}

// Shadow asks a candidate about decisions that were made, after they were. It
// changes none of them: Offer returns at once, and nobody waits for the answer.
type Shadow struct {
	config  ShadowConfig
	waiting chan Decided

	mu           sync.Mutex
	waitingBytes int
	results      map[string]uint64

	// Of Run alone:
	candidate           policy.Bundle // as it was last read; its Files are nil before
	digest              string
	organisation, terms string           // by which was decided what compiled is for
	compiled            *policy.Compiled // nil where failed says why
	failed              error
	own                 string // revision of the tenant's policy beside it
	pace                pace
}

// The results that are counted beside the classes.
const (
	ResultOverflow = "overflow"  // it found no room in the queue
	ResultNoAnswer = "no_answer" // the candidate gave none in time, or policy had not
	ResultFailed   = "failed"    // there is no candidate that compiles, or what decided is not known
)

// NewShadow checks config and starts nothing.
func NewShadow(config ShadowConfig) (*Shadow, error) {
	if config.Candidate == nil || config.Workers == nil || config.Flip == nil || config.Logger == nil {
		return nil, errors.New("shadow: no candidate, no workers, nobody to tell, or no logger")
	}
	if config.Reload <= 0 {
		config.Reload = 10 * time.Second
	}
	return &Shadow{
		config: config, waiting: make(chan Decided, shadowWaiting), results: map[string]uint64{},
		pace: pace{left: flipsAtOnce},
	}, nil
}

// Offer has the candidate asked about d some time. Where too much waits already it
// is not, and that is counted.
func (s *Shadow) Offer(d Decided) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := len(d.Asked.Input) + len(d.Asked.Answer)
	if s.waitingBytes+size <= shadowWaitingBytes {
		select {
		case s.waiting <- d:
			s.waitingBytes += size
			return
		default:
		}
	}
	s.results[ResultOverflow]++
}

// Results counts what came of the decisions that were offered: classes, each
// decision in all that it is of, and the results above.
func (s *Shadow) Results() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.results)
}

func (s *Shadow) count(results ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, result := range results {
		s.results[result]++
	}
}

// Run asks the candidate until ctx ends.
func (s *Shadow) Run(ctx context.Context) error {
	defer s.drop()
	reload := time.NewTicker(s.config.Reload)
	defer reload.Stop()
	s.read(ctx)
	for {
		select {
		case d := <-s.waiting:
			s.mu.Lock()
			s.waitingBytes -= len(d.Asked.Input) + len(d.Asked.Answer)
			s.mu.Unlock()
			s.ask(ctx, d)
		case <-reload.C:
			s.read(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// read reads the candidate. Where that fails the last one is asked still.
func (s *Shadow) read(ctx context.Context) {
	bundle, err := s.config.Candidate()
	var files policy.Files
	if err == nil {
		files, err = policy.ReadFiles(bundle.Files)
	}
	if err != nil {
		s.config.Logger.WarnContext(ctx, "the shadow policy cannot be read", "error", err)
		return
	}
	if digest := files.Digest(); digest != s.digest || s.failed != nil {
		bundle.Files = files
		s.drop()
		s.candidate, s.digest = bundle, digest
	}
}

func (s *Shadow) drop() {
	if s.compiled != nil {
		s.compiled.Close()
	}
	s.compiled, s.failed, s.organisation, s.terms, s.own = nil, nil, "", "", ""
}

// ask asks the candidate about one decision.
func (s *Shadow) ask(ctx context.Context, d Decided) {
	is, err := s.decide(ctx, d.Asked)
	if err != nil {
		if ctx.Err() == nil {
			s.count(ResultFailed)
			s.config.Logger.DebugContext(ctx, "the shadow policy was not asked", "error", err)
		}
		return
	}
	if noAnswer(is.Reasons) {
		s.count(ResultNoAnswer)
		return
	}
	text, err := json.Marshal(is)
	if err != nil {
		s.count(ResultFailed)
		return
	}
	classes, err := Compare(d.Asked.Answer, text)
	if err != nil {
		s.count(ResultFailed)
		return
	}
	var was decision
	if err := json.Unmarshal(d.Asked.Answer, &was); err == nil && noAnswer(was.Reasons) {
		s.count(ResultNoAnswer)
		return
	}
	results := make([]string, len(classes))
	for i, class := range classes {
		results[i] = string(class)
	}
	s.count(results...)
	if slices.Contains(classes, Same) {
		return
	}
	omitted, now := s.pace.allow(time.Now())
	if !now {
		return
	}
	flip := flipOf(d.Seq, is.Revision, d.Asked.Organisation, d.Asked.Answer, text, classes)
	flip.Omitted = omitted
	if err := s.config.Flip(ctx, d, flip); err != nil && ctx.Err() == nil {
		s.config.Logger.ErrorContext(ctx, "a policy flip could not be recorded", "error", err)
	}
}

// decide has the candidate decide by the images, the terms and the tenant's own
// policy of the time.
func (s *Shadow) decide(ctx context.Context, asked *execution.Asked) (execution.Decision, error) {
	if s.candidate.Files == nil {
		return execution.Decision{}, errors.New("there is no shadow policy")
	}
	if s.organisation != asked.Organisation || s.terms != asked.Terms {
		s.compile(ctx, asked)
	}
	if s.failed != nil {
		return execution.Decision{}, s.failed
	}
	if s.own != asked.Own {
		if err := s.narrow(ctx, asked); err != nil {
			return execution.Decision{}, err
		}
	}
	return s.compiled.Decide(ctx, asked.Input)
}

// compile compiles the candidate with the images and the terms by which was
// decided. What cannot be compiled is not tried again before the next reload.
func (s *Shadow) compile(ctx context.Context, asked *execution.Asked) {
	s.drop()
	s.organisation, s.terms = asked.Organisation, asked.Terms
	decided, terms, err := readOrganisation(asked)
	if err == nil {
		bundle := s.candidate
		bundle.Images, bundle.Tools = decided.Images, decided.Tools
		s.compiled, err = policy.Compile(ctx, policy.CompileConfig{
			Organisation: bundle, Terms: terms, Deadline: s.config.Deadline,
			Workers: s.config.Workers, Isolated: true, Logger: s.config.Logger,
		})
	}
	if err != nil {
		s.compiled, s.failed = nil, err
		if ctx.Err() == nil {
			s.config.Logger.WarnContext(ctx, "the shadow policy cannot be asked", "error", err)
		}
	}
}

// narrow puts the tenant's own policy beside the candidate, or takes away another's.
func (s *Shadow) narrow(ctx context.Context, asked *execution.Asked) error {
	s.compiled.DropTenants()
	s.own = ""
	if asked.Own == "" {
		return nil
	}
	own, tenant, err := readOwn(asked)
	if err != nil {
		return err
	}
	if err := s.compiled.SetTenant(ctx, tenant, own); err != nil {
		return err
	}
	s.own = asked.Own
	return nil
}

// pace lets some through at once, and the rest at flipsInterval.
type pace struct {
	left    int
	at      time.Time
	omitted uint64
}

// allow reports whether one may pass, and how many did not since the last.
func (p *pace) allow(now time.Time) (omitted uint64, ok bool) {
	if since := int(now.Sub(p.at) / flipsInterval); !p.at.IsZero() && since > 0 {
		p.left = min(flipsAtOnce, p.left+since)
		p.at = now
	}
	if p.at.IsZero() {
		p.at = now
	}
	if p.left == 0 {
		p.omitted++
		return 0, false
	}
	p.left--
	omitted, p.omitted = p.omitted, 0
	return omitted, true
}

// readOrganisation returns the organisation's policy and the terms by which was
// decided.
func readOrganisation(asked *execution.Asked) (bundle policy.Bundle, terms policy.Terms, err error) {
	organisation, err := documentOf(asked, execution.PolicyBundle, asked.Organisation)
	if err == nil {
		bundle, err = policy.Unpack(organisation.Content, asked.Organisation)
	}
	if err != nil {
		return policy.Bundle{}, policy.Terms{}, err
	}
	document, err := documentOf(asked, execution.PolicyTerms, asked.Terms)
	if err == nil {
		terms, err = policy.ReadTerms(document.Content, asked.Terms)
	}
	return bundle, terms, err
}

// readOwn returns the tenant's own policy by which was decided, and the tenant.
func readOwn(asked *execution.Asked) (policy.Bundle, string, error) {
	document, err := documentOf(asked, execution.PolicyBundle, asked.Own)
	if err != nil {
		return policy.Bundle{}, "", err
	}
	bundle, err := policy.Unpack(document.Content, asked.Own)
	return bundle, document.Tenant, err
}

func documentOf(asked *execution.Asked, kind, revision string) (execution.PolicyDocument, error) {
	for _, d := range asked.Documents {
		if d.Kind == kind && d.Revision == revision {
			return d, nil
		}
	}
	return execution.PolicyDocument{}, fmt.Errorf("the %s %s that decided is not known", kind, revision)
}
