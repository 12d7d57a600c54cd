package gateway

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
)

// parseDestination reads "host:port", or "[IPv6]:port", or says what is wrong
// with it. There is one spelling of each destination after it: names are in
// lower case, addresses in their shortest form. Whatever some resolver might
// take for an address and is not written as one (0x7f.1, 2130706433, 127.1) is
// refused.
func parseDestination(text string) (execution.Destination, string) {
	const form = "must be host:port, such as api.example.com:443"
	var host, port string
	if rest, ok := strings.CutPrefix(text, "["); ok {
		inside, after, found := strings.Cut(rest, "]:")
		address, err := netip.ParseAddr(inside)
		switch {
		case !found || err != nil || !address.Is6():
			return execution.Destination{}, form + " or [2001:db8::1]:443"
		case address.Zone() != "":
			return execution.Destination{}, "must not have a zone"
		case address.Is4In6():
			return execution.Destination{}, "must write an IPv4 address as one"
		}
		host, port = address.String(), after
	} else {
		name, after, found := strings.Cut(text, ":")
		if !found {
			return execution.Destination{}, form
		}
		var wrong string
		if host, wrong = checkHost(name); wrong != "" {
			return execution.Destination{}, wrong
		}
		port = after
	}
	number, err := strconv.ParseUint(port, 10, 16)
	// Formatted back: no sign, no leading zero, no underscore.
	if err != nil || number == 0 || strconv.FormatUint(number, 10) != port {
		return execution.Destination{}, "must have a port from 1 to 65535"
	}
	return execution.Destination{Host: host, Port: int(number)}, ""
}

// checkHost returns the one spelling of a DNS name or an IPv4 address. A label
// may hold '_' (RFC 2181, section 11), as names of services do.
func checkHost(name string) (host, wrong string) {
	host = strings.ToLower(name)
	if host == "" || len(host) > 253 {
		return "", "must have a host of 1 to 253 characters"
	}
	last := ""
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", "must have a host of parts with 1 to 63 characters, none beginning or ending with '-'"
		}
		for _, c := range []byte(label) {
			if c >= 0x80 {
				return "", "must write an international name in its ASCII form (xn--)"
			}
			if !isAlphanumeric(c) && c != '-' && c != '_' {
				return "", "must have a host of letters, digits, '-', '_' and '.', without wildcards"
			}
		}
		last = label
	}
	// As in the URL standard: a host whose last part is a number is an address.
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		if address, err := netip.ParseAddr(host); err != nil || !address.Is4() {
			return "", "must write an address as four decimal numbers"
		}
	}
	return host, ""
}
