package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/execgate/execgate/execution"
)

// The bounds of the registry.
const (
	maxToolsListed     = 128 // policy is asked about each of them for GET /v1/tools
	maxToolDescription = 4 << 10
)

// Tools is the registry of tools, checked and with their schemas compiled. It does
// not change. A nil Tools has none.
type Tools struct {
	list   []*tool // by name
	byName map[string]*tool
}

// tool is one entry of the registry.
type tool struct {
	execution.Tool
	schema   *jsonschema.Schema
	template *requestTemplate // of ToolHTTP
}

// callable reports whether the tool has a call of its own.
func (t *tool) callable() bool {
	return t.Kind == execution.ToolContainer || t.Kind == execution.ToolHTTP
}

// NewTools checks every tool. What is wrong with them is an execution.Error of
// KindInvalid, whose pointers begin with the tool's index in list. Whether there is an
// image of a tool's name is for the caller to check.
func NewTools(list []execution.Tool) (*Tools, error) {
	t := &Tools{byName: map[string]*tool{}}
	var wrong []execution.FieldError
	if len(list) > maxToolsListed {
		return nil, &execution.Error{
			Kind: execution.KindInvalid, Detail: fmt.Sprintf("there are more than %d tools", maxToolsListed),
		}
	}
	for i, listed := range list {
		f := &faults{}
		checked := &tool{Tool: listed}
		checked.check(f)
		if t.byName[listed.Name] != nil {
			f.add("/name", "is the name of another tool too")
		}
		for _, field := range f.fields {
			field.Pointer = fmt.Sprintf("/%d%s", i, field.Pointer)
			wrong = append(wrong, field)
		}
		t.byName[listed.Name] = checked
		t.list = append(t.list, checked)
	}
	if len(wrong) > 0 {
		return nil, &execution.Error{Kind: execution.KindInvalid, Detail: "some tools are not valid", Fields: wrong}
	}
	slices.SortFunc(t.list, func(a, b *tool) int { return strings.Compare(a.Name, b.Name) })
	return t, nil
}

// Facts is what policy reads as data.tools.
func (t *Tools) Facts() map[string]execution.ToolFacts {
	facts := map[string]execution.ToolFacts{}
	for _, tool := range t.all() {
		facts[tool.Name] = tool.Tool.Facts()
	}
	return facts
}

func (t *Tools) all() []*tool {
	if t == nil {
		return nil
	}
	return t.list
}

// get returns nil where there is no tool of that name.
func (t *Tools) get(name string) *tool {
	if t == nil {
		return nil
	}
	return t.byName[name]
}

// anyImage is the name of an image of some tool; empty where no tool has one.
func (t *Tools) anyImage() string {
	for _, tool := range t.all() {
		if tool.Image != "" {
			return tool.Image
		}
	}
	return ""
}

// maxToolName is that of names in the request's `tools`, and in records.
const maxToolName = execution.MaxRecordTool

// check reports what is wrong with the tool, brings what it asks for into its one
// spelling, and compiles its schema.
func (t *tool) check(f *faults) {
	if !execution.ValidToolName(t.Name) {
		f.add("/name", "must be a name of 1 to 63 lower-case letters, digits, '_' and '-', beginning with a letter or a digit")
	}
	switch {
	case strings.TrimSpace(t.Description) == "":
		f.add("/description", "is required: agents choose by it")
	case len(t.Description) > maxToolDescription:
		f.addf("/description", "must have at most %d bytes", maxToolDescription)
	}
	checkText(t.Description, "/description", f)
	if t.Kind != execution.ToolEgress {
		t.checkArguments(f)
	}
	t.checkNetwork(f)
	t.checkLimits(f)
	t.checkCredential(f)
	switch t.Kind {
	case execution.ToolContainer:
		checkName(t.Image, "/image", 64, f)
		checkCommand(t.Command, f)
		t.mustLack(t.Request != nil, "/request", f)
	case execution.ToolHTTP:
		t.checkRequest(f)
		t.mustLack(t.Image != "", "/image", f)
		t.mustLack(len(t.Command) > 0, "/command", f)
		own := t.Limits
		own.TimeoutMS, own.OutputKiB = 0, 0 // the ones that a request can meet
		t.mustLack(own != (execution.Limits{}), "/limits", f)
		if t.Credential != nil && t.Credential.Inject != execution.InjectEgress {
			f.add("/credential/inject", "must be egress: a tool of the kind http has no program")
		}
		if t.Credential != nil && len(f.fields) == 0 && !slices.ContainsFunc(t.Credential.Bind, t.template.mayBe) {
			f.add("/credential/bind", "must have an entry for the request of this tool, which makes no other: its host, port, method and path")
		}
	case execution.ToolEgress:
		t.mustLack(len(t.Arguments) > 0, "/arguments", f)
		t.mustLack(t.Request != nil, "/request", f)
		t.mustLack(t.Image != "", "/image", f)
		t.mustLack(len(t.Command) > 0, "/command", f)
		t.mustLack(t.Limits != (execution.Limits{}), "/limits", f)
		if t.Credential == nil {
			f.add("/credential", "is required: a tool of the kind egress is one that code may use")
		}
	default:
		f.add("/kind", "must be container, http or egress")
	}
}

// mustLack reports a member that tools of another kind have.
func (t *tool) mustLack(has bool, pointer string, f *faults) {
	if has {
		f.addf(pointer, "has no meaning for a tool of the kind %s", t.Kind)
	}
}

func (t *tool) checkArguments(f *faults) {
	schema, err := compileArguments(t.Arguments)
	if e, ok := errors.AsType[*schemaError](err); ok {
		f.add("/arguments"+e.pointer, e.detail)
		return
	}
	if err != nil {
		f.add("/arguments", err.Error())
		return
	}
	t.schema = schema
}

func (t *tool) checkNetwork(f *faults) {
	if len(t.Network) > maxDestinations {
		f.addf("/network", "must have at most %d entries", maxDestinations)
		return
	}
	network := make([]execution.Destination, 0, len(t.Network))
	for i, d := range t.Network {
		normal, wrong := parseDestination(destinationText(d))
		switch pointer := fmt.Sprintf("/network/%d", i); {
		case wrong != "":
			f.add(pointer, wrong)
		case slices.Contains(network, normal):
			f.add(pointer, "stands twice")
		case normal.Host == execution.ToolsHost:
			f.add(pointer, "is where programs call tools, which tools cannot")
		}
		network = append(network, normal)
	}
	t.Network = network
}

// destinationText is d as parseDestination reads it.
func destinationText(d execution.Destination) string {
	host := d.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, d.Port)
}

func (t *tool) checkLimits(f *faults) {
	for _, limit := range execution.AllLimits() {
		if value := *limit.Of(&t.Limits); value != 0 && (value < limit.Min || value > limit.Max) {
			f.addf("/limits/"+limit.Name, "must be from %d to %d", limit.Min, limit.Max)
		}
	}
}
