package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/execgate/execgate/execution"
)

// The codes of calls of tools that are denied by the gateway itself.
const (
	codeToolNotGranted  = "tool_not_granted" // policies use it too
	codeToolUnsupported = "tool_unsupported"
)

// toolCall is the call of a tool in a Call.
type toolCall struct {
	execution.ToolCall
	tool    *tool               // nil: there is none of that name
	listing bool                // it is asked whether it could be called, without arguments
	parent  string              // the execution whose program calls it; empty: none
	makes   *execution.HTTPCall // of a tool of ToolHTTP, once the call is settled
}

// CallTool calls the tool called name, as Execute runs an execution: call has no
// request but its metadata, and what runs is what the registry says. arguments are those
// that decodeToolCall has read.
//
// Errors are those of Execute; KindDenied, tool_not_granted, for a tool that policy does
// not grant, and in the same words for one that there is not; and KindInvalid with
// pointers for arguments that do not fit the schema of a tool that is granted.
func (s *Service) CallTool(ctx context.Context, call Call, name string, arguments json.RawMessage) (Response, error) {
	return s.callTool(ctx, call, s.toolCall(name, arguments))
}

func (s *Service) toolCall(name string, arguments json.RawMessage) *toolCall {
	return &toolCall{
		ToolCall: execution.ToolCall{Name: name, Args: arguments, ArgsSHA256: execution.HexSHA256(arguments)},
		tool:     s.tools.get(name),
	}
}

func (s *Service) callTool(ctx context.Context, call Call, called *toolCall) (Response, error) {
	call.tool, call.Request = called, called.request(call.Request.Metadata)
	return s.Execute(ctx, call)
}

// request is what a call of the tool runs, and asks for: nothing of it is the caller's
// but the arguments, on standard input, and what it claims to be.
func (c *toolCall) request(metadata map[string]string) execution.Request {
	r := execution.Request{Metadata: metadata}
	if c.tool == nil {
		return r
	}
	r.Image, r.Command = c.tool.Image, slices.Clone(c.tool.Command)
	r.Stdin = string(c.Args)
	r.Limits, r.Network = c.tool.Limits, slices.Clone(c.tool.Network)
	if c.tool.Credential != nil {
		r.Tools = []string{c.tool.Name}
	}
	return r
}

// action is the kind of what is asked for.
func (c Call) action() execution.Action {
	if c.tool != nil {
		return execution.ActionToolCall
	}
	return execution.ActionExecute
}

// toolCalled is what policy is asked of the call; of other actions nothing.
func (c Call) toolCalled() execution.ToolCall {
	if c.tool == nil {
		return execution.ToolCall{}
	}
	return c.tool.ToolCall
}

// imageOfTool is the image of the tool that is called. Where there is no such tool, or it has
// no image, the engine is asked all the same: an answer that differs, or takes another
// time, would tell which tools there are.
func (s *Service) imageOfTool(ctx context.Context, called *toolCall) (execution.Image, error) {
	name, none := s.tools.anyImage(), true
	if called.tool != nil && called.tool.Image != "" {
		name, none = called.tool.Image, false
	}
	if name == "" {
		return execution.Image{}, nil
	}
	image, err := s.resolve(ctx, execution.Request{Image: name})
	switch kind := execution.KindOf(err); {
	case err != nil && (kind == execution.KindNotFound || kind == execution.KindInvalid):
		image = execution.Image{Name: name} // which policy denies, having no digest
	case err != nil:
		return execution.Image{}, err
	}
	if none {
		return execution.Image{}, nil
	}
	return image, nil
}

// settle is what remains of the decision about the call. The error is of arguments that
// do not fit: they are looked at after policy, so that who may not call the tool learns
// nothing of it, not even by the time that it takes. Nothing was done then, and nothing
// is recorded.
func (c *toolCall) settle(d execution.Decision) (execution.Decision, error) {
	switch {
	case c == nil:
		return d, nil
	case c.tool != nil && c.tool.callable():
		if !d.Allowed() || c.listing {
			return d, nil
		}
		return d, c.fit()
	case c.tool == nil && d.Allowed():
		d = refuse(d, codeToolNotGranted, "there is no tool of this name")
	case c.tool != nil && unanswered(d) == nil && !hasReason(d.Reasons, codeToolNotGranted, codeToolUnsupported):
		d = refuse(d, codeToolUnsupported, fmt.Sprintf("tools of the kind %s have no call of their own: code uses them, which names them in tools", c.tool.Kind))
	}
	d.Grant, d.Obligations, d.Clamped = execution.Grant{}, nil, []execution.Clamp{}
	return d, nil
}

// fit holds the arguments against the tool's schema, and makes the request of a tool that
// makes one.
func (c *toolCall) fit() error {
	if err := c.tool.fits(c.Args); err != nil || c.tool.Kind != execution.ToolHTTP {
		return err
	}
	made, err := c.tool.template.expand(c.Args)
	c.makes = &made
	return err
}

func hasReason(reasons []execution.Reason, codes ...string) bool {
	return slices.ContainsFunc(reasons, func(r execution.Reason) bool { return slices.Contains(codes, r.Code) })
}

// hide makes the error of a call that is denied the same for a tool that is not granted
// and for one that there is not. What policy said stands in the record.
func (c *toolCall) hide(denied error) error {
	e, ok := errors.AsType[*execution.Error](denied)
	if c == nil || !ok || e.Kind != execution.KindDenied {
		return denied
	}
	if c.tool != nil && !hasReason(e.Reasons, codeToolNotGranted) {
		return denied
	}
	message := fmt.Sprintf("the tool %q is not granted", c.Name)
	return &execution.Error{
		Kind: execution.KindDenied, Code: codeToolNotGranted, Detail: message,
		Reasons: []execution.Reason{{
			Code: codeToolNotGranted, Message: message,
			Remediation: "call one of those that GET /v1/tools lists, or ask for this one to be granted",
		}},
	}
}

// ListTools returns the tools, by name, that call's principal could call now, with
// arguments that policy does not object to. Nothing is recorded. The error is of
// KindUnavailable.
func (s *Service) ListTools(ctx context.Context, call Call) ([]execution.Tool, error) {
	if err := somebody(call.Principal); err != nil {
		return nil, err
	}
	used := s.budgets.see(call.Principal.Owner(), time.Now())
	usable := []execution.Tool{}
	for _, t := range s.tools.all() {
		if !t.callable() {
			continue // of what has no call nobody is asked
		}
		may, err := s.mayCall(ctx, call, t, used)
		if err != nil {
			return nil, err
		}
		if may {
			usable = append(usable, t.Tool)
		}
	}
	return usable, nil
}

// mayCall asks policy about a call of t without arguments.
func (s *Service) mayCall(ctx context.Context, call Call, t *tool, used seen) (bool, error) {
	called := &toolCall{ToolCall: execution.ToolCall{Name: t.Name}, tool: t, listing: true}
	call.tool, call.Request = called, called.request(call.Request.Metadata)
	q, err := s.question(ctx, call, execution.ActionToolCall, used)
	if err != nil {
		return false, err
	}
	e, err := s.explain(ctx, q, false)
	if err != nil {
		return false, err
	}
	d, _ := called.settle(s.checked(q, e.Decision, nil))
	var ready duties
	ready, d = s.oblige(d)
	ready.drop()
	return d.Allowed(), unanswered(d)
}
