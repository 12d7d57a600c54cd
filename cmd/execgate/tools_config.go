package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"go.yaml.in/yaml/v3"
)

// ToolConfig is one tool; see execution.Tool.
type ToolConfig struct {
	Name        string             `yaml:"name"`
	Description string             `yaml:"description"`
	Kind        execution.ToolKind `yaml:"kind"`
	Arguments   json.RawMessage    `yaml:"arguments"` // their JSON Schema
	Image       string             `yaml:"image"`
	Command     []string           `yaml:"command"`
	Request     *ToolRequestConfig `yaml:"request"`
	Limits      map[string]int64   `yaml:"limits"`
	Network     []string           `yaml:"network"` // host:port
	Credential  *CredentialConfig  `yaml:"credential"`

	Node *yaml.Node `yaml:"-"` // where it stands
}

// ToolRequestConfig is execution.ToolRequest.
type ToolRequestConfig struct {
	Method string `yaml:"method"`
	URL    string `yaml:"url"`
}

// CredentialConfig is execution.Credential.
type CredentialConfig struct {
	Engine        string           `yaml:"engine"`
	Mount         string           `yaml:"mount"`
	Path          string           `yaml:"path"`
	Role          string           `yaml:"role"`
	VaultPolicies []string         `yaml:"vault_policies"`
	TTLS          int64            `yaml:"ttl_s"`
	MaxUses       int64            `yaml:"max_uses"`
	Strict        bool             `yaml:"strict"`
	Inject        execution.Inject `yaml:"inject"`
	FilePath      string           `yaml:"file_path"`
	EnvName       string           `yaml:"env_name"`
	Bind          []BindingConfig  `yaml:"bind"`
}

// BindingConfig is execution.Binding.
type BindingConfig struct {
	Host    string   `yaml:"host"`
	Port    int      `yaml:"port"`
	Methods []string `yaml:"methods"`
	Paths   []string `yaml:"paths"`
	Name    string   `yaml:"name"`
	Mode    string   `yaml:"mode"`
}

func (t *ToolConfig) standsAt(node *yaml.Node) { t.Node = node }

// tools makes the registry. Its error names the line of everything that is wrong.
func (c Config) tools() (*gateway.Tools, error) {
	known, err := c.imageNames()
	if err != nil {
		return nil, err
	}
	return c.toolsWith(known)
}

// toolsWith is tools where there are images of these names; nil: any may be there.
func (c Config) toolsWith(known []string) (*gateway.Tools, error) {
	var errs []error
	var list []execution.Tool
	for _, t := range c.Tools {
		tool, err := t.tool()
		list = append(list, tool)
		errs = append(errs, err)
	}
	for i, t := range list {
		if known != nil && t.Kind == execution.ToolContainer && t.Image != "" && !slices.Contains(known, t.Image) {
			errs = append(errs, c.toolFault(fmt.Sprintf("/%d/image", i), fmt.Sprintf("names %q, which is no image; images are: %s", t.Image, strings.Join(known, ", "))))
		}
	}
	for i, t := range list {
		if err := c.lendable(t); err != nil {
			errs = append(errs, c.toolFault(fmt.Sprintf("/%d/credential", i), err.Error()))
		}
	}
	tools, err := gateway.NewTools(list)
	if e, ok := errors.AsType[*execution.Error](err); ok && len(e.Fields) > 0 {
		for _, field := range e.Fields {
			errs = append(errs, c.toolFault(field.Pointer, field.Detail))
		}
	} else {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usage("configuration: %w", err)
	}
	return tools, nil
}

// lendable says what of the tool's credential no mount of Vault could lend. Where no Vault
// is configured everything that needs one is denied when it is asked for.
func (c Config) lendable(t execution.Tool) error {
	if t.Credential == nil || c.Vault.Address == "" {
		return nil
	}
	err := c.Vault.mounts().Check(*t.Credential)
	if e, ok := errors.AsType[*execution.Error](err); ok && len(e.Reasons) > 0 {
		return errors.New("is none that vault.mounts can lend: " + e.Reasons[0].Message)
	}
	return err
}

// imageNames are the names that images may be asked for by; none are read where there
// are no tools.
func (c Config) imageNames() ([]string, error) {
	if len(c.Tools) == 0 {
		return nil, nil
	}
	list, err := c.listedImages()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, image := range list {
		names = append(names, image.Name)
	}
	return names, nil
}

// toolFacts are what policy reads of the tools of a configuration file; none, where path
// is empty.
func toolFacts(path string) (map[string]execution.ToolFacts, error) {
	cfg, err := loadConfig(path, func(string) (string, bool) { return "", false })
	if err != nil {
		return nil, err
	}
	tools, err := cfg.toolsWith(nil)
	return tools.Facts(), err
}

// tool is the tool as the gateway takes it. The error is about limits, which have no
// place for one that there is not.
func (t ToolConfig) tool() (execution.Tool, error) {
	tool := execution.Tool{
		Name: t.Name, Description: t.Description, Kind: t.Kind, Arguments: t.Arguments, Image: t.Image, Command: t.Command,
	}
	if t.Request != nil {
		tool.Request = &execution.ToolRequest{Method: t.Request.Method, URL: t.Request.URL}
	}
	for _, text := range t.Network {
		tool.Network = append(tool.Network, destinationOf(text))
	}
	if c := t.Credential; c != nil {
		tool.Credential = &execution.Credential{
			Tool: t.Name, Engine: c.Engine, Mount: c.Mount, Path: c.Path, Role: c.Role, VaultPolicies: c.VaultPolicies, TTLS: c.TTLS, MaxUses: c.MaxUses,
			Strict: c.Strict, Inject: c.Inject, FilePath: c.FilePath, EnvName: c.EnvName,
		}
		for _, b := range c.Bind {
			tool.Credential.Bind = append(tool.Credential.Bind, execution.Binding(b))
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(t.Limits)) {
		limit, known := execution.LimitNamed(name)
		if !known {
			errs = append(errs, fmt.Errorf("line %d: there is no limit %q", t.line([]string{"limits", name}), name))
			continue
		}
		*limit.Of(&tool.Limits) = t.Limits[name]
		if t.Limits[name] == 0 { // which elsewhere says that it is not there
			errs = append(errs, fmt.Errorf("line %d: the limit %s must be from %d to %d", t.line([]string{"limits", name}), name, limit.Min, limit.Max))
		}
	}
	return tool, errors.Join(errs...)
}

// destinationOf splits host:port. What is none has the port 0, which is refused later.
func destinationOf(text string) execution.Destination {
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return execution.Destination{Host: text}
	}
	port, err := strconv.ParseUint(text[at+1:], 10, 16)
	if err != nil {
		port = 0
	}
	host := text[:at]
	if inside, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inside, "]")
	}
	return execution.Destination{Host: host, Port: int(port)}
}

// toolFault is a fault of gateway.NewTools, with the line where it stands. Its pointer
// begins with the tool's index.
func (c Config) toolFault(pointer, detail string) error {
	steps := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	index, err := strconv.Atoi(steps[0])
	if err != nil || index >= len(c.Tools) {
		return errors.New("tools " + detail)
	}
	for i, step := range steps {
		steps[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
	}
	return fmt.Errorf("line %d: tools%s %s", c.Tools[index].line(steps[1:]), pointer, detail)
}

// line is where in the file the deepest of these steps stands that is there.
func (t ToolConfig) line(steps []string) int {
	if t.Node == nil {
		return 0
	}
	node, line := t.Node, t.Node.Line
	for _, step := range steps {
		next := (*yaml.Node)(nil)
		switch node.Kind {
		case yaml.MappingNode:
			for i := 0; i < len(node.Content); i += 2 {
				if node.Content[i].Value == step {
					next, line = node.Content[i+1], node.Content[i].Line
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(node.Content) {
				next, line = node.Content[i], node.Content[i].Line
			}
		}
		if next == nil {
			break
		}
		node = next
	}
	return line
}
