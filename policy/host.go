package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/execgate/execgate/execution"
	"golang.org/x/net/idna"
)

// normaliseDestinations puts every host into its one form, and refuses the
// first that has none.
func normaliseDestinations(asked []execution.Destination) ([]execution.Destination, *execution.Reason) {
	normal := make([]execution.Destination, len(asked))
	for i, d := range asked {
		host, err := normaliseHost(d.Host)
		if err != nil || d.Port < 1 || d.Port > 65535 {
			return nil, &execution.Reason{
				Code: codeNetworkNotGranted, Rule: ruleNetwork,
				Message:     fmt.Sprintf("%.300q, port %d, is not a destination.", d.Host, d.Port),
				Remediation: "Give a host name or an IP address, and a port from 1 to 65535.",
			}
		}
		normal[i] = execution.Destination{Host: host, Port: d.Port}
	}
	return normal, nil
}

// normaliseHost returns the form in which hosts are compared: a host name in
// lower case and in ASCII (IDNA 2008 by the lookup profile of UTS #46), without
// the dot of the root, or an IP address in its shortest form, a v4-mapped one
// as IPv4.
func normaliseHost(host string) (string, error) {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		return addr.Unmap().String(), nil
	}
	name, err := hostProfile.ToASCII(strings.TrimSuffix(host, "."))
	if err != nil {
		return "", fmt.Errorf("normalise host: %w", err)
	}
	return name, nil
}

// hostProfile is idna.Lookup which also verifies the lengths of RFC 1035, 2.3.4:
// without it, names with empty labels pass.
var hostProfile = idna.New(
	idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true),
	idna.Transitional(false), idna.VerifyDNSLength(true),
)
