package egress

import (
	"testing"

	"github.com/execgate/execgate/execution"
)

func TestRuleOpensItsDestinationsOnly(t *testing.T) {
	network := execution.Network{Rules: []execution.NetworkRule{
		{Host: "db.example.com", Ports: []int{5432, 5433}, Mode: execution.NetworkForward},
		{Host: "*.wild.example", Ports: []int{5432}, Mode: execution.NetworkForward}, // no such rule
		{Host: "*.api.example", Ports: []int{443}, Mode: execution.NetworkIntercept},
		{Host: "tcp.api.example", Ports: []int{443}, Mode: execution.NetworkForward},
		{Host: "git.example.com", Ports: []int{443}, Mode: execution.NetworkTunnel},
		{Host: "mode.example.com", Ports: []int{443}},
		{Host: "new.example.com", Ports: []int{443}, Mode: "quic"},
		{Host: "Upper.example.com", Ports: []int{443}, Mode: execution.NetworkForward}, // not normal: opens nothing
		{Host: "127.0.0.1", Ports: []int{443}, Mode: execution.NetworkForward},
		{Host: "*.", Ports: []int{443}, Mode: execution.NetworkIntercept},
		{Host: "*", Ports: []int{443}, Mode: execution.NetworkIntercept},
		{Host: "", Ports: []int{443}, Mode: execution.NetworkForward},
		{Host: "noports.example.com", Mode: execution.NetworkForward},
	}}
	for _, tt := range []struct {
		host string
		port int
		code string // empty: opened
	}{
		{"db.example.com", 5432, ""},
		{"DB.EXAMPLE.COM.", 5433, ""},
		{"db.example.com", 5434, codeNotGranted},
		{"db.example.com", 0, codePortInvalid},
		{"db.example.com", -1, codePortInvalid},
		{"db.example.com", 65536 + 5432, codePortInvalid},
		{"example.com", 5432, codeNotGranted},
		{"x.db.example.com", 5432, codeNotGranted},
		{"xdb.example.com", 5432, codeNotGranted},
		{"db.example.com.evil.example", 5432, codeNotGranted},
		{"db.example.co", 5432, codeNotGranted},
		{"db.example.com\x00", 5432, codeHostInvalid},
		{"user@db.example.com", 5432, codeHostInvalid},
		{"", 443, codeHostInvalid},
		{"*.wild.example", 5432, codeHostInvalid},
		{"a.wild.example", 5432, codeNotGranted},
		{"wild.example", 5432, codeNotGranted},
		{"a.api.example", 443, ""},
		{"a.b.api.example", 443, ""},
		{"api.example", 443, codeNotGranted},
		{"xapi.example", 443, codeNotGranted},
		{"tcp.api.example", 443, ""}, // its own rule, before the one for all
		{"git.example.com", 443, ""},
		{"mode.example.com", 443, codeUnsupported},
		{"new.example.com", 443, codeUnsupported},
		{"upper.example.com", 443, codeNotGranted},
		{"127.0.0.1", 443, codeHostIsAddress},
		{"2130706433", 443, codeHostIsAddress},
		{"anything.example", 443, codeNotGranted},
		{"noports.example.com", 443, codeNotGranted},
	} {
		if _, _, code := decide(network, execution.Destination{Host: tt.host, Port: tt.port}); code != tt.code {
			t.Errorf("%q, port %d: %q, want %q", tt.host, tt.port, code, tt.code)
		}
	}
	if _, _, code := decide(execution.Network{}, execution.Destination{Host: "db.example.com", Port: 5432}); code != codeNotGranted {
		t.Errorf("of no rules: %q, want %q", code, codeNotGranted)
	}
}
