//go:build linux

package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// ask is a question as a program could send it.
func ask(name string, typ dnsmessage.Type, change ...func(*dnsmessage.Message)) []byte {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}
	for _, f := range change {
		f(&m)
	}
	packed, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return packed
}

// withOptions adds the options of EDNS, of a version.
func withOptions(version uint32) func(*dnsmessage.Message) {
	return func(m *dnsmessage.Message) {
		var header dnsmessage.ResourceHeader
		header.SetEDNS0(4096, dnsmessage.RCodeSuccess, false)
		header.Name, header.TTL = dnsmessage.MustNewName("."), version<<16
		m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: header, Body: &dnsmessage.OPTResource{}})
	}
}

// describe is an answer in one line: its code, its addresses, and E where it has
// options.
func describeAnswer(t *testing.T, packed []byte) string {
	t.Helper()
	if packed == nil {
		return "none"
	}
	var m dnsmessage.Message
	if err := m.Unpack(packed); err != nil {
		t.Fatalf("%x is no message: %v", packed, err)
	}
	if !m.Response || len(packed) > answerSize || m.Truncated {
		t.Errorf("%d bytes: %s", len(packed), m.GoString())
	}
	words := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
	for _, a := range m.Answers {
		if a.Header.TTL != 0 {
			t.Errorf("it may be remembered for %d s", a.Header.TTL)
		}
		words = append(words, netip.AddrFrom4(a.Body.(*dnsmessage.AResource).A).String())
	}
	for _, a := range m.Additionals {
		words = append(words, fmt.Sprintf("E%d", a.Header.ExtendedRCode(m.RCode)))
	}
	return strings.Join(words, " ")
}

func TestAnswer(t *testing.T) {
	raw := func(text string) []byte { return []byte(text) }
	// A question whose name is given as bytes.
	named := func(name string) []byte {
		return raw("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x01\x00\x01")
	}
	label := strings.Repeat("a", 63)
	const first, second = "Success 127.64.0.1", "Success 127.64.0.2"
	for name, c := range map[string]struct {
		message []byte
		want    string
	}{
		"an address":                     {ask("db.example.", dnsmessage.TypeA), first},
		"in any case":                    {ask("DB.eXample.", dnsmessage.TypeA), first},
		"one label":                      {ask("db.", dnsmessage.TypeA), first},
		"the longest name":               {named("\x3f" + label + "\x3f" + label + "\x3f" + label + "\x3d" + label[:61] + "\x00"), first},
		"with options":                   {ask("db.example.", dnsmessage.TypeA, withOptions(0)), first + " E0"},
		"options of another version":     {ask("db.example.", dnsmessage.TypeA, withOptions(1)), "Success E16"},
		"options twice":                  {ask("db.example.", dnsmessage.TypeA, withOptions(0), withOptions(0)), "FormatError E1"},
		"IPv6":                           {ask("db.example.", dnsmessage.TypeAAAA), "Success"},
		"text":                           {ask("db.example.", dnsmessage.TypeTXT), "Success"},
		"mail":                           {ask("db.example.", dnsmessage.TypeMX), "Success"},
		"an alias":                       {ask("db.example.", dnsmessage.TypeCNAME), "Success"},
		"a server":                       {ask("db.example.", dnsmessage.TypeNS), "Success"},
		"a service":                      {ask("_x._tcp.example.", dnsmessage.TypeSRV), "Success"},
		"HTTPS":                          {ask("db.example.", 65), "Success"},
		"the name of an address":         {ask("1.0.64.127.in-addr.arpa.", dnsmessage.TypePTR), "Success"},
		"all types":                      {ask("db.example.", dnsmessage.TypeALL), "Success"},
		"type 0":                         {ask("db.example.", 0), "Success"},
		"a zone":                         {ask("db.example.", dnsmessage.TypeAXFR), "Refused"},
		"what is new in a zone":          {ask("db.example.", typeIXFR), "Refused"},
		"another class":                  {ask("version.bind.", dnsmessage.TypeTXT, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }), "Refused"},
		"any class":                      {ask("db.example.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassANY }), "Refused"},
		"this host":                      {ask("localhost.", dnsmessage.TypeA), "NameError"},
		"below this host":                {ask("x.localhost.", dnsmessage.TypeA), "NameError"},
		"the root":                       {ask(".", dnsmessage.TypeA), "NameError"},
		"a space in a name":              {ask("a b.example.", dnsmessage.TypeA), "NameError"},
		"NUL in a name":                  {named("\x03a\x00b\x00"), "NameError"},
		"a dot in a label":               {named("\x03a.b\x00"), "FormatError"},
		"not ASCII":                      {named("\x02\xc3\xa9\x00"), "NameError"},
		"no question":                    {ask("a.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions = nil }), "FormatError"},
		"two questions":                  {ask("a.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }), "FormatError"},
		"an update":                      {ask("a.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.OpCode = 5 }), "NotImplemented"},
		"an answer":                      {ask("a.", dnsmessage.TypeA, func(m *dnsmessage.Message) { m.Response = true }), "none"},
		"nothing":                        {nil, "none"},
		"half of a header":               {raw("\x00\x07\x01\x00\x00"), "none"},
		"a name that points at itself":   {named("\xc0\x0c"), "FormatError"},
		"a name in a circle":             {named("\x01a\xc0\x0e\xc0\x0c"), "FormatError"},
		"a name past the end":            {named("\xc0\xff"), "FormatError"},
		"a label past the end":           {named("\x3fa"), "FormatError"},
		"a label of a kind there is not": {named("\x80a\x00"), "FormatError"},
		"a name that is too long":        {named(strings.Repeat("\x3f"+label, 4) + "\x00"), "FormatError"},
		"more records than there are":    {raw("\x00\x07\x01\x00\x00\x01\xff\xff\xff\xff\xff\xff\x01a\x00\x00\x01\x00\x01"), "FormatError"},
		"garbage":                        {raw(strings.Repeat("\x07", 4096)), "FormatError"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNames(&addresses{})
			got := answer(c.message, n)
			if described := describeAnswer(t, got); described != c.want {
				t.Errorf("%s, want %s", described, c.want)
			}
			if got != nil && binary.BigEndian.Uint16(got) != binary.BigEndian.Uint16(c.message) {
				t.Error("the answer is to another question")
			}
			if !strings.HasPrefix(c.want, first) && len(n.addresses) > 0 {
				t.Errorf("names were given addresses: %v", n.addresses)
			}
		})
	}
	n := newNames(&addresses{})
	answer(ask("a.", dnsmessage.TypeA), n)
	if got := describeAnswer(t, answer(ask("b.", dnsmessage.TypeA), n)); got != second {
		t.Errorf("another name: %s, want %s", got, second)
	}
}

// Names are bounded, and no address is given twice.
func TestNames(t *testing.T) {
	var free addresses
	n := newNames(&free)
	for i := range maxNames {
		name := fmt.Sprintf("n%d", i)
		address, ok := n.address(name)
		if !ok || !address.IsLoopback() || n.name(address) != name {
			t.Fatalf("%s: %s, %v, back %q", name, address, ok, n.name(address))
		}
	}
	if got := describeAnswer(t, answer(ask("more.", dnsmessage.TypeA), n)); got != "ServerFailure" {
		t.Errorf("one name too many: %s", got)
	}
	if known, ok := n.address("n0"); !ok || known.String() != "127.64.0.1" {
		t.Errorf("a name that is known: %s, %v", known, ok)
	}
	next := newNames(&free)
	address, _ := next.address("n0")
	if n.name(address) != "" || next.name(netip.MustParseAddr("127.64.0.1")) != "" {
		t.Errorf("%s was an earlier program's", address)
	}
	free.given = lastAddress - firstAddress
	if address, ok := next.address("last"); !ok || address.String() != "127.127.255.255" {
		t.Errorf("the last: %s, %v", address, ok)
	}
	if address, ok := next.address("none"); ok {
		t.Errorf("after the last: %s", address)
	}
}

// A name that is asked for outside is asked for once, and is not to be found, or is,
// with an address of its own.
func TestNamesThatAreHidden(t *testing.T) {
	n := newNames(&addresses{})
	var asked []string
	fails := false
	n.ask = func(name string) (bool, error) {
		asked = append(asked, name)
		if fails {
			return true, errors.New("cut off")
		}
		return name == "db.example", nil
	}
	check := func(want string, question []byte) {
		t.Helper()
		if got := describeAnswer(t, answer(question, n)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	for range 2 {
		check("Success 127.64.0.1", ask("db.example.", dnsmessage.TypeA))
		check("Success", ask("DB.example.", dnsmessage.TypeAAAA))
		for _, of := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeTXT, dnsmessage.TypeALL} {
			check("NameError", ask("evil.example.", of))
		}
		check("Refused", ask("x.evil.example.", dnsmessage.TypeAXFR))
		check("NameError", ask("localhost.", dnsmessage.TypeA))
	}
	if want := []string{"db.example", "evil.example"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q, want %q", asked, want)
	}
	fails = true
	check("ServerFailure", ask("new.example.", dnsmessage.TypeA))
	fails = false
	check("NameError", ask("new.example.", dnsmessage.TypeA)) // it is asked for again
	for i := len(n.asked); i < maxNames; i++ {
		check("NameError", ask(fmt.Sprintf("n%d.", i), dnsmessage.TypeA))
	}
	check("ServerFailure", ask("more.", dnsmessage.TypeA))
	check("Success 127.64.0.1", ask("db.example.", dnsmessage.TypeA))
	if len(asked) != maxNames+1 {
		t.Errorf("asked %d times", len(asked))
	}
}

// FuzzAnswer sends the resolver whatever a program could: it answers with a whole
// message to the same question, or not at all.
func FuzzAnswer(f *testing.F) {
	f.Add(ask("db.example.", dnsmessage.TypeA, withOptions(0)))
	f.Add(ask("db.example.", dnsmessage.TypeAXFR))
	f.Add([]byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, message []byte) {
		n := newNames(&addresses{})
		packed := answer(message, n)
		if packed == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(packed); err != nil {
			t.Fatalf("%x is no message: %v", packed, err)
		}
		if !m.Response || len(packed) > answerSize || m.ID != binary.BigEndian.Uint16(message) || len(m.Answers) > 1 || len(m.Answers) != len(n.addresses) {
			t.Fatalf("%s with %v", m.GoString(), n.addresses)
		}
		if answer(packed, n) != nil {
			t.Fatal("an answer is answered")
		}
	})
}
