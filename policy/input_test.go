package policy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func fullQuestion() execution.Question {
	q := execution.Question{
		ID: "ex_01", Time: time.Unix(1, 5), TraceID: strings.Repeat("a", 32), Action: execution.ActionExecute,
		Principal: execution.Principal{
			Subject: "ak_01", Tenant: "default", Roles: execution.Roles(), Method: execution.MethodAPIKey,
		},
		Request: execution.Request{
			Language: "python", Code: "print('ä')", Image: "python", Runtime: "runc", Session: "se_01",
			Env:      map[string]string{"B": "2", "A": "1"},
			Files:    []execution.File{{Path: "a/../b.csv", Content: []byte("1,2")}, {Path: "./c"}},
			Network:  []execution.Destination{{Host: "Bücher.Example.", Port: 443}, {Host: "::FFFF:10.0.0.1", Port: 80}},
			Tools:    []string{"github"},
			Metadata: map[string]string{"agent": "triage-bot", "purpose": "report"},
		},
		RequestSHA256:     strings.Repeat("0", 64),
		Image:             execution.Image{Name: "python", Digest: "sha256:00"},
		Counters:          execution.Counters{Running: 3, Executions1M: 4, CPUMS1H: 5, EgressBytes1H: 6, Leases1H: 7},
		PrincipalCounters: execution.Counters{Running: 1, Executions1M: 2, CPUMS1H: 3, EgressBytes1H: 4, Leases1H: 5},
		Approval: &execution.ApprovalGiven{
			ID: "ap_1", By: "ak_2", At: time.Unix(1_700_000_000, 5), Comment: "fine", RequestSHA256: strings.Repeat("0", 64),
		},
	}
	for _, limit := range execution.AllLimits() {
		*limit.Of(&q.Request.Limits) = limit.Max
	}
	return q
}

func toolQuestion() execution.Question {
	args := json.RawMessage(`{"Name":"a<b","n":-1.50e+2,"list":[{"X":null},true]}`)
	q := fullQuestion()
	q.Action, q.Request.Language, q.Request.Code, q.Request.Session = execution.ActionToolCall, "", "", ""
	q.Tool = execution.ToolCall{Name: "adder", Args: args, ArgsSHA256: execution.HexSHA256(args)}
	return q
}

func egressQuestion() execution.Question {
	q := fullQuestion()
	q.Action, q.Egress = execution.ActionEgress, &execution.EgressRequest{Host: "API.Example.com", Port: 443, Method: "POST", Path: "/v1/items", Bytes: 12}
	return q
}

// The document that is evaluated is the document that is enforced, and is what
// the schema describes.
func TestInputDocument(t *testing.T) {
	schema := compileSchema(t)
	for name, test := range map[string]struct {
		question execution.Question
		config   Config
	}{
		"empty":     {execution.Question{Action: execution.ActionExecute}, Config{}},
		"full":      {fullQuestion(), Config{Environment: "production"}},
		"with code": {fullQuestion(), Config{InputCode: true}},
		"tool call": {toolQuestion(), Config{}},
		"egress":    {egressQuestion(), Config{Environment: "production", InputCode: true}},
		"audit":     {execution.Question{Action: execution.ActionAuditRead, ID: "rq_1", Time: time.Unix(0, 0), Principal: fullQuestion().Principal}, Config{}},
		"no code":   {execution.Question{Action: execution.ActionExecute}, Config{InputCode: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "empty" || name == "no code" {
				test.question.Time = time.Unix(0, 0)
			}
			in, refusal := newInput(test.question, test.config)
			if refusal != nil {
				t.Fatal(*refusal)
			}
			content, err := in.encode()
			if err != nil {
				t.Fatal(err)
			}
			fromJSON, err := ast.ValueFromReader(strings.NewReader(string(content)))
			if err != nil {
				t.Fatal(err)
			}
			if got := in.value(); got.Compare(fromJSON) != 0 {
				t.Errorf("evaluated: %s\nenforced:  %s", got, fromJSON)
			}
			instance, err := jsonschema.UnmarshalJSON(strings.NewReader(string(content)))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(instance); err != nil {
				t.Error(err)
			}
			if again, _, err := readInput(content); err != nil || len(again.Action.EnvNames) != len(in.Action.EnvNames) {
				t.Errorf("the document is not read back: %v", err)
			}
		})
	}
}

// What is recorded is read again for what it was, arguments too.
func TestRecordedToolCallIsReadAgain(t *testing.T) {
	text, refusal := InputJSON(toolQuestion(), Config{})
	if refusal != nil {
		t.Fatal(*refusal)
	}
	if again, _, err := recordedInput(mustInputJSON(t, egressQuestion())); err != nil || again.Egress.Host != "api.example.com" {
		t.Errorf("%+v, %v", again, err)
	}
	in, value, err := recordedInput(text)
	if err != nil || in.Action.Tool != "adder" {
		t.Fatalf("%+v, %v", in, err)
	}
	asked, _ := newInput(toolQuestion(), Config{})
	if value.Compare(asked.value()) != 0 {
		t.Errorf("read again: %s\nasked:      %s", value, asked.value())
	}
}

func mustInputJSON(t *testing.T, q execution.Question) []byte {
	t.Helper()
	text, refusal := InputJSON(q, Config{})
	if refusal != nil {
		t.Fatal(*refusal)
	}
	return text
}

// Only a call of a tool has one, and arguments that the evaluator would not take are
// refused before it sees them.
func TestToolOfTheInput(t *testing.T) {
	q := toolQuestion()
	q.Action = execution.ActionExecute
	if in, _ := newInput(q, Config{}); in.Action.Tool != "" || in.Action.Args != nil || in.Action.ArgsSHA256 != "" {
		t.Errorf("an execution calls %+v", in.Action)
	}
	for name, args := range map[string]string{
		"a number that nothing holds": `{"n":1e999}`,
		"a key that is there twice":   `{"n":1,"n":2}`,
		"nesting without end":         strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100),
		"no JSON":                     `{"n":`,
	} {
		q := toolQuestion()
		q.Tool.Args = json.RawMessage(args)
		if _, refusal := newInput(q, Config{}); refusal == nil || refusal.Code != codeArgsUnreadable {
			t.Errorf("%s: %+v", name, refusal)
		}
	}
}

func TestInputIsNormalised(t *testing.T) {
	in, refusal := newInput(fullQuestion(), Config{InputCode: true})
	if refusal != nil {
		t.Fatal(*refusal)
	}
	if want := []string{"A", "B"}; !slices.Equal(in.Action.EnvNames, want) {
		t.Errorf("env_names are %q, want %q", in.Action.EnvNames, want)
	}
	if want := []execution.Destination{{Host: "xn--bcher-kva.example", Port: 443}, {Host: "10.0.0.1", Port: 80}}; !slices.Equal(in.Action.Network, want) {
		t.Errorf("network is %v, want %v", in.Action.Network, want)
	}
	if want := []fileInput{{Path: "b.csv", Bytes: 3}, {Path: "c"}}; !slices.Equal(in.Action.Files, want) {
		t.Errorf("files are %v, want %v", in.Action.Files, want)
	}
	if *in.Action.Code.Text != "print('ä')" || in.Action.Code.Bytes != 11 {
		t.Errorf("code is %+v", in.Action.Code)
	}
	if in, _ := newInput(fullQuestion(), Config{}); in.Action.Code.Text != nil {
		t.Error("the code is in the input")
	}
}

// Hosts that are the same are compared as the same.
func TestNormaliseHost(t *testing.T) {
	for host, want := range map[string]string{
		"API.GitHub.com":        "api.github.com",
		"api.github.com.":       "api.github.com",
		"BÜCHER.example":        "xn--bcher-kva.example",
		"xn--bcher-kva.example": "xn--bcher-kva.example",
		"ａｐｉ.example":           "api.example",
		"2001:DB8:0:0::1":       "2001:db8::1",
		"::ffff:127.0.0.1":      "127.0.0.1",
		"localhost":             "localhost",
	} {
		if got, err := normaliseHost(host); err != nil || got != want {
			t.Errorf("%q is %q, %v: want %q", host, got, err, want)
		}
	}
}

// The schema refuses what is no input document.
func TestSchemaIsStrict(t *testing.T) {
	schema := compileSchema(t)
	for _, document := range []string{
		`{"v": 1, "request": {"id": "", "time_ns": 0, "trace_id": ""}, "principal": {"subject": "", "tenant": "", "roles": [], "method": ""},
			"agent": {"name": "", "session": "", "purpose": ""}, "action": {"kind": "execute"}, "context": {"environment": ""}}`, // which egress may
		`{}`, `{"v": 2}`, `{"v": 1, "request": {}}`, `[]`, `null`,
	} {
		instance, err := jsonschema.UnmarshalJSON(strings.NewReader(document))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(instance) == nil {
			t.Errorf("%s is valid", document)
		}
	}
}

// Every limit has its place in the schema.
func TestSchemaKnowsEveryLimit(t *testing.T) {
	for _, limit := range execution.AllLimits() {
		if !strings.Contains(InputSchema, `"`+limit.Name+`": {"type": "integer"}`) {
			t.Errorf("%s is not in the schema", limit.Name)
		}
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(InputSchema))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("input.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("input.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}
