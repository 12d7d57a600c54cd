package main

import (
	"net"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// answerNames answers questions of DNS: name is at 127.0.0.1, and there is no other.
func answerNames(conn net.PacketConn, name string) error {
	packet := make([]byte, 512) // RFC 1035, 4.2.1: no question is larger
	for {
		n, from, err := conn.ReadFrom(packet)
		if err != nil {
			return err
		}
		if answer, err := answerName(packet[:n], name); err == nil { // what is no question has no answer
			if _, err := conn.WriteTo(answer, from); err != nil {
				return err
			}
		}
	}
}

func answerName(question []byte, name string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(question); err != nil {
		return nil, err
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	m.RCode = dnsmessage.RCodeNameError
	for _, q := range m.Questions {
		if !strings.EqualFold(q.Name.String(), name+".") {
			continue
		}
		m.RCode = dnsmessage.RCodeSuccess
		if q.Type == dnsmessage.TypeA {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
			})
		}
	}
	return m.Pack()
}
