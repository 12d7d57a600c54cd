package policy_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

func githubTool() execution.ToolFacts {
	return execution.Tool{
		Name: "github", Kind: execution.ToolContainer, Image: "python", Command: []string{"hub"},
		Network: []execution.Destination{{Host: "api.github.com", Port: 443}},
		Credential: &execution.Credential{
			Tool: "github", Engine: "kv2", Mount: "secret", Path: "github", VaultPolicies: []string{"github"}, TTLS: 60, Inject: execution.InjectFile, FilePath: "/tmp/github",
		},
	}.Facts()
}

func callOf(tool string) execution.Question {
	q := question()
	args := json.RawMessage(`{"repo":"a/b"}`)
	q.Action, q.Request = execution.ActionToolCall, execution.Request{Image: "python", Command: []string{"hub"}}
	q.Tool = execution.ToolCall{Name: tool, Args: args, ArgsSHA256: execution.HexSHA256(args)}
	return q
}

// A policy reads what a tool is, its credential in the very form in which it is
// granted, and what it is called with.
func TestPoliciesReadTools(t *testing.T) {
	bundle := rego(`package execgate

decision := {"effect": "deny", "reasons": [{"code": "seen"}]} if {
	data.tools == {"github": {
		"kind": "container", "image": "python", "network": [{"host": "api.github.com", "port": 443}],
		"credential": {
			"tool": "github", "engine": "kv2", "mount": "secret", "path": "github",
			"vault_policies": ["github"], "ttl_s": 60, "inject": "file", "file_path": "/tmp/github",
		},
	}}
	input.action.tool == "github"
	input.action.args == {"repo": "a/b"}
	input.action.args_sha256 == "` + callOf("github").Tool.ArgsSHA256 + `"
}`)
	bundle.Tools = map[string]execution.ToolFacts{"github": githubTool()}
	if d := decide(t, bundle, callOf("github")); len(d.Reasons) != 1 || d.Reasons[0].Code != "seen" {
		t.Errorf("%+v", d)
	}
}

// A tool that changes changes the revision: a decision names what was read. Without
// tools the revision is what it always was.
func TestToolsArePartOfTheRevision(t *testing.T) {
	seen := map[string]string{}
	for name, tools := range map[string]map[string]execution.ToolFacts{
		"none": nil, "one": {"github": githubTool()}, "by another name": {"hub": githubTool()},
		"of another kind": {"github": {Kind: execution.ToolEgress}}, "two": {"github": githubTool(), "hub": githubTool()},
	} {
		bundle := shipped()
		bundle.Tools = tools
		revision, err := bundle.Revision()
		if err != nil {
			t.Fatal(err)
		}
		if other, again := seen[revision]; again {
			t.Errorf("%s and %s have one revision", name, other)
		}
		seen[revision] = name
	}
	bundle := answer(`{"effect": "deny"}`)
	if revision, err := bundle.Revision(); err != nil || revision != "sha256:82ed1e9155a326132db901693afe21e1a90c476cf83d07f54ffe085631550983" {
		t.Errorf("a bundle without tools is %s, %v: what is kept under its old revision cannot be read", revision, err)
	}
}

// A bundle that is kept is kept with its tools.
func TestToolsArePacked(t *testing.T) {
	bundle := shipped()
	bundle.Tools = map[string]execution.ToolFacts{"github": githubTool()}
	document, _, revision, err := policy.Pack(bundle)
	if err != nil {
		t.Fatal(err)
	}
	read, err := policy.Unpack(document, revision)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(bundle.Tools, read.Tools); diff != "" {
		t.Error(diff)
	}
}

func TestShippedPolicyGrantsToolsByName(t *testing.T) {
	files, err := policy.ReadFiles(policies.Files)
	if err != nil {
		t.Fatal(err)
	}
	var data map[string]map[string]any
	if err := json.Unmarshal(files["data.json"], &data); err != nil {
		t.Fatal(err)
	}
	data["tenants"]["default"].(map[string]any)["tools"] = []string{"github"}
	granting := policy.Files{}
	for name, text := range files {
		granting[name] = text
	}
	if granting["data.json"], err = json.Marshal(data); err != nil {
		t.Fatal(err)
	}
	tools := map[string]execution.ToolFacts{
		"github": {Kind: execution.ToolContainer, Image: "python"}, "other": {Kind: execution.ToolContainer, Image: "python"},
	}
	bundle := policy.Bundle{Files: granting, Source: "test", Images: map[string]string{"python": digest}, Tools: tools}
	if d := decide(t, bundle, callOf("github")); !d.Allowed() || d.Grant.Image != digest {
		t.Errorf("%+v", d)
	}
	// Its credential is granted with it.
	tools["github"] = githubTool()
	q := callOf("github")
	q.Request.Tools = []string{"github"}
	if d := decide(t, bundle, q); !d.Allowed() || len(d.Grant.Credentials) != 1 || d.Grant.Credentials[0].Path != "github" || d.Grant.Credentials[0].Tool != "github" {
		t.Errorf("%+v", d)
	}
	for _, name := range []string{"other", "no-such-tool"} {
		wantDenied(t, decide(t, bundle, callOf(name)), "tool_not_granted")
	}
	bundle.Files = policies.Files
	wantDenied(t, decide(t, bundle, callOf("github")), "tool_not_granted")
}

// A call that runs nothing needs no image, and is granted none. Whatever runs needs one.
func TestCallsThatRunNothing(t *testing.T) {
	nothing := callOf("weather")
	nothing.Image, nothing.Request = execution.Image{}, execution.Request{}
	allowing := rego("package execgate\n\ndecision := " + whole)
	if d := decide(t, allowing, nothing); !d.Allowed() || d.Grant.Image != "" {
		t.Errorf("%+v", d)
	}
	for name, change := range map[string]func(*execution.Question){
		"an image that is not there": func(q *execution.Question) { q.Image.Name = "python" },
		"an execution":               func(q *execution.Question) { q.Action = execution.ActionExecute },
	} {
		t.Run(name, func(t *testing.T) {
			q := nothing
			change(&q)
			wantDenied(t, decide(t, allowing, q), "image_not_granted")
		})
	}
}

// The operator's ceiling of tools bounds calls too.
func TestToolsAreBoundByCeilings(t *testing.T) {
	allowing := rego("package execgate\n\ndecision := " + whole)
	for name, test := range map[string]struct {
		ceilings policy.Ceilings
		question execution.Question
		allowed  bool
	}{
		"named":     {policy.Ceilings{Ceiling: policy.Ceiling{Tools: []string{"github"}}}, callOf("github"), true},
		"not named": {policy.Ceilings{Ceiling: policy.Ceiling{Tools: []string{"other"}}}, callOf("github"), false},
		"none":      {policy.Ceilings{Ceiling: policy.Ceiling{Tools: []string{}}}, callOf("github"), false},
		"execution": {policy.Ceilings{Ceiling: policy.Ceiling{Tools: []string{}}}, question(), true},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newEngine(t, policy.Config{Deadline: 30e9}, allowing)
			if err := engine.SetCeilings(test.ceilings); err != nil {
				t.Fatal(err)
			}
			d := engine.Decide(t.Context(), test.question)
			if d.Allowed() != test.allowed {
				t.Errorf("%+v", d)
			}
			if !test.allowed {
				wantDenied(t, d, "tool_not_granted")
			}
		})
	}
}
