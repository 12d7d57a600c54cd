package activation

import (
	"context"

	"github.com/execgate/execgate/execution"
)

// Follower submits what a folder has, whenever it is told to look.
type Follower struct {
	manager *Manager
	folder  string
	known   string // what was tried last: it is not tried again until it is another
	unread  string // the error that was recorded last; empty since it could be read
}

// NewFollower returns a Follower of folder that has not looked yet. tried is what
// was submitted at the start; the zero Candidate where that has to be tried again.
func NewFollower(m *Manager, folder string, tried Candidate) *Follower {
	return &Follower{manager: m, folder: folder, known: keyOf(tried)}
}

// keyOf tells candidates apart. The same files may be signed anew.
func keyOf(c Candidate) string {
	switch {
	case c.Files == nil:
		return ""
	case c.Signature == nil:
		return c.Files.Digest()
	}
	return c.Files.Digest() + " " + execution.HexSHA256(c.Signature.Text())
}

// Look submits what the folder has, if that is new. Where it has to be looked at
// again though nothing changes, because what went wrong was not the policy's fault,
// again is set. It is not to be called concurrently.
func (f *Follower) Look(ctx context.Context) (again bool) {
	c, err := ReadFolder(f.folder)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		if err.Error() != f.unread {
			f.unread = err.Error()
			f.manager.Unreadable(ctx, f.folder, err)
		}
		return true
	}
	f.unread = ""
	is := keyOf(c)
	if is == f.known {
		return false
	}
	if err := f.manager.Submit(ctx, c); err != nil && execution.KindOf(err) == execution.KindUnavailable {
		return true
	}
	f.known = is
	return false
}
