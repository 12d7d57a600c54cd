package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
)

// The rules open what was used and no more.
func TestSuggestedRulesAreTight(t *testing.T) {
	const intercept, tunnel, forward = execution.NetworkIntercept, execution.NetworkTunnel, execution.NetworkForward
	type record = execution.EgressDecided
	type rule = execution.NetworkRule
	get := func(path string, port int) record {
		return record{Host: "a.example", Port: port, Mode: intercept, Effect: "allow", Address: "203.0.113.1:443", Method: "GET", Path: path}
	}
	with := func(r record, change func(*record)) record {
		change(&r)
		return r
	}
	denied := func(code string) func(*record) {
		return func(r *record) { r.Effect, r.Code, r.Address, r.Mode = "deny", code, "", "" }
	}
	for name, test := range map[string]struct {
		records []record
		want    []rule
		note    string // a part of one
	}{
		"nothing": {nil, []rule{}, "sure: it needs no network"},
		"one request twice": {
			[]record{get("/a", 443), get("/a", 443)},
			[]rule{{Host: "a.example", Ports: []int{443}, Methods: []string{"GET"}, Paths: []string{"/a"}, Mode: intercept}}, "",
		},
		"methods with the same paths are one rule, with others two": {
			[]record{
				get("/b", 443), get("/a", 443), with(get("/c", 443), func(r *record) { r.Method = "PUT" }),
				with(get("/a", 443), func(r *record) { r.Method = "HEAD" }), with(get("/b", 443), func(r *record) { r.Method = "HEAD" }),
			},
			[]rule{
				{Host: "a.example", Ports: []int{443}, Methods: []string{"GET", "HEAD"}, Paths: []string{"/a", "/b"}, Mode: intercept},
				{Host: "a.example", Ports: []int{443}, Methods: []string{"PUT"}, Paths: []string{"/c"}, Mode: intercept},
			}, "",
		},
		"ports with the same are one rule, with others two": {
			[]record{get("/a", 443), get("/a", 8443), get("/b", 80)},
			[]rule{
				{Host: "a.example", Ports: []int{80}, Methods: []string{"GET"}, Paths: []string{"/b"}, Mode: intercept},
				{Host: "a.example", Ports: []int{443, 8443}, Methods: []string{"GET"}, Paths: []string{"/a"}, Mode: intercept},
			}, "",
		},
		"no wildcard for hosts of one domain": {
			[]record{get("/", 443), with(get("/", 443), func(r *record) { r.Host = "b.a.example" })},
			[]rule{
				{Host: "a.example", Ports: []int{443}, Methods: []string{"GET"}, Paths: []string{"/"}, Mode: intercept},
				{Host: "b.a.example", Ports: []int{443}, Methods: []string{"GET"}, Paths: []string{"/"}, Mode: intercept},
			}, "",
		},
		"what is not read has neither method nor path": {
			[]record{{Host: "t.example", Port: 443, Mode: tunnel, Effect: "allow", Address: "203.0.113.1:443"}},
			[]rule{{Host: "t.example", Ports: []int{443}, Mode: tunnel}}, "",
		},
		"a private address": {
			[]record{
				{Host: "db.example", Port: 5432, Mode: forward, Effect: "allow", Address: "100.64.1.1:5432"},
				{Host: "db.example", Port: 5432, Mode: forward, Effect: "deny", Code: "requests_spent"},
			},
			[]rule{{Host: "db.example", Ports: []int{5432}, Mode: forward, Private: true}}, "egress.allowed_networks has to have",
		},
		"an address that was refused is not made private": {
			[]record{with(get("/a", 443), func(r *record) { r.Effect, r.Code, r.Address = "deny", "address_refused", "" })},
			[]rule{{Host: "a.example", Ports: []int{443}, Methods: []string{"GET"}, Paths: []string{"/a"}, Mode: intercept}}, `"private": true`,
		},
		"a denied connection of which a request says more": {
			[]record{with(record{Host: "a.example", Port: 443}, denied("network_not_granted")), get("/a", 443)},
			[]rule{{Host: "a.example", Ports: []int{443}, Methods: []string{"GET"}, Paths: []string{"/a"}, Mode: intercept}}, "",
		},
		"a denied connection to a port of the web": {
			[]record{with(record{Host: "a.example", Port: 443}, denied("network_not_granted"))},
			[]rule{{Host: "a.example", Ports: []int{443}, Mode: intercept}}, "no method and no path is recorded",
		},
		"a denied connection to another port": {
			[]record{with(record{Host: "a.example", Port: 6379}, denied("network_not_granted"))},
			[]rule{{Host: "a.example", Ports: []int{6379}, Mode: forward}}, "a guess by its port",
		},
		"a name that was looked up only": {
			[]record{with(record{Host: "a.example"}, denied("network_not_granted"))},
			[]rule{{Host: "a.example", Ports: []int{443}, Mode: intercept}}, `"a.example" was looked up and not found, so that its port, 443, is a guess`,
		},
		"a place where credentials are made": {
			[]record{with(get("/token", 443), func(r *record) { r.Effect, r.Code = "deny", "token_endpoint" })},
			[]rule{}, "is left out",
		},
		"a request that is malformed": {
			[]record{with(get("/a", 443), func(r *record) { r.Effect, r.Code = "deny", "framing_ambiguous" })},
			[]rule{}, "no rule changes that",
		},
		"a path that is cut": {[]record{with(get("/a", 443), func(r *record) { r.Cut = true })}, []rule{}, "longer than the log keeps"},
		"a path that ends as if it were": {
			[]record{get("/a…", 443)},
			[]rule{{Host: "a.example", Ports: []int{443}, Methods: []string{"GET"}, Paths: []string{"/a…"}, Mode: intercept}}, "",
		},
		"a WebSocket": {
			[]record{with(get("/a", 443), func(r *record) { r.Effect, r.Code = "deny", "websocket_not_granted" })},
			[]rule{{Host: "a.example", Ports: []int{443}, Methods: []string{"GET"}, Paths: []string{"/a"}, Mode: intercept}}, `"websocket": true`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := sent{tenant: "acme", over: true}
			for i, r := range test.records {
				s.decided = append(s.decided, execution.Record{Seq: uint64(i), EgressDecided: &r})
			}
			got := suggest(s)
			if diff := cmp.Diff(test.want, got.rules); diff != "" {
				t.Errorf("the rules (-want +got):\n%s", diff)
			}
			if !slices.ContainsFunc(got.notes, func(note string) bool { return strings.Contains(note, test.note) }) {
				t.Errorf("no note has %q: %q", test.note, got.notes)
			}
			if len(got.rules) == 0 {
				return
			}
			if err := (execution.Network{Rules: got.rules, Budget: got.budget}).Validate(); err != nil {
				t.Errorf("what is suggested could not be granted: %v", err)
			}
		})
	}
}

// The budget is twice what was used, at once and in any second.
func TestSuggestedBudget(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(ms)) }
	s := sent{tenant: "acme", ended: map[uint64]execution.Record{}}
	for i, span := range [][2]int{{0, 900}, {100, 200}, {999, 1500}, {1000, 1100}} {
		s.decided = append(s.decided, execution.Record{
			Seq: uint64(i), Time: at(span[0]),
			EgressDecided: &execution.EgressDecided{Host: "a", Port: 1, Mode: execution.NetworkForward, Effect: "allow"},
		})
		s.ended[uint64(i)] = execution.Record{Time: at(span[1]), EgressEnded: &execution.EgressEnded{BytesIn: 50_000, BytesOut: 1000}}
	}
	want := execution.NetworkBudget{Requests: 8, Bytes: 408_000, RequestsPerS: 6, Connections: 4}
	if got := suggest(s).budget; got != want {
		t.Errorf("it is %+v, and not %+v", got, want)
	}
}
