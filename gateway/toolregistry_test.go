package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// adder is a tool in which nothing is wrong.
func adder() execution.Tool {
	return execution.Tool{
		Name: "adder", Description: "Adds two numbers.", Kind: execution.ToolContainer, Image: "python", Command: []string{"python3", "-c", "1"},
		Arguments: json.RawMessage(`{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}},"required":["a"],"additionalProperties":false}`),
	}
}

func weather() execution.Tool {
	return execution.Tool{
		Name: "weather", Description: "Tells the weather.", Kind: execution.ToolHTTP,
		Arguments: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}},"required":["city"]}`),
		Request:   &execution.ToolRequest{Method: "GET", URL: "https://api.weather.example/v1/{city}?days={days}"},
		Network:   []execution.Destination{{Host: "API.Weather.example", Port: 443}},
		Credential: &execution.Credential{
			Engine: "kv2", Mount: "secret", Path: "weather/key", VaultPolicies: []string{"weather"}, Inject: execution.InjectEgress,
			Bind: []execution.Binding{{Host: "api.weather.Example", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/*"}, Name: "X-Api-Key", Mode: "header"}},
		},
	}
}

func database() execution.Tool {
	return execution.Tool{
		Name: "db", Description: "A database.", Kind: execution.ToolEgress,
		Network: []execution.Destination{{Host: "db.internal", Port: 5432}},
		Credential: &execution.Credential{
			Engine: "database", Mount: "database", Role: "reader", VaultPolicies: []string{"reader"}, TTLS: 60,
			Inject: execution.InjectFile, FilePath: "/tmp/db/pass",
		},
	}
}

func TestToolsThatAreValid(t *testing.T) {
	tools, err := NewTools([]execution.Tool{weather(), database(), adder()})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range tools.all() {
		names = append(names, tool.Name)
	}
	if !slices.Equal(names, []string{"adder", "db", "weather"}) {
		t.Errorf("in the order %v", names)
	}
	facts := tools.Facts()
	if got := facts["weather"]; got.Credential.Tool != "weather" || got.Credential.Bind[0].Host != "api.weather.example" ||
		!slices.Equal(got.Network, []execution.Destination{{Host: "api.weather.example", Port: 443}}) {
		t.Errorf("facts are not in their one spelling: %+v %+v", got, got.Credential)
	}
	want := execution.ToolFacts{Kind: execution.ToolContainer, Image: "python", Network: []execution.Destination{}}
	if diff := cmp.Diff(want, facts["adder"]); diff != "" {
		t.Error(diff)
	}
	if given := weather(); given.Credential.Bind[0].Host == "api.weather.example" {
		t.Error("what was given was changed")
	}
	for _, paths := range [][]string{nil, {"/*"}, {"/v2", "/v1/*"}, {"/v1/berlin"}} {
		bound := weather()
		bound.Credential.Bind[0].Paths = paths
		if _, err := NewTools([]execution.Tool{bound}); err != nil {
			t.Errorf("bound to %q: %v", paths, err)
		}
	}
	for _, name := range []string{"", "s3/eu-west-1"} {
		signed := weather()
		signed.Credential.Bind[0].Mode, signed.Credential.Bind[0].Name = "sigv4", name
		if _, err := NewTools([]execution.Tool{signed}); err != nil {
			t.Errorf("signed for %q: %v", name, err)
		}
	}
	var none *Tools
	if none.get("adder") != nil || len(none.Facts()) != 0 || none.anyImage() != "" {
		t.Error("no registry has tools")
	}
}

func TestToolsThatAreNot(t *testing.T) {
	container := func(change func(*execution.Tool)) execution.Tool { tool := adder(); change(&tool); return tool }
	http := func(change func(*execution.Tool)) execution.Tool { tool := weather(); change(&tool); return tool }
	db := func(change func(*execution.Tool)) execution.Tool { tool := database(); change(&tool); return tool }
	schema := func(text string) execution.Tool {
		return container(func(tool *execution.Tool) { tool.Arguments = json.RawMessage(text) })
	}
	path := func(p string) execution.Tool { return http(func(tool *execution.Tool) { tool.Credential.Path = p }) }
	url := func(u string) execution.Tool { return http(func(tool *execution.Tool) { tool.Request.URL = u }) }
	for name, test := range map[string]struct {
		tool    execution.Tool
		pointer string
	}{
		"no name":               {container(func(x *execution.Tool) { x.Name = "" }), "/name"},
		"a name that climbs":    {container(func(x *execution.Tool) { x.Name = "../x" }), "/name"},
		"a name in upper case":  {container(func(x *execution.Tool) { x.Name = "Adder" }), "/name"},
		"a long name":           {container(func(x *execution.Tool) { x.Name = strings.Repeat("a", 65) }), "/name"},
		"no description":        {container(func(x *execution.Tool) { x.Description = " " }), "/description"},
		"a long description":    {container(func(x *execution.Tool) { x.Description = strings.Repeat("a", 5000) }), "/description"},
		"no kind":               {container(func(x *execution.Tool) { x.Kind = "" }), "/kind"},
		"an unknown kind":       {container(func(x *execution.Tool) { x.Kind = "lambda" }), "/kind"},
		"no image":              {container(func(x *execution.Tool) { x.Image = "" }), "/image"},
		"an image of elsewhere": {container(func(x *execution.Tool) { x.Image = "docker.io/evil:latest" }), "/image"},
		"no command":            {container(func(x *execution.Tool) { x.Command = nil }), "/command"},
		"an empty program":      {container(func(x *execution.Tool) { x.Command = []string{""} }), "/command/0"},
		"a request":             {container(func(x *execution.Tool) { x.Request = &execution.ToolRequest{} }), "/request"},
		"a limit of too much":   {container(func(x *execution.Tool) { x.Limits.PIDs = 1 << 40 }), "/limits/pids"},
		"a wildcard":            {container(func(x *execution.Tool) { x.Network = []execution.Destination{{Host: "*", Port: 443}} }), "/network/0"},
		"no port":               {container(func(x *execution.Tool) { x.Network = []execution.Destination{{Host: "a.example"}} }), "/network/0"},
		"one host in two cases": {container(func(x *execution.Tool) {
			x.Network = []execution.Destination{{Host: "a.example", Port: 1}, {Host: "A.example", Port: 1}}
		}), "/network/1"},

		"no schema":                {schema(""), "/arguments"},
		"a schema of true":         {schema("true"), "/arguments/type"},
		"a schema of a list":       {schema(`{"type":"array"}`), "/arguments/type"},
		"a schema of anything":     {schema(`{}`), "/arguments/type"},
		"no JSON":                  {schema(`{"type":`), "/arguments/type"},
		"a key twice":              {schema(`{"type":"object","type":"object"}`), "/arguments/type"},
		"a type that is none":      {schema(`{"type":"object","properties":{"a":{"type":"text"}}}`), "/arguments/properties/a/type"},
		"a pattern that is none":   {schema(`{"type":"object","properties":{"a":{"pattern":"("}}}`), "/arguments/properties/a/pattern"},
		"a reference over HTTP":    {schema(`{"type":"object","properties":{"a":{"$ref":"http://127.0.0.1:1/x"}}}`), "/arguments/properties/a/$ref"},
		"a reference to a file":    {schema(`{"type":"object","$defs":{"a":{"$ref":"file:///etc/passwd"}}}`), "/arguments/$defs/a/$ref"},
		"a dynamic reference":      {schema(`{"type":"object","$dynamicRef":"http://127.0.0.1:1/x"}`), "/arguments/$dynamicRef"},
		"a reference to nowhere":   {schema(`{"type":"object","properties":{"a":{"$ref":"#/$defs/b"}}}`), "/arguments"},
		"another metaschema":       {schema(`{"type":"object","$schema":"http://127.0.0.1:1/x"}`), "/arguments"},
		"a costly keyword":         {schema(`{"type":"object","properties":{"a":{"uniqueItems":true}}}`), "/arguments/properties/a/uniqueItems"},
		"a number that is costly":  {schema(`{"type":"object","properties":{"a":{"multipleOf":1e-999999999}}}`), "/arguments/properties/a/multipleOf"},
		"a schema without end":     {schema(`{"type":"object","not":` + strings.Repeat(`{"not":`, 100) + "{}" + strings.Repeat("}", 101)), "/arguments"},
		"a schema of a 100 KiB":    {schema(`{"type":"object","description":"` + strings.Repeat("x", 100<<10) + `"}`), "/arguments"},
		"minimum that is a string": {schema(`{"type":"object","properties":{"a":{"minimum":"1"}}}`), "/arguments/properties/a/minimum"},

		"an unknown engine":     {http(func(x *execution.Tool) { x.Credential.Engine = "consul" }), "/credential/engine"},
		"no mount":              {http(func(x *execution.Tool) { x.Credential.Mount = "" }), "/credential/mount"},
		"a mount that climbs":   {http(func(x *execution.Tool) { x.Credential.Mount = "../sys" }), "/credential/mount"},
		"no path":               {path(""), "/credential/path"},
		"a path that climbs":    {path("a/../../sys/raw"), "/credential/path"},
		"a path that is ..":     {path(".."), "/credential/path"},
		"an absolute path":      {path("/a"), "/credential/path"},
		"a path to a folder":    {path("a/"), "/credential/path"},
		"a path with nothing":   {path("a//b"), "/credential/path"},
		"a path that stays":     {path("a/./b"), "/credential/path"},
		"a glob":                {path("a/*"), "/credential/path"},
		"a plus":                {path("a/+/b"), "/credential/path"},
		"an escape":             {path("a/%2e%2e/b"), "/credential/path"},
		"a query":               {path("a?version=1"), "/credential/path"},
		"a fragment":            {path("a#b"), "/credential/path"},
		"a line":                {path("a\r\nX-Vault-Namespace: b"), "/credential/path"},
		"a letter of elsewhere": {path("ａ"), "/credential/path"},
		"a role of kv":          {http(func(x *execution.Tool) { x.Credential.Role = "reader" }), "/credential/role"},
		"no role of a database": {db(func(x *execution.Tool) { x.Credential.Role = "" }), "/credential/role"},
		"a role that climbs":    {db(func(x *execution.Tool) { x.Credential.Role = "../x" }), "/credential/role"},
		"no policies of Vault":  {http(func(x *execution.Tool) { x.Credential.VaultPolicies = nil }), "/credential/vault_policies"},
		"the policy root":       {http(func(x *execution.Tool) { x.Credential.VaultPolicies = []string{"Root"} }), "/credential/vault_policies/0"},
		"a negative ttl":        {http(func(x *execution.Tool) { x.Credential.TTLS = -1 }), "/credential/ttl_s"},
		"the policy default":    {http(func(x *execution.Tool) { x.Credential.VaultPolicies = []string{"a", "default"} }), "/credential/vault_policies/1"},
		"a role and a path":     {db(func(x *execution.Tool) { x.Credential.Path = "static-creds/a" }), "/credential/path"},
		"uses of a file":        {db(func(x *execution.Tool) { x.Credential.MaxUses = 1 }), "/credential/max_uses"},
		"a file that is strict": {db(func(x *execution.Tool) { x.Credential.Strict = true }), "/credential/strict"},
		"a variable of Python": {db(func(x *execution.Tool) {
			c := x.Credential
			c.Inject, c.FilePath, c.EnvName = execution.InjectEnv, "", "PYTHON"
		}), "/credential/env_name"},
		"negative uses": {http(func(x *execution.Tool) { x.Credential.MaxUses = -1 }), "/credential/max_uses"},
		"no injection":  {http(func(x *execution.Tool) { x.Credential.Inject = "" }), "/credential/inject"},
		"a file for http": {http(func(x *execution.Tool) {
			x.Credential.Inject, x.Credential.FilePath, x.Credential.Bind = execution.InjectFile, "/tmp/a", nil
		}), "/credential/inject"},
		"no file":               {db(func(x *execution.Tool) { x.Credential.FilePath = "" }), "/credential/file_path"},
		"a file in the system":  {db(func(x *execution.Tool) { x.Credential.FilePath = "/etc/passwd" }), "/credential/file_path"},
		"a file that climbs":    {db(func(x *execution.Tool) { x.Credential.FilePath = "/tmp/../etc/passwd" }), "/credential/file_path"},
		"a file that goes back": {db(func(x *execution.Tool) { x.Credential.FilePath = "/workspace/out/key" }), "/credential/file_path"},
		"a file of the gateway": {db(func(x *execution.Tool) { x.Credential.FilePath = "/tmp/.execgate/key" }), "/credential/file_path"},
		"a file and a variable": {db(func(x *execution.Tool) { x.Credential.EnvName = "DB" }), "/credential/env_name"},
		"a file and a binding":  {db(func(x *execution.Tool) { x.Credential.Bind = weather().Credential.Bind }), "/credential/bind"},
		"a variable of ours": {db(func(x *execution.Tool) {
			c := x.Credential
			c.Inject, c.FilePath, c.EnvName = execution.InjectEnv, "", "EXECGATE_X"
		}), "/credential/env_name"},
		"egress without a key":   {db(func(x *execution.Tool) { x.Credential = nil }), "/credential"},
		"egress with arguments":  {db(func(x *execution.Tool) { x.Arguments = adder().Arguments }), "/arguments"},
		"egress with an image":   {db(func(x *execution.Tool) { x.Image = "python" }), "/image"},
		"no binding":             {http(func(x *execution.Tool) { x.Credential.Bind = nil }), "/credential/bind"},
		"a binding of elsewhere": {http(func(x *execution.Tool) { x.Credential.Bind[0].Host = "evil.example" }), "/credential/bind/0"},
		"a binding of *":         {http(func(x *execution.Tool) { x.Credential.Bind[0].Host = "*.example" }), "/credential/bind/0"},
		"a binding of no mode":   {http(func(x *execution.Tool) { x.Credential.Bind[0].Mode = "cookie" }), "/credential/bind/0/mode"},
		"a header without name":  {http(func(x *execution.Tool) { x.Credential.Bind[0].Name = "" }), "/credential/bind/0/name"},
		"a header with a line":   {http(func(x *execution.Tool) { x.Credential.Bind[0].Name = "X\r\nY" }), "/credential/bind/0/name"},
		"a header that frames":   {http(func(x *execution.Tool) { x.Credential.Bind[0].Name = "Transfer-Encoding" }), "/credential/bind/0/name"},
		"bearer with a name":     {http(func(x *execution.Tool) { x.Credential.Bind[0].Mode = "bearer" }), "/credential/bind/0/name"},
		"signed for a service":   {http(func(x *execution.Tool) { x.Credential.Bind[0].Mode, x.Credential.Bind[0].Name = "sigv4", "s3" }), "/credential/bind/0/name"},
		"a method in lower case": {http(func(x *execution.Tool) { x.Credential.Bind[0].Methods = []string{"get"} }), "/credential/bind/0/methods/0"},
		"paths that climb":       {http(func(x *execution.Tool) { x.Credential.Bind[0].Paths = []string{"/v1/../admin"} }), "/credential/bind/0/paths/0"},
		"paths with a glob":      {http(func(x *execution.Tool) { x.Credential.Bind[0].Paths = []string{"/*/admin"} }), "/credential/bind/0/paths/0"},

		"a binding of no use": {http(func(x *execution.Tool) { x.Credential.Bind[0].Methods = []string{"POST"} }), "/credential/bind"},
		"a path of no use":    {http(func(x *execution.Tool) { x.Credential.Bind[0].Paths = []string{"/v2/*", "/v1"} }), "/credential/bind"},
		"a host of no use": {http(func(x *execution.Tool) {
			x.Network = append(x.Network, execution.Destination{Host: "other.example", Port: 443})
			x.Credential.Bind[0].Host = "other.example"
		}), "/credential/bind"},
		"a path of no use without arguments": {http(func(x *execution.Tool) {
			x.Request.URL = "https://api.weather.example/v1"
		}), "/credential/bind"},

		"no request":               {http(func(x *execution.Tool) { x.Request = nil }), "/request"},
		"no method":                {http(func(x *execution.Tool) { x.Request.Method = "" }), "/request/method"},
		"no URL":                   {url(""), "/request/url"},
		"http":                     {url("http://api.weather.example/v1/{city}"), "/request/url"},
		"a host of the caller's":   {url("https://{city}/v1"), "/request/url"},
		"a part of the host":       {url("https://api.{city}.example/v1"), "/request/url"},
		"a port of the caller's":   {url("https://api.weather.example:{days}/v1"), "/request/url"},
		"a host of elsewhere":      {url("https://evil.example/v1/{city}"), "/request/url"},
		"another port":             {url("https://api.weather.example:8443/v1/{city}"), "/request/url"},
		"a user":                   {url("https://user:pass@api.weather.example/v1/{city}"), "/request/url"},
		"a fragment of it":         {url("https://api.weather.example/v1/{city}#x"), "/request/url"},
		"a path of it that climbs": {url("https://api.weather.example/v1/../{city}"), "/request/url"},
		"an argument that is none": {url("https://api.weather.example/v1/{town}"), "/request/url"},
		"a path without its part":  {url("https://api.weather.example/v1/{days}"), "/request/url"},
		"a brace that is left":     {url("https://api.weather.example/v1/{city"), "/request/url"},
		"https in upper case":      {url("HTTPS://api.weather.example/v1/{city}"), "/request/url"},
		"an address":               {url("https://10.0.0.1/v1/{city}"), "/request/url"},
		"an address in brackets":   {url("https://[2001:db8::1]/v1/{city}"), "/request/url"},
		"no host":                  {url("https:///v1/{city}"), "/request/url"},
		"a name of a parameter":    {url("https://api.weather.example/v1/{city}?{days}=1"), "/request/url"},
		"a path of it that splits": {url("https://api.weather.example/v1;x/{city}"), "/request/url"},
		"a path of it with quotes": {url("https://api.weather.example/v1/\"{city}\""), "/request/url"},
		"memory of a request":      {http(func(x *execution.Tool) { x.Limits = execution.Limits{TimeoutMS: 1000, MemoryMiB: 64} }), "/limits"},
		"the tools themselves":     {http(func(x *execution.Tool) { x.Network[0] = execution.Destination{Host: "Tools.Execgate", Port: 443} }), "/network/0"},
		"tools that call tools":    {container(func(x *execution.Tool) { x.Network = []execution.Destination{{Host: "tools.execgate", Port: 80}} }), "/network/0"},
		"http with an image":       {http(func(x *execution.Tool) { x.Image = "python" }), "/image"},
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			took := time.Hour
			for try := 0; try < 3 && took > 5*time.Second; try++ { // a busy machine is not slow each time
				began := time.Now()
				_, err = NewTools([]execution.Tool{{
					Name: "first", Description: "d", Kind: execution.ToolContainer, Image: "python", Command: []string{"a"}, Arguments: adder().Arguments,
				}, test.tool})
				took = min(took, time.Since(began))
			}
			e, ok := errors.AsType[*execution.Error](err)
			if !ok || e.Kind != execution.KindInvalid || len(e.Fields) == 0 {
				t.Fatalf("error %v", err)
			}
			if e.Fields[0].Pointer != "/1"+test.pointer || e.Fields[0].Detail == "" {
				t.Errorf("faults %+v: want /1%s", e.Fields, test.pointer)
			}
			if took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestToolsOfOneName(t *testing.T) {
	_, err := NewTools([]execution.Tool{adder(), weather(), adder()})
	e, _ := errors.AsType[*execution.Error](err)
	if e == nil || len(e.Fields) != 1 || e.Fields[0].Pointer != "/2/name" {
		t.Errorf("%v", err)
	}
	many := make([]execution.Tool, maxToolsListed+1)
	for i := range many {
		many[i] = adder()
		many[i].Name = fmt.Sprintf("t%d", i)
	}
	if _, err := NewTools(many); execution.KindOf(err) != execution.KindInvalid {
		t.Errorf("%d tools: %v", len(many), err)
	}
}
