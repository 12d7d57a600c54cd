package executor

import (
	"fmt"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

const (
	maxExited = 64 << 10 // bytes of the agent's last frame
	maxPath   = 4 << 10  // bytes of a path and its length, in an artifact
)

// inbox reads what the agent says about one program, and refuses what is out
// of order or more than was granted.
type inbox struct {
	frames chan wire.Frame
	lost   chan error // gets one error, or nil after the last word
	done   chan struct{}

	limits execution.Limits
	next   map[wire.FrameType]int // what may come, and its largest payload
	files  int64                  // artifacts that may still come
	bytes  int64                  // and their content
}

func newInbox(l execution.Limits) *inbox {
	return &inbox{
		frames: make(chan wire.Frame), lost: make(chan error, 1), done: make(chan struct{}),
		limits: l, next: map[wire.FrameType]int{wire.FrameStarted: 0},
		files: l.FilesCount, bytes: l.FilesMiB << 20,
	}
}

// close makes read return though nobody takes its frames any more.
func (in *inbox) close() { close(in.done) }

// read passes frames on until the agent's last word. Its error is what the
// agent did wrong, or the end of the stream.
func (in *inbox) read(frames *wire.Reader) (err error) {
	defer func() { in.lost <- err }()
	for {
		frame, err := frames.Next(in.next)
		if err != nil {
			return err
		}
		if err := in.advance(frame); err != nil {
			return err
		}
		select {
		case in.frames <- frame:
		case <-in.done:
			return nil
		}
		if frame.Type == wire.FrameExited {
			return nil
		}
	}
}

// advance says what may follow frame: started, then at most one result, then
// artifacts, then exited.
func (in *inbox) advance(frame wire.Frame) error {
	clear(in.next)
	in.next[wire.FrameExited] = maxExited
	if frame.Type == wire.FrameStarted {
		in.next[wire.FrameResult] = int(in.limits.ResultKiB << 10)
	}
	if frame.Type == wire.FrameArtifact {
		_, content, err := frame.File()
		if err != nil {
			return err
		}
		in.files--
		in.bytes -= int64(len(content))
		if in.files < 0 || in.bytes < 0 {
			return fmt.Errorf("artifacts past files_count or files_mib")
		}
	}
	in.next[wire.FrameArtifact] = int(in.bytes) + maxPath
	return nil
}
