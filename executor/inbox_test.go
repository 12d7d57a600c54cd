package executor

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// little are limits that are quickly passed.
var little = execution.Limits{ResultKiB: 1, FilesMiB: 1, FilesCount: 3}

// raw is a frame as it stands on the wire.
func raw(typ wire.FrameType, payload string) string {
	return string(binary.BigEndian.AppendUint32([]byte{byte(typ)}, uint32(len(payload)))) + payload
}

func artifact(path string, size int) string {
	var b bytes.Buffer
	wire.WriteFile(&b, wire.FrameArtifact, path, int64(size), strings.NewReader(strings.Repeat("x", size)))
	return b.String()
}

var (
	started = raw(wire.FrameStarted, "")
	ended   = raw(wire.FrameExited, "{}")
)

// receive feeds an inbox and returns the frames it passed on and its last word.
func receive(t testing.TB, from io.Reader) (passed []wire.FrameType, err error) {
	t.Helper()
	in := newInbox(little)
	go in.read(wire.NewReader(from))
	defer in.close()
	for {
		select {
		case frame := <-in.frames:
			passed = append(passed, frame.Type)
		case err := <-in.lost:
			return passed, err
		case <-time.After(inTime):
			t.Fatal("the inbox hangs")
		}
	}
}

func TestInboxOrder(t *testing.T) {
	const mib = 1 << 20
	accepted := map[string]string{
		"the least":          started + ended,
		"a result":           started + raw(wire.FrameResult, "1") + ended,
		"artifacts":          started + artifact("a", 1) + artifact("b", 2) + artifact("c", 0) + ended,
		"both":               started + raw(wire.FrameResult, "1") + artifact("a", 1) + ended,
		"a result that fits": started + raw(wire.FrameResult, strings.Repeat("1", 1024)) + ended,
		"a file that fits":   started + artifact("a", mib) + ended,
		"more after the end": started + ended + ended + "garbage",
	}
	for name, bytes := range accepted {
		if _, err := receive(t, strings.NewReader(bytes)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused := map[string]string{
		"nothing":                  "",
		"no last word":             started,
		"exited before started":    ended,
		"a result before started":  raw(wire.FrameResult, "1"),
		"an artifact at first":     artifact("a", 1),
		"started twice":            started + started,
		"hello again":              started + raw(wire.FrameHello, "{}"),
		"the gateway's own frames": started + raw(wire.FrameStart, "{}"),
		"a signal":                 started + raw(wire.FrameSignal, "\x09"),
		"a file":                   started + raw(wire.FrameFile, "\x00\x01a"),
		"a frame of no type":       started + raw(0, ""),
		"a type of the future":     started + raw(200, ""),
		"two results":              started + raw(wire.FrameResult, "1") + raw(wire.FrameResult, "2"),
		"a result after artifacts": started + artifact("a", 1) + raw(wire.FrameResult, "1"),
		"a result that is larger":  started + raw(wire.FrameResult, strings.Repeat("1", 1025)),
		"started with a payload":   raw(wire.FrameStarted, "x"),
		"more files than granted":  started + strings.Repeat(artifact("a", 0), 4),
		"larger than granted":      started + artifact("a", mib+1),
		"larger together":          started + artifact("a", mib) + artifact("b", 1),
		"an artifact without path": started + raw(wire.FrameArtifact, "\x00\x00"),
		"an artifact of one byte":  started + raw(wire.FrameArtifact, "\x00"),
		"a path that is not text":  started + raw(wire.FrameArtifact, "\x00\x01\xff"),
		"a last word of 65 KiB":    started + raw(wire.FrameExited, strings.Repeat(" ", 65<<10)),
		"cut short":                started + raw(wire.FrameResult, "123")[:6],
		"four gibibytes announced": started + "\x06\xff\xff\xff\xff",
		"an endless artifact":      started + "\x07\xff\xff\xff\xff",
	}
	for name, bytes := range refused {
		passed, err := receive(t, strings.NewReader(bytes))
		if err == nil {
			t.Errorf("%s: passed on %v", name, passed)
		}
	}
}

// An agent that never stops is stopped.
func TestInboxEndless(t *testing.T) {
	for name, frame := range map[string]string{"artifacts": artifact("a", 100), "empty artifacts": artifact("a", 0), "started": started, "garbage": "\x07\x07\x07\x07"} {
		gateway, agent := net.Pipe()
		go func() {
			defer agent.Close()
			io.WriteString(agent, started)
			for {
				if _, err := io.WriteString(agent, frame); err != nil {
					return
				}
			}
		}()
		if passed, err := receive(t, gateway); err == nil || len(passed) > 4 {
			t.Errorf("%s: %d frames, %v", name, len(passed), err)
		}
		gateway.Close()
	}
}

// Nobody reading is no reason to hang either.
func TestInboxCloses(t *testing.T) {
	in := newInbox(little)
	done := make(chan error, 1)
	go func() { done <- in.read(wire.NewReader(strings.NewReader(started + ended))) }()
	in.close()
	select {
	case <-done:
	case <-time.After(inTime):
		t.Fatal("read does not return")
	}
}

func FuzzInbox(f *testing.F) {
	f.Add([]byte(started + raw(wire.FrameResult, "1") + artifact("a", 3) + ended))
	f.Add([]byte(started + ended))
	f.Add([]byte(started + artifact("../x", 1)))
	f.Fuzz(func(t *testing.T, bytes []byte) {
		in := newInbox(little)
		done := make(chan error, 1)
		go func() { done <- in.read(wire.NewReader(strings.NewReader(string(bytes)))) }()
		var files, size, results int64
		var last wire.FrameType
		for {
			select {
			case frame := <-in.frames:
				if last == wire.FrameExited || last == 0 && frame.Type != wire.FrameStarted {
					t.Fatalf("frame %d after %d", frame.Type, last)
				}
				last = frame.Type
				switch frame.Type {
				case wire.FrameArtifact:
					_, content, err := frame.File()
					if err != nil {
						t.Fatal(err)
					}
					files, size = files+1, size+int64(len(content))
				case wire.FrameResult:
					results++
				}
				continue
			case <-done:
			}
			break
		}
		if files > little.FilesCount || size > little.FilesMiB<<20 || results > 1 {
			t.Fatalf("%d files of %d bytes, %d results", files, size, results)
		}
	})
}
