package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/execgate/execgate/policy/worker"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// ServeWorker is the whole life of a worker process: it bounds its own memory to
// so many MiB more than it has, and answers the messages of a Remote on in until
// that ends, or the process with it.
func ServeWorker(in io.Reader, out io.Writer, memoryMiB int64) error {
	if err := worker.LimitMemory(memoryMiB); err != nil {
		return err
	}
	s := &served{loaded: make(map[string]*policy)}
	return worker.Serve(in, out, s.reply, func() { os.Exit(0) })
}

// served is what a worker holds.
type served struct {
	loaded map[string]*policy // by revision
}

func (s *served) reply(message []byte) []byte {
	var request workerRequest
	reply := workerReply{}
	if err := json.Unmarshal(message, &request); err != nil {
		reply.Error = fmt.Sprintf("read the request: %v", err)
	} else if err := s.carryOut(request, &reply); err != nil {
		if broken, ok := errors.AsType[*BundleError](err); ok {
			reply.Problems = broken.Problems
		} else {
			reply.Error = err.Error()
		}
	}
	text, err := json.Marshal(reply)
	if err != nil {
		text, _ = json.Marshal(workerReply{Error: fmt.Sprintf("write the answer: %v", err)})
	}
	if len(text) > maxAnswerBytes {
		text, _ = json.Marshal(workerReply{Error: "the answer is too large"})
	}
	return text
}

// carryOut has no deadline: who waits for it kills the process.
func (s *served) carryOut(request workerRequest, reply *workerReply) (err error) {
	ctx := context.Background()
	if request.Bundle == nil && request.Op != opEvaluate {
		return errors.New("there is no bundle")
	}
	switch request.Op {
	case opLoad:
		delete(s.loaded, request.Drop)
		loaded, err := load(request.Bundle.bundle())
		if err != nil {
			return err
		}
		if s.loaded[request.Bundle.Revision], err = prepare(ctx, loaded); err != nil {
			delete(s.loaded, request.Bundle.Revision)
		}
		return err
	case opEvaluate:
		reply.Answer, err = s.evaluate(request)
	case opTest:
		var report TestReport
		report, err = Test(ctx, request.Bundle.Files)
		reply.Report = &report
	default:
		return fmt.Errorf("there is no operation %q", request.Op)
	}
	return err
}

func (s *shipment) bundle() Bundle {
	return Bundle{Files: s.Files, Source: "the gateway", Images: s.Images, Tools: s.Tools}
}

func (s *served) evaluate(request workerRequest) (*Answer, error) {
	p := s.loaded[request.Revision]
	if p == nil {
		return nil, fmt.Errorf("the policy %s is not loaded", request.Revision)
	}
	var tracer topdown.QueryTracer
	events := &eventTracer{}
	if request.Full {
		tracer = events
	}
	answer, err := p.answerJSON(context.Background(), request.Input, tracer)
	if err == nil && answer.Failure == nil && request.Full {
		answer.Trace, answer.Truncated = events.text()
	}
	return &answer, err
}

// answerJSON asks a policy about an input document, and answers as workers do.
func (p *policy) answerJSON(ctx context.Context, inputJSON []byte, tracer topdown.QueryTracer) (Answer, error) {
	_, value, err := readInput(inputJSON)
	if err != nil {
		return Answer{}, fmt.Errorf("read input: %w", err)
	}
	answer := Answer{Modes: make(map[string]string, len(p.modes))}
	for id, is := range p.modes {
		answer.Modes[id] = string(is)
	}
	document, failed := p.answer(ctx, value, topdown.NewCancel(), tracer)
	if failed != nil {
		answer.Failure = &failed.reason
		if failed.err != nil {
			answer.Cause = failed.err.Error()
		}
		return answer, nil
	}
	if answer.Document, err = documentJSON(document); err != nil {
		return Answer{}, fmt.Errorf("encode decision document: %w", err)
	}
	return answer, nil
}
