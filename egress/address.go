package egress

import (
	"fmt"
	"net/netip"
	"slices"
)

// class is what an address is, where it is not a public one.
type class struct {
	name string
	// never: no configuration allows it.
	never    bool
	prefixes []netip.Prefix
}

// classes are looked through in order. The sources are IANA's registries of
// special-purpose addresses (RFC 6890, as of 2025) and the providers' manuals.
var classes = []class{
	{"metadata", true, prefixes(
		"169.254.169.0/24",              // AWS, GCP, Azure, OCI, DigitalOcean; 169.254.169.253 is AWS's resolver
		"169.254.170.0/24",              // AWS ECS and EKS: credentials of tasks and pods
		"169.254.0.23", "169.254.42.42", // Tencent, Scaleway
		"168.63.129.16",                 // Azure's wire server
		"192.0.0.192",                   // OCI
		"100.100.100.200",               // Alibaba
		"fd00:ec2::/32", "fd20:ce::254", // AWS, GCP
		"fd00:42::42", // Scaleway
	)},
	{"unspecified", true, prefixes("0.0.0.0/8", "::")},
	{"multicast", true, prefixes("224.0.0.0/4", "ff00::/8")},
	{"broadcast", true, prefixes("255.255.255.255")},
	{"v4_mapped", true, prefixes("::ffff:0:0/96")}, // a resolver's are unmapped before, see lookUp

	{"loopback", false, prefixes("127.0.0.0/8", "::1")},
	{"private", false, prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")},
	{"link_local", false, prefixes("169.254.0.0/16", "fe80::/10")},
	{"cgnat", false, prefixes("100.64.0.0/10")},
	{"site_local", false, prefixes("fec0::/10")},
	{"documentation", false, prefixes("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")},
	{"benchmarking", false, prefixes("198.18.0.0/15", "2001:2::/48")},
	{"nat64", false, prefixes("64:ff9b::/96", "64:ff9b:1::/48")},
	{"6to4", false, prefixes("2002::/16", "192.88.99.0/24")},
	{"teredo", false, prefixes("2001::/32")},
	{"orchid", false, prefixes("2001:10::/28", "2001:20::/28")},
	{"v4_compatible", false, prefixes("::/96")},
	{"reserved", false, prefixes("192.0.0.0/24", "240.0.0.0/4", "2001::/23")},
}

var (
	// globalUnicast is all of IPv6 that is given out to anybody (RFC 4291, 2.4; IANA).
	globalUnicast = netip.MustParsePrefix("2000::/3")

	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// classify returns what addr is; of a public address the zero class.
func classify(addr netip.Addr) class {
	if !addr.IsValid() || addr.Zone() != "" {
		return class{name: "invalid", never: true}
	}
	if slices.ContainsFunc(embedded(addr), isMetadata) {
		return classes[0]
	}
	for _, c := range classes {
		if within(c.prefixes, addr) {
			return c
		}
	}
	if addr.Is6() && !globalUnicast.Contains(addr) {
		return class{name: "reserved"}
	}
	return class{}
}

func isMetadata(addr netip.Addr) bool { return within(classes[0].prefixes, addr) }

// embedded returns the IPv4 addresses that a network may take addr to stand for,
// so that a metadata address is not reached in the guise of one that is allowed:
// mapped and compatible (RFC 4291), NAT64 (RFC 6052, 2.2: of any prefix of 96
// bits, which a network may choose, and of the one of 48), ISATAP (RFC 5214), 6to4
// (RFC 3056), both ends of Teredo (RFC 4380, 4).
func embedded(addr netip.Addr) []netip.Addr {
	if addr.Is4() {
		return nil
	}
	b := addr.As16()
	v4 := func(w, x, y, z byte) netip.Addr { return netip.AddrFrom4([4]byte{w, x, y, z}) }
	all := []netip.Addr{v4(b[12], b[13], b[14], b[15])}
	switch {
	case nat64Local.Contains(addr):
		all = append(all, v4(b[6], b[7], b[9], b[10]))
	case sixToFour.Contains(addr):
		all = append(all, v4(b[2], b[3], b[4], b[5]))
	case teredo.Contains(addr):
		all = append(all, v4(b[4], b[5], b[6], b[7]), v4(^b[12], ^b[13], ^b[14], ^b[15]))
	}
	return all
}

// refusal says why nothing may connect to addr, or is empty. private is the
// rule's, allowed the configuration's.
func refusal(addr netip.Addr, private bool, allowed []netip.Prefix) string {
	c := classify(addr)
	if c.name == "" || !c.never && private && within(allowed, addr) {
		return ""
	}
	return c.name
}

// checkNetworks says what is wrong with the networks of a configuration.
func checkNetworks(allowed []netip.Prefix) error {
	for _, p := range allowed {
		switch {
		case !p.IsValid() || p.Addr().Is4In6():
			return fmt.Errorf("allowed network %s: it is no network of IPv4 or IPv6", p)
		case p != p.Masked():
			return fmt.Errorf("allowed network %s: it has bits past its prefix; %s would be a network", p, p.Masked())
		case p.Bits() == 0:
			return fmt.Errorf("allowed network %s: it is everything; name the networks", p)
		case p.IsSingleIP() && classify(p.Addr()).never:
			return fmt.Errorf("allowed network %s: %s addresses are never allowed", p, classify(p.Addr()).name)
		}
	}
	return nil
}

func within(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// prefixes parses a table of this file: networks, and single addresses.
func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			all = append(all, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}
