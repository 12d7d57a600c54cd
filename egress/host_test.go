package egress

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestHostHasOneForm(t *testing.T) {
	label63 := strings.Repeat("a", 63)
	long253 := strings.Join([]string{label63, label63, label63, strings.Repeat("a", 61)}, ".")
	for _, tt := range []struct{ host, want string }{
		{"db.example.com", "db.example.com"},
		{"DB.Example.COM", "db.example.com"},
		{"db.example.com.", "db.example.com"},
		{"db", "db"},
		{"bücher.example", "xn--bcher-kva.example"},
		{"BÜCHER.example", "xn--bcher-kva.example"},
		{"XN--BCHER-KVA.example", "xn--bcher-kva.example"},
		{"db。example。com", "db.example.com"},
		{"ｄｂ.example.com", "db.example.com"},
		{"1.example.com", "1.example.com"},
		{"0x7f.example", "0x7f.example"},
		{"127.0.0.1.nip.io", "127.0.0.1.nip.io"}, // a name; its address is checked
		{"dead.beef", "dead.beef"},
		{label63 + ".example", label63 + ".example"},
		{long253, long253},
		{long253 + ".", long253},
	} {
		if got, err := normaliseHost(tt.host); got != tt.want || err != nil {
			t.Errorf("normaliseHost(%q) = %q, %v, want %q", tt.host, got, err, tt.want)
		}
	}
}

func TestAddressIsNoHost(t *testing.T) {
	for _, host := range []string{
		"127.0.0.1", "127.0.0.1.", "10.0.0.1", "169.254.169.254", "8.8.8.8", "0.0.0.0", "255.255.255.255",
		"2130706433", "017700000001", "0x7f000001", "0X7F000001", "0", "0x", "0x0", // decimal, octal, hex of 32 bits
		"127.1", "127.0.1", "0x7f.1", "0177.0.0.1", "0x7f.0x0.0x0.0x1", "127.0.0.0x1", "0251.0376.0251.0376", "10.08",
		"１２７.０.０.１", "127。0。0。1", "①②⑦.0.0.1", // mapped to digits
		"::", "::1", "[::1]", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1", "fe80::1%eth0", "fe80::1%25eth0",
		"2001:db8::1", "[2001:db8::1]:443", "1.2.3.4.5", "example.0", "example.0x1f", "db.example.com:443",
	} {
		if got, err := normaliseHost(host); !errors.Is(err, errIsAddress) {
			t.Errorf("normaliseHost(%q) = %q, %v, want that it is an address", host, got, err)
		}
	}
}

func TestWhatIsNoHost(t *testing.T) {
	for _, host := range []string{
		"", ".", "..", "a..b", ".example.com", "example.com..", "example.com。.", "-a.example", "a-.example", "a_b.example",
		"example.com\x00", "example.com\x00.evil.example", "exa mple.com", " example.com", "example.com\n", "example.com\r\nX: y",
		"user@example.com", "user:pass@example.com", "example.com/", "example.com#", "example.com?x", `example.com\`,
		"example%2ecom", "*.example.com", "*", "xn--a", "xn--.example", "a\xffb.example", "\u202eexample.com", "exam\u200bple.com ",
		"ab--cd.\u0301example", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "aa", strings.Repeat("a", 100_000),
	} {
		if got, err := normaliseHost(host); err == nil {
			t.Errorf("normaliseHost(%.300q) = %q, want that it is no host", host, got)
		}
	}
}

func FuzzHost(f *testing.F) {
	for _, host := range []string{
		"db.example.com", "DB.example.com.", "bücher.example", "xn--bcher-kva.example", "127.0.0.1", "0x7f.1", "１２７.0.0.1", "::1", "a..b", "a\x00", "①.example", "*.a", "a。b。",
	} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		name, err := normaliseHost(host)
		if err != nil {
			if name != "" {
				t.Errorf("normaliseHost(%q) = %q with %v", host, name, err)
			}
			return
		}
		if again, err := normaliseHost(name); again != name || err != nil {
			t.Errorf("normaliseHost(%q) = %q, and of that %q, %v", host, name, again, err)
		}
		if len(name) > 253 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
			t.Errorf("normaliseHost(%q) = %q, which is no name of letters, digits and hyphens", host, name)
		}
		for label := range strings.SplitSeq(name, ".") {
			if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
				t.Errorf("normaliseHost(%q) = %q, with the label %q", host, name, label)
			}
		}
		if _, err := netip.ParseAddr(name); err == nil || inetAton(name) {
			t.Errorf("normaliseHost(%q) = %q, which is an address", host, name)
		}
	})
}

// inetAton reports whether inet_aton(3) takes s for an address: one to four
// numbers as C writes them.
func inetAton(s string) bool {
	parts := strings.Split(s, ".")
	for _, part := range parts {
		digits, set := part, "0123456789"
		if len(part) > 2 && part[0] == '0' && part[1]|0x20 == 'x' {
			digits, set = part[2:], "0123456789abcdefABCDEF"
		}
		if digits == "" || strings.Trim(digits, set) != "" {
			return false
		}
	}
	return len(parts) <= 4
}
