package policy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// failure is why there is no decision document. It always denies.
type failure struct {
	reason execution.Reason // for the caller
	err    error            // for the log; may be nil
}

// evaluation is one run of the evaluator.
type evaluation struct {
	policy *policy
	input  ast.Value
	tracer topdown.QueryTracer // nil: none
	cancel topdown.Cancel
	done   chan outcome // buffered, so that an abandoned run can end
	state  atomic.Int32
}

// The states of an evaluation: exactly one of finished and abandoned wins.
const (
	running int32 = iota
	finished
	abandoned
)

type outcome struct {
	doc    document
	failed *failure
}

// evaluate answers within the deadline. The evaluator is asked to stop when the
// deadline passes, but it looks only between its steps and a single builtin can
// keep it for seconds, so it runs beside the caller, who leaves it behind.
func (e *Engine) evaluate(ctx context.Context, p *policy, input ast.Value, t *tracing) (document, *failure) {
	if n := e.abandoned.Load(); n >= int64(e.config.MaxAbandoned) {
		return document{}, timedOut(fmt.Errorf("%d abandoned evaluations do not return", n))
	}
	timer := time.NewTimer(e.config.Deadline)
	defer timer.Stop()

	run := &evaluation{
		policy: p, input: input, tracer: t.tracer("the organisation's policy"),
		cancel: topdown.NewCancel(), done: make(chan outcome, 1),
	}
	if !e.start(run) {
		select {
		case e.queue <- run:
		case <-timer.C:
			return document{}, timedOut(errors.New("no evaluation could start within the deadline"))
		case <-ctx.Done():
			return document{}, cancelled(ctx.Err())
		}
	}
	select {
	case result := <-run.done:
		return result.doc, result.failed
	case <-timer.C:
		return e.abandon(run, timedOut(fmt.Errorf("no answer within %v", e.config.Deadline)))
	case <-ctx.Done():
		return e.abandon(run, cancelled(ctx.Err()))
	}
}

// workerIdle is how long a worker waits for another evaluation before it ends.
const workerIdle = 10 * time.Second

// start hands a run to a worker that waits, or to a new one where there may be
// another. Workers are kept because the evaluator recurses deeply: growing the
// stack of a new goroutine costs 40 % of an evaluation.
func (e *Engine) start(run *evaluation) bool {
	select {
	case e.queue <- run:
		return true
	default:
	}
	select {
	case e.workers <- struct{}{}:
		go e.work(run)
		return true
	default:
		return false
	}
}

// work carries out evaluations until there have been none for a while.
func (e *Engine) work(run *evaluation) {
	defer func() { <-e.workers }()
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		result := run.policy.evaluate(run.input, run.cancel, run.tracer)
		if !run.state.CompareAndSwap(running, finished) {
			e.abandoned.Add(-1)
		}
		run.done <- result

		idle.Reset(workerIdle)
		select {
		case run = <-e.queue:
		case <-idle.C:
			return
		}
	}
}

// abandon leaves an evaluation to itself. Where it ended in the meantime, its
// answer stands.
func (e *Engine) abandon(run *evaluation, why *failure) (document, *failure) {
	e.abandoned.Add(1) // before the swap: the run takes it back after the swap
	if !run.state.CompareAndSwap(running, abandoned) {
		e.abandoned.Add(-1)
		result := <-run.done
		return result.doc, result.failed
	}
	run.cancel.Cancel()
	return document{}, why
}

// evaluate asks the prepared query and decodes its answer. A panic is an
// evaluation error like any other: it must not end the process.
//
// It has no context of the caller's: a run is ended through cancel, and no
// builtin that is allowed takes a context.
func (p *policy) evaluate(input ast.Value, cancel topdown.Cancel, tracer topdown.QueryTracer) (result outcome) {
	defer func() {
		if r := recover(); r != nil {
			result = outcome{failed: broken(fmt.Errorf("evaluation panicked: %v", r))}
		}
	}()
	value, failed := p.answer(context.Background(), input, cancel, tracer)
	if failed != nil {
		return outcome{failed: failed}
	}
	doc, err := decodeDocument(value)
	if err != nil {
		return outcome{failed: invalid(err)}
	}
	p.modes.apply(&doc)
	return outcome{doc: doc}
}

// answer evaluates the query and returns its one value.
func (p *policy) answer(
	ctx context.Context, input ast.Value, cancel topdown.Cancel, tracer topdown.QueryTracer,
) (value ast.Value, failed *failure) {
	defer func() {
		if r := recover(); r != nil {
			value, failed = nil, broken(fmt.Errorf("evaluator panicked: %v", r))
		}
	}()
	options := []rego.EvalOption{
		rego.EvalParsedInput(input),
		rego.EvalMetrics(metrics.NoOp()),
		rego.EvalExternalCancel(cancel),
		rego.EvalVirtualCache(newRuleCache()),
		rego.EvalBaseCache(dataCache{p.data}),
	}
	if tracer != nil {
		options = append(options, rego.EvalQueryTracer(tracer))
	}
	results, err := p.query.Eval(ctx, options...)
	switch {
	case err != nil && topdown.IsCancel(err):
		return nil, timedOut(err)
	case err != nil:
		return nil, broken(err)
	case len(results) == 0:
		return nil, &failure{reason: execution.Reason{
			Code: execution.CodePolicyUndefined, Rule: ruleEngine,
			Message:     "The policy has no answer to this request, so it is denied.",
			Remediation: "The policy's author has to make execgate.decision cover this case.",
		}}
	case len(results) > 1 || len(results[0].Expressions) != 1:
		return nil, invalid(errors.New("the policy gives more than one answer"))
	}
	answer, ok := results[0].Expressions[0].Value.(ast.Value)
	if !ok {
		return nil, invalid(errors.New("the answer is not a value"))
	}
	return answer, nil
}

func broken(err error) *failure {
	return &failure{err: err, reason: execution.Reason{
		Code: execution.CodePolicyError, Rule: ruleEngine,
		Message:     "The policy could not be evaluated for this request, so it is denied.",
		Remediation: "The gateway's log has the error; the policy's author has to mend it.",
	}}
}

func invalid(err error) *failure {
	return &failure{err: err, reason: execution.Reason{
		Code: execution.CodePolicyInvalid, Rule: ruleEngine,
		Message:     "The policy's answer is not a valid decision: " + err.Error() + ".",
		Remediation: "The policy's author has to mend the decision document.",
	}}
}

func timedOut(err error) *failure {
	return &failure{err: err, reason: execution.Reason{
		Code: execution.CodePolicyTimeout, Rule: ruleEngine,
		Message:     "The policy did not answer in time, so the request is denied.",
		Remediation: "Try again; if it stays so, the policy's author has to make the policy cheaper.",
	}}
}

func cancelled(err error) *failure {
	return &failure{err: err, reason: execution.Reason{
		Code: execution.CodePolicyTimeout, Rule: ruleEngine,
		Message:     "The request ended before the policy answered.",
		Remediation: "Send the request again.",
	}}
}
