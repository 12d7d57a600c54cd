package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxHost is the longest name in bytes (RFC 1035, 2.3.4), with the dot of the root.
const maxHost = 254

var (
	errIsAddress = errors.New("it is an address and no name")
	errNoName    = errors.New("it is no host name")
)

// normaliseHost returns the form in which rules name hosts: lower case, ASCII
// (IDNA 2008 by the lookup profile of UTS #46), without the dot of the root. An
// IP address in any notation that something on the way could take for one is
// errIsAddress.
func normaliseHost(host string) (string, error) {
	if host == "" || len(host) > 4*maxHost || !utf8.ValidString(host) { // a name in Unicode may be longer than its ASCII form
		return "", errNoName
	}
	if isAddress(host) {
		return "", errIsAddress
	}
	name, err := hostProfile.ToASCII(strings.TrimSuffix(host, "."))
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNoName, err)
	}
	if isAddress(name) { // digits of other scripts are mapped to ASCII
		return "", errIsAddress
	}
	if name == "" || len(name) >= maxHost || strings.HasSuffix(name, ".") {
		return "", errNoName
	}
	return name, nil
}

// hostProfile is the one by which policies' hosts are normalised.
var hostProfile = idna.New(
	idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true),
	idna.Transitional(false), idna.VerifyDNSLength(true),
)

// isAddress reports whether host could be taken for an IP address: by netip, as
// the host of a URL, or by inet_aton, which also takes one to three numbers, in
// decimal, octal or hex. As in the URL standard ("ends in a number") the last
// label decides: no top-level domain is a number.
func isAddress(host string) bool {
	if strings.ContainsAny(host, ":[]%") {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	host = strings.TrimRight(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if digits, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}
