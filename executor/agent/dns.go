//go:build linux

package agent

import (
	"strings"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxQuery bounds a question, in bytes: far more than a name and its options.
	maxQuery = 4 << 10
	// answerSize is what an answer always fits in (RFC 1035, section 4.2.1), so
	// that none is cut short.
	answerSize = 512
	// typeIXFR is the type of an incremental zone transfer (RFC 1995).
	typeIXFR dnsmessage.Type = 251
	// badVersion is the code for options of a version that is not known (RFC 6891,
	// section 6.1.3).
	badVersion dnsmessage.RCode = 16
)

// answer answers a message that a program sent to the resolver, or returns nil
// where it deserves none. Nothing is asked of anybody but names.
func answer(message []byte, names *names) []byte {
	var parser dnsmessage.Parser
	asked, err := parser.Start(message)
	if err != nil || asked.Response {
		return nil // an answer to an answer has no end
	}
	q := query{header: dnsmessage.Header{
		ID: asked.ID, Response: true, OpCode: asked.OpCode, RecursionDesired: asked.RecursionDesired, RecursionAvailable: true,
	}}
	switch {
	case asked.OpCode != 0:
		q.header.RCode = dnsmessage.RCodeNotImplemented
	case !q.parse(&parser):
		q.header.RCode = dnsmessage.RCodeFormatError
	case q.version != 0:
		q.extended = badVersion
	default:
		q.resolve(names)
	}
	return q.pack()
}

// query is what was asked, and becomes the answer.
type query struct {
	header    dnsmessage.Header
	questions []dnsmessage.Question // one, or none where it cannot be read
	options   bool                  // the program knows of EDNS (RFC 6891)
	version   byte                  // of it
	extended  dnsmessage.RCode
	found     []dnsmessage.AResource
}

// parse reads the whole message, and reports whether it is one question.
func (q *query) parse(parser *dnsmessage.Parser) bool {
	question, err := parser.Question()
	if err != nil {
		return false
	}
	if _, err := parser.Question(); err != dnsmessage.ErrSectionDone {
		return false
	}
	q.questions = []dnsmessage.Question{question}
	if parser.SkipAllAnswers() != nil || parser.SkipAllAuthorities() != nil {
		return false
	}
	for {
		header, err := parser.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return true
		}
		if err != nil || parser.SkipAdditional() != nil {
			return false
		}
		if header.Type == dnsmessage.TypeOPT {
			if q.options {
				return false // more than one (RFC 6891, section 6.1.1)
			}
			q.options, q.version = true, byte(header.TTL>>16)
		}
	}
}

// resolve fills in the answer: an address of its own for every name that is to be
// found, since it is decided outside, of each connection, which may be reached; for
// every other type that the name has nothing of it.
func (q *query) resolve(names *names) {
	question := q.questions[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name.String(), "."))
	switch {
	case question.Class != dnsmessage.ClassINET, question.Type == dnsmessage.TypeAXFR, question.Type == typeIXFR:
		q.header.RCode = dnsmessage.RCodeRefused
	case !wire.ValidName(name), name == "localhost", strings.HasSuffix(name, ".localhost"): // which stands in /etc/hosts
		q.header.RCode = dnsmessage.RCodeNameError
	default:
		q.header.RCode = q.find(names, name)
	}
}

// find fills in what there is of a name, and returns the code for it.
func (q *query) find(names *names, name string) dnsmessage.RCode {
	if found, err := names.find(name); err != nil {
		return dnsmessage.RCodeServerFailure
	} else if !found {
		return dnsmessage.RCodeNameError
	}
	if q.questions[0].Type != dnsmessage.TypeA {
		return dnsmessage.RCodeSuccess
	}
	address, ok := names.address(name)
	if !ok {
		return dnsmessage.RCodeServerFailure
	}
	q.found = []dnsmessage.AResource{{A: address.As4()}}
	return dnsmessage.RCodeSuccess
}

// pack is the answer's bytes. An address holds no longer than the execution, so
// it is not to be remembered.
func (q *query) pack() []byte {
	b := dnsmessage.NewBuilder(make([]byte, 0, answerSize), q.header)
	b.EnableCompression()
	b.StartQuestions()
	for _, question := range q.questions {
		b.Question(question)
	}
	b.StartAnswers()
	for _, found := range q.found {
		question := q.questions[0]
		b.AResource(dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET}, found)
	}
	if q.options {
		var header dnsmessage.ResourceHeader
		b.StartAdditionals()
		header.SetEDNS0(maxQuery, q.extended, false)
		b.OPTResource(header, dnsmessage.OPTResource{})
	}
	packed, err := b.Finish()
	if err != nil {
		return nil
	}
	return packed
}
