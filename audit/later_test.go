package audit

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
)

// counted is a disk that counts what it is asked for of one kind.
func counted(op string) (disk *faulty, calls func() int) {
	n := 0
	disk = &faulty{plan: func(is string, _ int) fault1 {
		if is == op {
			n++
		}
		return fault1{}
	}}
	return disk, func() int {
		disk.mu.Lock()
		defer disk.mu.Unlock()
		return n
	}
}

// typesIn are the types of what a log holds, in its order.
func typesIn(t *testing.T, dir string) (types []execution.RecordType) {
	t.Helper()
	for rec, err := range Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, rec.Type)
	}
	return types
}

func neverLost(t *testing.T) func(error) {
	return func(err error) { t.Errorf("a record is lost: %v", err) }
}

var wholeStory = []execution.RecordType{execution.RecordDecided, execution.RecordStarted, execution.RecordEnded}

// What nobody waits for costs no fdatasync of its own, and comes before what is
// appended after it.
func TestLaterRidesWithTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // so that half a second does not pass
		disk, syncs := counted("datasync")
		cfg := folders(t)
		cfg.FileSystem = disk
		l, stop := running(t, cfg)
		seq := mustAppend(t, l, decided(1, execution.EffectAllow))
		before := syncs()
		l.AppendLater(started(1, seq), neverLost(t))
		synctest.Wait()
		if n := syncs() - before; n != 0 {
			t.Errorf("%d fdatasync for what nobody waits for", n)
		}
		if end := mustAppend(t, l, ended(1, seq)); end != seq+2 {
			t.Errorf("the end has the number %d", end)
		}
		if n := syncs() - before; n != 1 {
			t.Errorf("%d fdatasync for the beginning and the end", n)
		}
		stop()
		if got := typesIn(t, cfg.Dir); !slices.Equal(got, wholeStory) {
			t.Errorf("the log has %v", got)
		}
		mustVerify(t, cfg, l.Verifier())
	})
}

// Where nothing else is written it is durable soon, and at the latest when the log
// is stopped.
func TestLaterIsWrittenAlone(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			cfg := folders(t)
			l, stop := running(t, cfg)
			seq := mustAppend(t, l, decided(1, execution.EffectAllow))
			l.AppendLater(started(1, seq), neverLost(t))
			if stopped {
				stop()
			} else {
				time.Sleep(healInterval)
				synctest.Wait()
			}
			if durable, _ := l.Progress(); durable != 2 {
				t.Errorf("stopped %v: %d records are durable", stopped, durable)
			}
		})
	}
}

// What cannot be written is told of, once, and the log goes on.
func TestLaterIsToldWhereItIsLost(t *testing.T) {
	disk := &faulty{}
	cfg := folders(t)
	cfg.FileSystem = disk
	l, stop := running(t, cfg)
	seq := mustAppend(t, l, decided(1, execution.EffectAllow))
	lost := make(chan error, 10)
	failOnce(disk, "datasync")
	l.AppendLater(started(1, seq), func(err error) { lost <- err })
	if err := <-lost; execution.KindOf(err) != execution.KindUnavailable {
		t.Errorf("lost: %v", err)
	}
	mustAppendSoon(t, l, ended(1, seq))
	for _, rec := range []execution.Record{{}, decided(2, execution.EffectAllow), ended(1, seq), {Type: execution.RecordStarted, RequestID: string(make([]byte, 1<<20))}} {
		l.AppendLater(rec, func(err error) { lost <- err })
		select {
		case err := <-lost:
			if err == nil {
				t.Error("lost without an error")
			}
		default:
			t.Errorf("a record of the type %q is taken", rec.Type)
		}
	}
	stop()
	l.AppendLater(started(1, seq), func(err error) { lost <- err })
	if len(lost) != 1 {
		t.Errorf("after the stop: told %d times", len(lost))
	}
	mustVerify(t, cfg, l.Verifier())
}

// On a full disk a beginning leaves the ends their space, however many there are.
func TestLaterLeavesTheEndsTheirSpace(t *testing.T) {
	l, cfg, _, stop := onFullDisk(t)
	var open []uint64
	for n := 0; ; n++ {
		seq, err := l.Append(t.Context(), decided(n, execution.EffectAllow))
		if err != nil {
			break
		}
		open = append(open, seq)
	}
	lost := make(chan error, 4000)
	for n := range cap(lost) {
		l.AppendLater(started(n, open[n%len(open)]), func(err error) { lost <- err })
	}
	for n, seq := range open {
		mustAppend(t, l, ended(n, seq))
	}
	stop()
	close(lost)
	full := 0
	for err := range lost {
		if errors.Is(err, errFull) {
			full++
		}
	}
	if full == 0 {
		t.Error("no beginning was refused for want of space")
	}
	mustVerify(t, cfg, l.Verifier())
}
