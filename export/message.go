package export

import (
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/execgate/execgate/execution"
)

// producer is who the records are from.
type producer struct {
	log     string
	version string
	host    string // name of this machine
	process string // id of this process
}

func newProducer(log, version string) producer {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return producer{log: log, version: version, host: host, process: strconv.Itoa(os.Getpid())}
}

// structuredID names the structured data. 32473 is the enterprise number of
// documentation (RFC 5612): the project has none of its own.
const structuredID = "execgate@32473"

// The parts of a message's priority (RFC 5424, section 6.2.1).
const (
	facilityAudit = 13
	severityError = 3
	severityWarn  = 4
	severityInfo  = 6
)

// message is a record as a message of RFC 5424: text, its JSON, in ASCII alone, so that no
// byte order mark is needed, behind structured data with what receivers sort by.
func (p producer) message(r *execution.Record, text []byte) []byte {
	var b strings.Builder
	b.WriteString("<" + strconv.Itoa(facilityAudit*8+syslogSeverity(r)) + ">1 ")
	b.WriteString(r.Time.UTC().Format("2006-01-02T15:04:05.000000Z"))
	b.WriteString(" " + visible(p.host, 255) + " execgate " + visible(p.process, 128) + " " + visible(string(r.Type), 32))
	b.WriteString(" [" + structuredID)
	parameter(&b, "log", p.log)
	parameter(&b, "seq", strconv.FormatUint(r.Seq, 10))
	if r.Execution != "" {
		parameter(&b, "execution", r.Execution)
	}
	if tenant := execution.TenantOf(*r); tenant != "" {
		parameter(&b, "tenant", tenant)
	}
	if r.Principal != nil {
		parameter(&b, "subject", r.Principal.Subject)
	}
	b.WriteString("] ")
	return append([]byte(b.String()), ascii(text)...)
}

// parameter writes one parameter of structured data (RFC 5424, section 6.3.3). Control
// characters, which its value may hold and no receiver expects, are replaced.
func parameter(b *strings.Builder, name, value string) {
	b.WriteString(" " + name + `="`)
	for _, r := range value { // what is no UTF-8 is U+FFFD here
		switch {
		case r == '"' || r == '\\' || r == ']':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsControl(r) || r == '\u2028' || r == '\u2029':
			b.WriteRune(unicode.ReplacementChar)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

// visible is a field of a message's header: ASCII from ! to ~, or - for none.
func visible(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if r < '!' || r > '~' {
			return '_'
		}
		return r
	}, text)
	if text == "" {
		return "-"
	}
	return text[:min(len(text), most)]
}

// syslogSeverity is how much a record matters to whoever watches.
func syslogSeverity(r *execution.Record) int {
	switch severityOf(r) {
	case ocsfHigh:
		return severityError
	case ocsfInformational:
		return severityInfo
	}
	return severityWarn
}
