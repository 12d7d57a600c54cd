package wire_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/execgate/execgate/executor/wire"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The bytes of each frame are a contract between two binaries.
func TestFramesAreGolden(t *testing.T) {
	job := `{"code":"print(1)","input":{"n":[1]},"env":{"MODE":"test"},"result":"/tmp/.execgate-result"}`
	frames := map[string]func(io.Writer) error{
		"hello": func(w io.Writer) error {
			return wire.WriteJSON(w, wire.FrameHello, wire.Hello{Version: wire.Version, Arch: "amd64", Report: wire.Report{
				Status:     map[string]string{"Uid": "210000\t210000\t210000\t210000", "Seccomp": "2"},
				Interfaces: []string{"lo"},
				Mounts:     []wire.Mount{{Path: "/tmp", Type: "tmpfs", Options: "rw,nosuid,nodev", Writable: true, Bytes: 16 << 20, Inodes: 3072}},
				Cgroup:     map[string]string{"pids": "66"},
				Rlimits:    map[string]uint64{"core": 0},
			}})
		},
		"file": func(w io.Writer) error {
			return wire.WriteFile(w, wire.FrameFile, "dir/data.csv", 4, strings.NewReader("a,b\n"))
		},
		"start": func(w io.Writer) error {
			return wire.WriteJSON(w, wire.FrameStart, wire.Start{
				Round: 2, Keep: wire.KeepSession,
				Process:     wire.Process{Argv: []string{"/usr/bin/python3"}, Env: []string{"MODE=test"}, PIDs: 50, Stays: true},
				Job:         &job,
				ResultBytes: 1024, FilesBytes: 2048, FilesCount: 3,
				Network: &wire.Network{Ports: []uint16{443, 5432}, Connections: 16},
				Secrets: []wire.SecretFile{{Path: "/tmp/db.json", Content: "{}\n"}},
			})
		},
		"authority": func(w io.Writer) error {
			return wire.Write(w, wire.FrameAuthority, []byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
		},
		"started": func(w io.Writer) error { return wire.Write(w, wire.FrameStarted, nil) },
		"signal":  func(w io.Writer) error { return wire.Write(w, wire.FrameSignal, wire.SignalPayload(15, 2)) },
		"result":  func(w io.Writer) error { return wire.Write(w, wire.FrameResult, []byte(`{"sum":15}`)) },
		"artifact": func(w io.Writer) error {
			return wire.WriteFile(w, wire.FrameArtifact, "a.txt", 3, bytes.NewReader([]byte{0, 1, 2}))
		},
		"done": func(w io.Writer) error {
			return wire.WriteJSON(w, wire.FrameDone, wire.Done{Problem: wire.ProblemRefused})
		},
		"fetch": func(w io.Writer) error {
			return wire.WriteJSON(w, wire.FrameFetch, wire.Fetch{Path: "a.txt", Max: 1024})
		},
		"cleaned": func(w io.Writer) error {
			return wire.WriteJSON(w, wire.FrameCleaned, wire.Cleaned{Checks: map[string]string{wire.CheckFiles: "", wire.CheckIPC: "1 shared memory segment"}})
		},
		"exited": func(w io.Writer) error {
			return wire.WriteJSON(w, wire.FrameExited, wire.Exited{ExitCode: 3, WallUS: 4000, CPUUS: 3000, PeakMemory: 1 << 20, Processes: 2, OOMKills: 1, PIDsHit: true, FullMounts: []string{"/tmp"}})
		},
	}
	for name, write := range frames {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := write(&got); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".frame")
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got.Bytes()); diff != "" {
				t.Fatalf("frame differs from %s (-want +got):\n%s", path, diff)
			}
			frame, err := wire.NewReader(&got).Next(everything)
			if err != nil {
				t.Fatal(err)
			}
			var again bytes.Buffer
			if err := wire.Write(&again, frame.Type, frame.Payload); err != nil || !bytes.Equal(again.Bytes(), want) {
				t.Fatalf("read and written again, the frame differs (%v)", err)
			}
		})
	}
}

var everything = map[wire.FrameType]int{
	wire.FrameHello: 1 << 16, wire.FrameFile: 1 << 16, wire.FrameStart: 1 << 16, wire.FrameStarted: 0,
	wire.FramePark: 1 << 16, wire.FrameParked: 0, wire.FrameSignal: 5, wire.FrameResult: 1 << 16, wire.FrameArtifact: 1 << 16, wire.FrameExited: 1 << 16,
	wire.FrameSync: 0, wire.FrameFetch: 1 << 16, wire.FrameContent: 1 << 16, wire.FrameDone: 1 << 16, wire.FrameCleaned: 1 << 16,
	wire.FrameAuthority: 1 << 16,
}

func TestReaderRefuses(t *testing.T) {
	cases := map[string]struct {
		bytes []byte
		max   map[wire.FrameType]int
	}{
		"a type that may not come":   {[]byte{99, 0, 0, 0, 0}, everything},
		"type zero":                  {[]byte{0, 0, 0, 0, 0}, everything},
		"a payload over its maximum": {[]byte{5, 0, 0, 0, 6, 9, 9, 9, 9, 9, 9}, everything},
		"four gibibytes":             {[]byte{6, 0xff, 0xff, 0xff, 0xff}, everything},
		"a payload cut short":        {[]byte{6, 0, 0, 0, 4, 1}, everything},
		"a header cut short":         {[]byte{6, 0, 0}, everything},
	}
	for name, c := range cases {
		if frame, err := wire.NewReader(bytes.NewReader(c.bytes)).Next(c.max); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: got frame %v, error %v", name, frame, err)
		}
	}
	if _, err := wire.NewReader(bytes.NewReader(nil)).Next(everything); err != io.EOF {
		t.Errorf("a clean end: %v, want io.EOF", err)
	}
}

func TestFileRefuses(t *testing.T) {
	for name, payload := range map[string][]byte{
		"nothing":         {},
		"empty path":      {0, 0, 'x'},
		"path past end":   {0, 9, 'x'},
		"path not UTF-8":  {0, 2, 0xff, 0xfe, 'x'},
		"path over limit": append([]byte{0xff, 0xff}, make([]byte, 1<<16)...),
	} {
		if path, _, err := (wire.Frame{Type: wire.FrameArtifact, Payload: payload}).File(); err == nil {
			t.Errorf("%s: got path %q", name, path)
		}
	}
}

func TestSessionCarriesStreams(t *testing.T) {
	a, b := net.Pipe()
	gateway, err := wire.Dial(a)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := wire.Serve(b)
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan error, 1)
	go func() {
		kind, stream, err := agent.Accept()
		if err == nil && kind != wire.KindStdin {
			err = errors.New("wrong kind")
		}
		if err == nil {
			_, err = io.Copy(stream, stream)
			stream.Close()
		}
		echoed <- err
	}()
	stream, err := gateway.Open(wire.KindStdin)
	if err != nil {
		t.Fatal(err)
	}
	// More than a window, so that flow control is part of the test.
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		stream.Write(sent)
		stream.Close() // half: the other direction stays open
	}()
	got, err := io.ReadAll(stream)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes of %d came back, error %v", len(got), len(sent), err)
	}
	if err := <-echoed; err != nil {
		t.Fatal(err)
	}
	gateway.Close()
	<-agent.Done()
}

func FuzzReader(f *testing.F) {
	golden, _ := filepath.Glob("testdata/*.frame")
	for _, path := range golden {
		content, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		reader := wire.NewReader(bytes.NewReader(input))
		consumed := 0
		for {
			frame, err := reader.Next(everything)
			if err != nil {
				return
			}
			if len(frame.Payload) > everything[frame.Type] {
				t.Fatalf("frame %d of %d bytes came through", frame.Type, len(frame.Payload))
			}
			if consumed += 5 + len(frame.Payload); consumed > len(input) {
				t.Fatal("more frames than bytes")
			}
			if path, content, err := frame.File(); err == nil {
				var again bytes.Buffer
				if err := wire.WriteFile(&again, frame.Type, path, int64(len(content)), bytes.NewReader(content)); err != nil || !bytes.Equal(again.Bytes()[5:], frame.Payload) {
					t.Fatalf("file frame does not survive a round trip: %v", err)
				}
			}
			frame.Decode(&wire.Hello{})
			frame.Decode(&wire.Exited{})
		}
	})
}
