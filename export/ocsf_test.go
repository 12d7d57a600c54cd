package export

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
)

// What OCSF 1.8.0 requires of each class and object, from the schema's own definitions
// (github.com/ocsf/ocsf-schema: events/base_event.json, events/application/api_activity.json,
// events/system/process_activity.json, events/iam/authentication.json and objects/).
type required struct {
	all   []string
	oneOf []string // at least one
	enums map[string][]int
}

var baseEvent = []string{"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}

var ocsfClasses = map[int]required{
	6003: {all: append([]string{"actor", "api", "src_endpoint"}, baseEvent...), enums: map[string][]int{"activity_id": {0, 1, 2, 3, 4, 99}, "category_uid": {6}}},
	1007: {all: append([]string{"actor", "device", "process"}, baseEvent...), enums: map[string][]int{"activity_id": {0, 1, 2, 3, 4, 5, 99}, "category_uid": {1}}},
	3002: {
		all: append([]string{"user"}, baseEvent...), oneOf: []string{"service", "dst_endpoint"},
		enums: map[string][]int{"activity_id": {0, 1, 2, 3, 4, 5, 6, 7, 99}, "category_uid": {3}},
	},
}

var endpoint = required{oneOf: []string{"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"}}

var ocsfObjects = map[string]required{
	"metadata":     {all: []string{"product", "version"}},
	"product":      {oneOf: []string{"name", "uid"}},
	"actor":        {oneOf: []string{"process", "user", "invoked_by", "session", "app_name", "app_uid"}},
	"user":         {oneOf: []string{"account", "name", "uid"}},
	"api":          {all: []string{"operation"}},
	"request":      {all: []string{"uid"}},
	"service":      {oneOf: []string{"name", "uid"}},
	"src_endpoint": endpoint,
	"dst_endpoint": endpoint,
	"device": {
		all: []string{"type_id"}, oneOf: []string{"ip", "uid", "name", "hostname", "instance_uid", "interface_uid", "interface_name"},
		enums: map[string][]int{"type_id": {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 99}},
	},
	"process":   {oneOf: []string{"pid", "uid", "cpid"}},
	"resources": {oneOf: []string{"name", "uid"}},
	"groups":    {oneOf: []string{"name", "uid"}},
}

// holds reports what an event lacks.
func holds(event map[string]any) []string {
	class, ok := number(event["class_uid"])
	if !ok {
		return []string{"class_uid is missing"}
	}
	faults := ocsfClasses[class].faults("event", event)
	if len(ocsfClasses[class].all) == 0 {
		faults = append(faults, fmt.Sprintf("the class %d is not one of those", class))
	}
	activity, _ := number(event["activity_id"])
	if typ, _ := number(event["type_uid"]); typ != class*100+activity {
		faults = append(faults, fmt.Sprintf("type_uid is %d", typ))
	}
	if at, ok := number(event["time"]); !ok || at < 1e12 {
		faults = append(faults, "time is not in milliseconds")
	}
	for name, values := range map[string][]int{"severity_id": {0, 1, 2, 3, 4, 5, 6, 99}, "status_id": {0, 1, 2, 99}} {
		if n, ok := number(event[name]); !ok || !slices.Contains(values, n) {
			faults = append(faults, fmt.Sprintf("%s is %v", name, event[name]))
		}
	}
	delete(event, "unmapped") // whatever a producer likes
	return append(faults, faultsWithin(event)...)
}

func faultsWithin(object map[string]any) []string {
	var faults []string
	for name, value := range object {
		list, isList := value.([]any)
		if !isList {
			list = []any{value}
		}
		for _, element := range list {
			if inner, ok := element.(map[string]any); ok {
				known, ok := ocsfObjects[name]
				if !ok {
					faults = append(faults, name+" is no object that this test knows")
				}
				faults = append(append(faults, known.faults(name, inner)...), faultsWithin(inner)...)
			}
		}
	}
	return faults
}

func (r required) faults(name string, object map[string]any) []string {
	var faults []string
	for _, key := range r.all {
		if object[key] == nil {
			faults = append(faults, name+" lacks "+key)
		}
	}
	if len(r.oneOf) > 0 && !slices.ContainsFunc(r.oneOf, func(key string) bool { return object[key] != nil && object[key] != "" }) {
		faults = append(faults, fmt.Sprintf("%s has none of %q", name, r.oneOf))
	}
	for key, values := range r.enums {
		if n, ok := number(object[key]); !ok || !slices.Contains(values, n) {
			faults = append(faults, fmt.Sprintf("%s.%s is %v", name, key, object[key]))
		}
	}
	return faults
}

func number(v any) (int, bool) {
	f, ok := v.(float64)
	return int(f), ok && f == float64(int(f))
}

func ofType(kind execution.RecordType, r execution.Record) execution.Record {
	r.V, r.Type, r.Time = execution.RecordVersion, kind, time.Date(2026, 1, 2, 3, 4, 5, 6_000_000, time.UTC)
	return r
}

// samples has a record of every type, and more of those that become events of several
// kinds.
func samples() map[string]execution.Record {
	principal := &execution.Principal{Subject: "key-1", Tenant: "ci", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey}
	code := 3
	decision := func(e execution.Effect) *execution.Decided {
		return &execution.Decided{Action: execution.ActionToolCall, Tool: "adder", Image: "python", Decision: execution.Decision{
			Effect: e, Reasons: []execution.Reason{{Code: "why"}},
		}}
	}
	all := map[string]execution.Record{
		"decided_deny":     ofType(execution.RecordDecided, execution.Record{Execution: "ex", Principal: principal, RequestID: "r", Decided: decision(execution.EffectDeny)}),
		"decided_approval": ofType(execution.RecordDecided, execution.Record{Principal: principal, Decided: decision(execution.EffectRequireApproval)}),
		"decided_zero":     ofType(execution.RecordDecided, execution.Record{Decided: &execution.Decided{}}),
		"ended_crash":      ofType(execution.RecordEnded, execution.Record{Ended: &execution.Ended{Outcome: execution.OutcomeUnknownCrash}}),
		"session_ended":    ofType(execution.RecordSession, execution.Record{Session: &execution.SessionChange{ID: "s", What: execution.SessionClosed, Reason: "idle"}}),
		"file_put":         ofType(execution.RecordSession, execution.Record{Session: &execution.SessionChange{ID: "s", What: execution.SessionPut, File: &execution.ArtifactHash{Path: "a"}}}),
		"file_got":         ofType(execution.RecordSession, execution.Record{Session: &execution.SessionChange{ID: "s", What: execution.SessionGot}}),
		"unknown_caller":   ofType(execution.RecordAuthenticationFailed, execution.Record{AuthenticationFailed: &execution.AuthenticationFailed{Reason: "missing"}}),
		"revoke_failed":    ofType(execution.RecordLeaseRevoked, execution.Record{Lease: &execution.LeaseChange{Error: "vault_unavailable"}}),
		"egress_denied":    ofType(execution.RecordEgressDecided, execution.Record{EgressDecided: &execution.EgressDecided{Effect: execution.EffectDeny, Code: "no"}}),
		"of_the_future":    ofType("heartbeat", execution.Record{}),
	}
	bodies := map[execution.RecordType]execution.Record{
		execution.RecordDecided:              {Execution: "ex", Principal: principal, RequestID: "r", Decided: decision(execution.EffectAllow)},
		execution.RecordStarted:              {Execution: "ex", Principal: principal, Started: &execution.Started{DecidedSeq: 1, Start: execution.StartWarm, WaitMS: 4}},
		execution.RecordEnded:                {Execution: "ex", Principal: principal, Ended: &execution.Ended{Outcome: execution.OutcomeExited, ExitCode: &code, Usage: execution.Usage{WallMS: 12}}},
		execution.RecordSession:              {Principal: principal, Session: &execution.SessionChange{ID: "s", What: execution.SessionOpened}},
		execution.RecordAuthenticationFailed: {AuthenticationFailed: &execution.AuthenticationFailed{Reason: "expired", KeyID: "key-1", Remote: "[2001:db8::1]:4711"}},
		execution.RecordEgressDecided: {Execution: "ex", EgressDecided: &execution.EgressDecided{
			Host: "api.example.com", Port: 443, Effect: execution.EffectAllow, Address: "192.0.2.1:443", Binding: "github",
		}},
		execution.RecordEgressEnded:   {Execution: "ex", EgressEnded: &execution.EgressEnded{WallMS: 5, Error: "reset"}},
		execution.RecordConfigChanged: {Config: &execution.ConfigChange{Digest: "00", Changed: []string{"policy.folder"}}},
		execution.RecordErased:        {Principal: principal, Erasure: &execution.Erasure{Tenant: "ci", Subject: "key-2", Inputs: 3}},
		execution.RecordGap:           {Gap: &execution.Gap{File: "0000000001.segment"}},
	}
	for _, kind := range []execution.RecordType{execution.RecordPolicyActivated, execution.RecordPolicyRefused} {
		bodies[kind] = execution.Record{Policy: &execution.PolicyChange{Source: "embedded", Errors: []string{"no"}}}
	}
	for _, kind := range []execution.RecordType{execution.RecordKeyCreated, execution.RecordKeyRevoked} {
		bodies[kind] = execution.Record{Principal: principal, Key: &execution.KeyChange{ID: "key-2", Tenant: "other"}}
	}
	for _, kind := range []execution.RecordType{
		execution.RecordApprovalRequested, execution.RecordApprovalApproved, execution.RecordApprovalDenied, execution.RecordApprovalExpired, execution.RecordApprovalVoided,
	} {
		bodies[kind] = execution.Record{Principal: principal, Approval: &execution.ApprovalChange{ID: "ap"}}
	}
	for _, kind := range []execution.RecordType{execution.RecordLeaseIssued, execution.RecordLeaseRevoked} {
		bodies[kind] = execution.Record{Execution: "ex", Principal: principal, Lease: &execution.LeaseChange{Lease: execution.Lease{Tool: "github", ID: "l"}}}
	}
	for _, kind := range []execution.RecordType{execution.RecordPolicyFlip, execution.RecordReplayDiffers} {
		bodies[kind] = execution.Record{Execution: "ex", Flip: &execution.PolicyFlip{Candidate: "sha256:x", Was: execution.EffectDeny, Is: execution.EffectAllow}}
	}
	for _, kind := range execution.RecordTypes() {
		all[string(kind)] = ofType(kind, bodies[kind]) // of a type that is new without a body
	}
	return all
}

func TestEventsHaveWhatOCSFRequires(t *testing.T) {
	p := producer{log: logID, version: "1.0.0", host: "gate-1", process: "1"}
	golden := map[string]json.RawMessage{}
	for name, r := range samples() {
		bare := name == string(r.Type) && cmp.Equal(r, ofType(r.Type, execution.Record{})) // of a type that this test has no body for
		for _, p := range []producer{p, {log: logID}} {                                    // as little as may be known
			text, err := encodeJSON(r.Seq, p.event(&r))
			if err != nil {
				t.Fatal(err)
			}
			if p.host != "" && !bare {
				golden[name] = text
			}
			var event map[string]any
			if err := json.Unmarshal(text, &event); err != nil {
				t.Fatal(err)
			}
			if unmapped, _ := event["unmapped"].(map[string]any); unmapped["log"] != logID || unmapped["type"] != string(r.Type) {
				t.Errorf("%s: the record itself is not in the event", name)
			}
			for _, fault := range holds(event) {
				t.Errorf("%s: %s", name, fault)
			}
		}
	}
	compareGolden(t, "ocsf.json", golden)
}

// The test of the events would notice what is missing.
func TestValidatorNotices(t *testing.T) {
	p := producer{log: logID, host: "gate-1"}
	for _, spoil := range []func(map[string]any){
		func(e map[string]any) { delete(e, "actor") },
		func(e map[string]any) { delete(e, "src_endpoint") },
		func(e map[string]any) { e["src_endpoint"] = map[string]any{"port": 1.0} },
		func(e map[string]any) { e["activity_id"] = 17.0 },
		func(e map[string]any) { e["type_uid"] = 1.0 },
		func(e map[string]any) { delete(e["metadata"].(map[string]any), "version") },
		func(e map[string]any) { e["severity_id"] = "high" },
		func(e map[string]any) { e["time"] = 1.7e9 },
	} {
		r := samples()["decided"]
		text, err := json.Marshal(p.event(&r))
		if err != nil {
			t.Fatal(err)
		}
		var event map[string]any
		if err := json.Unmarshal(text, &event); err != nil {
			t.Fatal(err)
		}
		spoil(event)
		if len(holds(event)) == 0 {
			t.Errorf("nothing is found wrong with %v", event)
		}
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

// compareGolden holds events against testdata.
func compareGolden(t *testing.T, name string, got map[string]json.RawMessage) {
	t.Helper()
	text, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(mustRead(t, path)), string(text)); diff != "" {
		t.Errorf("%s: -want +got\n%s", path, diff)
	}
}
