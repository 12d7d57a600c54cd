package execution

import (
	"encoding/json"
	"slices"
)

// Job is one program to run: what was asked, cut down to what was granted.
type Job struct {
	ID    string // the execution's id
	Owner Owner
	// Roles and Method are those of the principal that asked, and Metadata what it
	// claimed: for policy, which is asked about what the program sends out, and for the
	// records of that.
	Roles    []Role
	Method   Method
	Metadata map[string]string
	// RequestID and TraceID are of the HTTP request that it comes of; TraceID may be empty.
	RequestID string
	TraceID   string
	Grant     Grant
	// Parent is the execution whose program calls Tool; empty: no program does.
	Parent string
	// Tool is the tool whose call it is; empty: it is no call of one.
	Tool string
	// Call is the request to make in the place of a program to run, of a tool of
	// ToolHTTP. Where it is set the Grant has no image.
	Call *HTTPCall
	// Session is the id of an open session to run in; empty: a sandbox of its own.
	Session string
	// Language names the driver of the image that runs Code; where it is
	// empty, Command is run.
	Language string
	Code     string
	Command  []string
	Input    json.RawMessage
	Stdin    string
	Files    []File
	Env      map[string]string
	// Exposed are the credentials that the program itself is given.
	Exposed []Exposed
	// Started is told once, and before the execution is over, that the program has
	// begun: by who runs it, which it must not hold up. nil: nobody wants to know.
	Started func(Start)
	// Events is told what the program does, in order, by one goroutine at a
	// time; nil where nobody listens. While it does not return nothing more is
	// taken from the program, which then waits; its error ends the program, and
	// the outcome is cancelled. It does not change the Result.
	Events func(Event) error
}

// Principal is who asked for the job.
func (j *Job) Principal() Principal {
	return Principal{Subject: j.Owner.Subject, Tenant: j.Owner.Tenant, Roles: j.Roles, Method: j.Method}
}

// Record begins a record about the job's execution, as one of its request. It shares
// nothing with the job.
func (j *Job) Record(kind RecordType) Record {
	principal := j.Principal()
	principal.Roles = slices.Clone(principal.Roles)
	return Record{Type: kind, Execution: j.ID, Principal: &principal, RequestID: j.RequestID, TraceID: j.TraceID}
}

// NewJob joins a request with what was granted to it.
func NewJob(id string, owner Owner, r Request, g Grant) Job {
	return Job{
		ID: id, Owner: owner, Grant: g, Session: r.Session,
		Language: r.Language, Code: r.Code, Command: r.Command,
		Input: r.Input, Stdin: r.Stdin, Files: r.Files, Env: r.Env, Metadata: r.Metadata,
	}
}
