package export

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

func TestSyslogMessage(t *testing.T) {
	s := newSyslogServer(t, false)
	log := newLog(3)
	log.make = func(seq uint64) execution.Record {
		r := hostileRecord(seq)
		if seq == 1 {
			r = execution.Record{Seq: seq, Type: execution.RecordGap, Time: time.Unix(0, 0), Gap: &execution.Gap{}}
		}
		return r
	}
	start(t, log, t.TempDir(), []Sink{s.sink()})
	s.waitRead(2)
	s.check(t, 0, 3)
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.messages[0].priority; got != 13*8+6 {
		t.Errorf("the priority of a decision that allows is %d", got)
	}
	if got := s.messages[1]; got.priority != 13*8+3 || got.event != "gap" || got.app != "execgate" || got.time != "1970-01-01T00:00:00.000000Z" {
		t.Errorf("a gap is %+v", got)
	}
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r <= 0x9f || r == '\u2028' {
			return utf8.RuneError
		}
		return r
	}, hostile)
	want := map[string]string{"log": logID, "seq": "2", "execution": clean, "tenant": clean, "subject": clean}
	if diff := cmp.Diff(want, s.messages[2].params); diff != "" {
		t.Errorf("structured data: -want +got\n%s", diff)
	}
	if s.messages[2].id != "execgate@32473" {
		t.Errorf("it is called %s", s.messages[2].id)
	}
}

// Whatever cuts the connection, and whatever the receiver had not read, everything comes.
func TestSyslogReceiverDies(t *testing.T) {
	s := newSyslogServer(t, false)
	s.mortal.Store(700)
	log := newLog(0)
	p := quick
	p.settle = time.Hour // only the size bounds what is kept
	r := start(t, log, t.TempDir(), []Sink{s.sink()}, withPace(p))
	const count = 5000
	for range 50 {
		log.grow(count / 50)
	}
	eventually(t, "it dies some times", func() bool { return s.accepted.Load() >= 5 })
	s.mortal.Store(0)
	eventually(t, "everything is sent", func() bool { return r.Stats()[0].Next == count })
	s.waitRead(count - 1)
	if s.check(t, 0, count) == 0 {
		t.Error("nothing was sent again, so that nothing was tested")
	}
	if r.Acknowledged() == count {
		t.Error("the cursor passed what may be sent again")
	}
}

// What a receiver has taken and not read before it died is sent again by itself, without a
// further record.
func TestSyslogReceiverDiesWithoutReading(t *testing.T) {
	s := newSyslogServer(t, false)
	s.deaf.Store(true)
	p := quick
	p.settle = patience
	r := start(t, newLog(5), t.TempDir(), []Sink{s.sink()}, withPace(p))
	eventually(t, "its machine has them", func() bool { return r.Stats()[0].Next == 5 })
	if s.len() != 0 || r.Acknowledged() != 0 {
		t.Fatal("they were read")
	}
	s.vanish()
	s.deaf.Store(false)
	s.listen()
	s.waitRead(4)
	s.check(t, 0, 5)
}

func TestSyslogSettles(t *testing.T) {
	s := newSyslogServer(t, false)
	log, dir := newLog(10), t.TempDir()
	r := start(t, log, dir, []Sink{s.sink()})
	s.waitRead(9)
	r.waitAcknowledged(10) // without a further record
	r.stop()
	r = start(t, log, dir, []Sink{s.sink()})
	log.grow(10)
	s.waitRead(19)
	r.waitAcknowledged(20)
	if again := s.check(t, 0, 20); again != 0 {
		t.Errorf("%d records came again, which were settled", again)
	}
}

// A receiver that stops reading is noticed.
func TestSyslogReceiverDoesNotRead(t *testing.T) {
	s := newSyslogServer(t, false)
	s.deaf.Store(true)
	p := quick
	p.attempt, p.settle = 2*time.Second, patience
	log := newLog(6_000) // more than the receiver's machine takes
	r := start(t, log, t.TempDir(), []Sink{s.sink()}, withPace(p))
	eventually(t, "an attempt fails", func() bool { return r.Stats()[0].Failures >= 1 })
	s.vanish()
	s.deaf.Store(false)
	s.listen()
	s.waitRead(5_999)
	s.check(t, 0, 6_000)
}

func TestSyslogIsProven(t *testing.T) {
	s := newSyslogServer(t, true)
	strange, strangersKey, _ := authority(t)
	other := s.sink()
	other.ClientCert, other.ClientKey = strange, strangersKey
	unproven := s.sink()
	unproven.CAFile = strange
	for name, sink := range map[string]Sink{"a receiver of another authority": unproven, "no certificate": s.sink(), "a certificate of another authority": other} {
		r := start(t, newLog(1), t.TempDir(), []Sink{sink})
		eventually(t, name+" is refused", func() bool { return r.Stats()[0].Failures >= 2 })
		r.stop()
		if s.len() != 0 {
			t.Fatalf("%s: records were delivered", name)
		}
	}
	mutual := s.sink()
	mutual.ClientCert, mutual.ClientKey = s.caFile, s.keyFile
	start(t, newLog(1), t.TempDir(), []Sink{mutual})
	s.waitRead(0)
}

// A plain stream of anything is no message: the parser that the tests trust refuses it.
func TestParserIsStrict(t *testing.T) {
	for _, text := range []string{
		"", "{}", "<13>1 - - - - - - {}",
		`<110>1 2026-01-02T03:04:05.000000Z h execgate 1 decided [execgate@32473 a="b] {}`,
		`<110>1 2026-01-02T03:04:05.000000Z h execgate 1 decided [execgate@32473 a="b" a="c"] {}`,
		`<110>1 2026-01-02T03:04:05.000000Z h execgate 1 decided [execgate@32473 a="b"]`,
		"<110>1 2026-01-02T03:04:05.000000Z h execgate 1 decided [execgate@32473 a=\"b\"] {\n}",
	} {
		if _, err := parseMessage([]byte(text)); err == nil {
			t.Errorf("%q is taken for a message", text)
		}
	}
}
