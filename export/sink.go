package export

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
)

// Type is the kind of system that a Sink is.
type Type string

// The types.
const (
	TypeJSONL  Type = "jsonl"  // lines in a file
	TypeHTTP   Type = "http"   // POST
	TypeSyslog Type = "syslog" // RFC 5424 over TLS, as RFC 5425 has it
)

// Format is how a record is written.
type Format string

// The formats. The zero Format is FormatJSON.
const (
	FormatJSON   Format = "json"   // the record and the id of its log; by HTTP an array of them
	FormatNDJSON Format = "ndjson" // by HTTP alone: as FormatJSON, one in each line
	FormatOCSF   Format = "ocsf"   // an event of OCSF 1.8
)

// From is where an exporter that is new begins.
type From string

// The places to begin. The zero From is FromStart.
const (
	FromStart From = "start" // with the oldest record that the log has
	FromNow   From = "now"   // with the next one
)

// Stdout is the Path that stands for the standard output.
const Stdout = "-"

// MaxSinks bounds the exporters of one gateway.
const MaxSinks = 16

// Sink is a system that records are delivered to.
type Sink struct {
	// Name is the exporter's own: its cursor stands under it. A lower-case letter or
	// digit, and up to 62 further ones, hyphens and underscores.
	Name    string
	Type    Type
	Path    string // of TypeJSONL: absolute, or Stdout
	URL     string // of TypeHTTP: https, or http to this machine
	Address string // of TypeSyslog: host:port
	Format  Format
	// TokenFile, of TypeHTTP, holds a bearer token, which is read for each request.
	TokenFile string
	// CAFile holds the authorities (PEM) that the receiver's certificate must be from;
	// empty: those of the system.
	CAFile string
	// ClientCert and ClientKey are files (PEM) by which the gateway proves itself, read
	// for each connection; empty: it does not.
	ClientCert, ClientKey string
	Gzip                  bool // of TypeHTTP: bodies are compressed
	From                  From
	// Tenants and Types, where there are any, are those whose records alone are sent.
	// A record that is no tenant's is not sent where Tenants are named.
	Tenants []string
	Types   []execution.RecordType
}

// Fault is what is wrong with a Sink.
type Fault struct {
	Key    string // as in the configuration: name, type, url, …
	Detail string // what follows on the key's name
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// Check returns everything that is wrong with s, but for what is in files.
func (s Sink) Check() []Fault {
	var faults []Fault
	bad := func(key, format string, args ...any) {
		faults = append(faults, Fault{key, fmt.Sprintf(format, args...)})
	}
	if !validName.MatchString(s.Name) {
		bad("name", "must be 1 to 63 lower-case letters, digits, hyphens and underscores, and begin with a letter or digit")
	}
	formats := []Format{FormatJSON, FormatOCSF}
	switch s.Type {
	case TypeJSONL:
		if s.Path != Stdout && !filepath.IsAbs(s.Path) {
			bad("path", "must be the absolute path of a file, or - for the standard output")
		}
	case TypeHTTP:
		formats = append(formats, FormatNDJSON)
		if fault := checkURL(s.URL); fault != "" {
			bad("url", "%s", fault)
		}
	case TypeSyslog:
		formats = []Format{FormatJSON}
		host, port, err := net.SplitHostPort(s.Address)
		if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || n == 0 || host == "" {
			bad("address", "must be a host and a port, such as logs.example.com:6514")
		}
	default:
		bad("type", "must be one of %q", []Type{TypeJSONL, TypeHTTP, TypeSyslog})
		return faults
	}
	if s.Format != "" && !slices.Contains(formats, s.Format) {
		bad("format", "must be one of %q with the type %s", formats, s.Type)
	}
	for _, k := range []struct {
		key   string
		set   bool
		types []Type
	}{
		{"path", s.Path != "", []Type{TypeJSONL}},
		{"url", s.URL != "", []Type{TypeHTTP}},
		{"address", s.Address != "", []Type{TypeSyslog}},
		{"token_file", s.TokenFile != "", []Type{TypeHTTP}},
		{"gzip", s.Gzip, []Type{TypeHTTP}},
		{"ca_file", s.CAFile != "", []Type{TypeHTTP, TypeSyslog}},
		{"client_cert", s.ClientCert != "", []Type{TypeHTTP, TypeSyslog}},
		{"client_key", s.ClientKey != "", []Type{TypeHTTP, TypeSyslog}},
	} {
		if k.set && !slices.Contains(k.types, s.Type) {
			bad(k.key, "has no meaning with the type %s", s.Type)
		}
	}
	if (s.ClientCert == "") != (s.ClientKey == "") {
		bad("client_cert", "and client_key need each other")
	}
	if s.From != "" && s.From != FromStart && s.From != FromNow {
		bad("from", "must be one of %q", []From{FromStart, FromNow})
	}
	if slices.Contains(s.Tenants, "") {
		bad("tenants", "has an empty name")
	}
	for _, t := range s.Types {
		if !slices.Contains(execution.RecordTypes(), t) {
			bad("types", "has %q, which is no type of a record", t)
		}
	}
	return faults
}

// checkURL says what is wrong with the address of a receiver. What leaves the machine is
// encrypted: a record says who did what.
func checkURL(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Fragment != "":
		return "must be an address such as https://siem.example.com/ingest"
	case u.User != nil:
		return "must have no user in it: a token is read from token_file"
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return "must begin with https://, except for a receiver on this machine"
	}
	return ""
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// target is where the sink is, for comparing.
func (s Sink) target() string { return s.Path + s.URL + s.Address }

// wants reports whether the record is sent.
func (s Sink) wants(r *execution.Record) bool {
	if len(s.Types) > 0 && !slices.Contains(s.Types, r.Type) {
		return false
	}
	if len(s.Tenants) == 0 {
		return true
	}
	tenant := execution.TenantOf(*r)
	return tenant != "" && slices.Contains(s.Tenants, tenant)
}

// faultsOf is everything that is wrong with the sinks, each by its index.
func faultsOf(sinks []Sink) error {
	var lines []string
	for i, s := range sinks {
		for _, f := range s.Check() {
			lines = append(lines, fmt.Sprintf("exporters[%d].%s %s", i, f.Key, f.Detail))
		}
	}
	for i, f := range Clashes(sinks) {
		lines = append(lines, fmt.Sprintf("exporters[%d].%s %s", i, f.Key, f.Detail))
	}
	if len(lines) == 0 {
		return nil
	}
	slices.Sort(lines)
	return fmt.Errorf("configure exporters: %s", strings.Join(lines, "; "))
}

// Clashes returns what is wrong with sinks beside one another, by the index of the later.
func Clashes(sinks []Sink) map[int]Fault {
	clashes := map[int]Fault{}
	names, paths := map[string]bool{}, map[string]bool{}
	for i, s := range sinks {
		switch path := filepath.Clean(s.Path); {
		case i >= MaxSinks:
			clashes[i] = Fault{"name", fmt.Sprintf("is that of one too many: there may be %d", MaxSinks)}
		case names[s.Name]:
			clashes[i] = Fault{"name", fmt.Sprintf("is %q, which another exporter has", s.Name)}
		case s.Path != "" && paths[path]:
			clashes[i] = Fault{"path", "is that of another exporter"}
		case s.Path != "":
			paths[path] = true
		}
		names[s.Name] = true
	}
	return clashes
}
