package execution

import "encoding/json"

// Job is one program to run: what was asked, cut down to what was granted.
type Job struct {
	ID    string // the execution's id
	Grant Grant
	// Language names the driver of the image that runs Code; where it is
	// empty, Command is run.
	Language string
	Code     string
	Command  []string
	Input    json.RawMessage
	Stdin    string
	Files    []File
	Env      map[string]string
}

// NewJob joins a request with what was granted to it.
func NewJob(id string, r Request, g Grant) Job {
	return Job{
		ID: id, Grant: g,
		Language: r.Language, Code: r.Code, Command: r.Command,
		Input: r.Input, Stdin: r.Stdin, Files: r.Files, Env: r.Env,
	}
}
