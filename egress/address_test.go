package egress

import (
	"net/netip"
	"strings"
	"testing"
)

// everything is what a configuration could allow at most.
var everything = prefixes("0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1")

func TestClassesOfAddresses(t *testing.T) {
	for _, tt := range []struct {
		class     string // empty: public
		never     bool   // whatever is configured
		addresses string
	}{
		{"", false, "8.8.8.8 1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 168.63.129.15 168.63.129.17"},
		{"", false, "2606:4700:4700::1111 2001:4860:4860::8888 2001:200::1 2003::1 2a00:1450:4001::1 3ffe:ffff::1"},
		{"metadata", true, "169.254.169.254 169.254.169.253 169.254.170.2 169.254.170.23 168.63.129.16 192.0.0.192 100.100.100.200 169.254.0.23 169.254.42.42"},
		{"metadata", true, "fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42"},
		{"metadata", true, "::ffff:169.254.169.254 ::ffff:100.100.100.200 ::169.254.169.254 64:ff9b::169.254.169.254 64:ff9b::a83f:8110 64:ff9b:1::a9fe:a9fe"}, // in disguise
		{"metadata", true, "64:ff9b:1:a9fe:a9:fe00:: 2002:a9fe:a9fe::1 2002:6464:64c8:: 2001:0:a9fe:a9fe:: 2001:0:4136:e378:8000:63bf:5601:5601"},
		{"metadata", true, "fe80::5efe:169.254.169.254 fe80::a9fe:a9fe 2001:db8::a9fe:a9fe fd12:3456::192.0.0.192"},
		{"unspecified", true, "0.0.0.0 0.0.0.1 0.255.255.255 ::"},
		{"multicast", true, "224.0.0.1 239.255.255.250 ff02::1 ff0e::1"},
		{"broadcast", true, "255.255.255.255"},
		{"v4_mapped", true, "::ffff:8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1"},
		{"loopback", false, "127.0.0.1 127.0.0.0 127.255.255.255 ::1"},
		{"private", false, "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 fc00::1 fd00::1 fdff:ffff::1"},
		{"link_local", false, "169.254.0.1 169.254.255.255 fe80::1 febf::1"},
		{"cgnat", false, "100.64.0.0 100.127.255.255 100.100.100.100"},
		{"site_local", false, "fec0::1 feff::1"},
		{"documentation", false, "192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1 3fff::1"},
		{"benchmarking", false, "198.18.0.1 198.19.255.255 2001:2::1"},
		{"nat64", false, "64:ff9b::8.8.8.8 64:ff9b::127.0.0.1 64:ff9b:1::1"},
		{"6to4", false, "2002:808:808::1 2002:7f00:1::1 192.88.99.1"},
		{"teredo", false, "2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2"},
		{"orchid", false, "2001:10::1 2001:1f:: 2001:20::1 2001:2f::1"},
		{"v4_compatible", false, "::8.8.8.8 ::127.0.0.1 ::2"},
		{"reserved", false, "240.0.0.1 255.255.255.254 192.0.0.1 192.0.0.255 2001:1::1 2001:1ff::1 4000::1 5f00::1 64:ff9b:2::1 100::1 fe00::1 200::1"},
	} {
		for text := range strings.FieldsSeq(tt.addresses) {
			addr := netip.MustParseAddr(text)
			for _, how := range []struct {
				name    string
				private bool
				allowed []netip.Prefix
				want    string
			}{
				{"by itself", false, nil, tt.class},
				{"allowed by the rule alone", true, nil, tt.class},
				{"allowed by the configuration alone", false, everything, tt.class},
				{"allowed by the rule, and another network by the configuration", true, prefixes("172.20.7.0/24", "fd77::/64"), tt.class},
				{"allowed by both", true, everything, map[bool]string{true: tt.class}[tt.never]},
			} {
				if got := refusal(addr, how.private, how.allowed); got != how.want {
					t.Errorf("%s, %s: refused as %q, want %q", text, how.name, got, how.want)
				}
			}
		}
	}
	for _, addr := range []netip.Addr{{}, netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("2606:4700::1%1"), netip.MustParseAddr("::1%lo")} {
		if got := refusal(addr, true, everything); got != "invalid" {
			t.Errorf("%s: refused as %q, want invalid", addr, got)
		}
	}
}

func TestAllowedNetworks(t *testing.T) {
	parse := netip.MustParsePrefix
	for _, tt := range []struct {
		network netip.Prefix
		want    string // empty: fine
	}{
		{parse("10.1.0.0/16"), ""},
		{parse("127.0.0.0/8"), ""},
		{parse("fd12:3456::/32"), ""},
		{parse("169.254.0.0/16"), ""}, // metadata in it stays refused
		{netip.Prefix{}, "no network"},
		{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104), "no network"},
		{parse("10.1.2.3/16"), "10.1.0.0/16 would be"},
		{parse("0.0.0.0/0"), "everything"},
		{parse("::/0"), "everything"},
		{parse("169.254.169.254/32"), "metadata addresses are never allowed"},
		{parse("fd00:ec2::254/128"), "metadata addresses are never allowed"},
		{parse("0.0.0.0/32"), "unspecified addresses are never allowed"},
	} {
		_, err := New(Config{Recorder: &memory{}, AllowedNetworks: []netip.Prefix{tt.network}})
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("New with the network %s: %v, want %q", tt.network, err, tt.want)
		}
	}
}
