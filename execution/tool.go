package execution

import "encoding/json"

// ToolKind says how a tool is called.
type ToolKind string

// The kinds. The zero ToolKind is none of them.
const (
	ToolContainer ToolKind = "container" // a command in an image reads the arguments on standard input
	ToolHTTP      ToolKind = "http"      // a request to one upstream, made from a template
	ToolEgress    ToolKind = "egress"    // no call of its own: a binding that code may use
)

// Tool is an entry of the gateway's registry of tools: what the operator lets agents
// call. Who may call it is for policy to say.
type Tool struct {
	Name        string
	Description string
	// Arguments is the JSON Schema (draft 2020-12 where it names no other) that the
	// arguments of a call have to fit; of ToolEgress there is none.
	Arguments json.RawMessage
	Kind      ToolKind
	// Image, by name, and Command are of ToolContainer.
	Image   string
	Command []string
	// Request is of ToolHTTP.
	Request *ToolRequest
	// Limits are those that a call asks for; policy grants and clamps them.
	Limits Limits
	// Network are the destinations that it asks for.
	Network []Destination
	// Credential is the one that it asks for; nil: none. Its Tool is Name.
	Credential *Credential
}

// ToolRequest is the template of the request that a tool of ToolHTTP makes. In URL
// {name} stands for the argument of that name, percent-encoded: as a part of the path,
// or in the query. The arguments that it does not name are the body, as JSON, of the
// methods POST, PUT and PATCH, and else further parameters of the query.
type ToolRequest struct {
	Method string
	URL    string // https
}

// HTTPCall is the request that a call of a tool of ToolHTTP makes: its template with the
// arguments in it. Where it goes is the template's alone.
type HTTPCall struct {
	Method string
	To     Destination // by https
	Target string      // of the request: its path, and after "?" its query, escaped
	Body   []byte      // JSON; nil: there is none
}

// ToolsHost is the name by which programs call tools, over plain HTTP, where their
// network grant opens it: POST http://tools.execgate/NAME. It is no host anywhere else.
const ToolsHost = "tools.execgate"

// Facts is what policy reads of the tool as data.tools[name].
func (t Tool) Facts() ToolFacts {
	f := ToolFacts{Kind: t.Kind, Image: t.Image, Credential: t.Credential, Network: t.Network}
	if f.Network == nil {
		f.Network = []Destination{}
	}
	return f
}

// ToolFacts is what policies are told of a tool.
type ToolFacts struct {
	Kind       ToolKind      `json:"kind"`
	Image      string        `json:"image,omitempty"`      // of ToolContainer: its name
	Credential *Credential   `json:"credential,omitempty"` // absent: it asks for none
	Network    []Destination `json:"network"`
}

// ToolCall is what policy is asked of a call of a tool.
type ToolCall struct {
	Name string
	// Args are the arguments as the tool reads them: a JSON object without white space
	// between its tokens, in the order in which it was sent.
	Args       json.RawMessage
	ArgsSHA256 string // of Args, in hex
}
