package executor

import (
	"slices"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

const (
	// parkedAge is how long a sandbox is kept parked.
	parkedAge = 30 * time.Minute
	// parkedDeadline is when anyone may take a parked one, or one that was
	// claimed, for abandoned.
	parkedDeadline = 2 * time.Hour
	// demandAge is how long a claim that found the shelf empty raises the
	// number that is kept.
	demandAge = time.Minute
	// idleAge is how long after the last claim no more than the least are kept.
	idleAge = 10 * time.Minute
	// shapeChange is how many claims in a row of one other shape make a shelf
	// take on that shape: the policy has changed, and this is what it grants.
	shapeChange = 3
)

// shape is what cannot be changed on a running sandbox.
type shape struct{ pids, nofile, tmp, workspace, shm int64 }

func shapeOf(l execution.Limits) shape {
	return shape{l.PIDs, l.NoFile, l.TmpMiB, l.WorkspaceMiB, l.ShmMiB}
}

// shelf holds parked sandboxes that are all alike. The pool's lock guards it.
type shelf struct {
	Warm
	tenant string // who alone gets them; empty: anybody
	shape  shape
	parked []*sandbox
	coming int // are being built

	asked  time.Time   // the last claim, or the start
	misses []time.Time // of late, when the shelf was empty
	other  shape       // the shape of the last claims that did not fit
	others int         // how many they were in a row
}

// names reports whether the code names a module that is preloaded.
func (s *shelf) names(code string) bool {
	return slices.ContainsFunc(s.Preload, func(module string) bool {
		top, _, _ := strings.Cut(module, ".")
		return strings.Contains(code, top)
	})
}

// take removes a fitting sandbox from the shelf; nil where there is none.
func (s *shelf) take(job execution.Job, image imageState, deadline, now time.Time) *sandbox {
	s.asked = now
	want := shapeOf(job.Grant.Limits)
	if want != s.shape {
		s.learn(want)
		return nil
	}
	s.others = 0
	for i, sb := range s.parked {
		if sb.spec.Image.ID == image.facts.ID && deadline.Before(sb.spec.Deadline) {
			s.parked = slices.Delete(s.parked, i, i+1)
			return sb
		}
	}
	s.misses = append(s.misses, now)
	return nil
}

// learn takes on another shape once claims keep asking for it.
func (s *shelf) learn(want shape) {
	if want != s.other {
		s.other, s.others = want, 0
	}
	if s.others++; s.others >= shapeChange {
		s.shape = want
	}
}

// built are the limits that a new sandbox of this shelf gets.
func (s *shelf) built() Warm {
	w := s.Warm
	l := &w.Limits
	l.PIDs, l.NoFile = s.shape.pids, s.shape.nofile
	l.TmpMiB, l.WorkspaceMiB, l.ShmMiB = s.shape.tmp, s.shape.workspace, s.shape.shm
	return w
}

// wanted is how many should be parked: the target, and one more for each claim
// that lately found none; the least where there was no claim in a long time.
func (s *shelf) wanted(now time.Time) int {
	if now.Sub(s.asked) > idleAge {
		return s.Min
	}
	s.misses = slices.DeleteFunc(s.misses, func(t time.Time) bool { return now.Sub(t) > demandAge })
	return min(s.Target+len(s.misses), s.Max)
}

// stale removes from the shelf what must not be used any more.
func (s *shelf) stale(image imageState, now time.Time) (old []*sandbox) {
	surplus := len(s.parked) - s.wanted(now)
	s.parked = slices.DeleteFunc(s.parked, func(sb *sandbox) bool {
		gone := !sb.alive() || sb.spec.Image.ID != image.facts.ID || shapeOf(sb.spec.Grant.Limits) != s.shape ||
			sb.spec.Deadline.Sub(now) < parkedDeadline-parkedAge
		if !gone && surplus > 0 {
			gone, surplus = true, surplus-1
		}
		if gone {
			old = append(old, sb)
		}
		return gone
	})
	return old
}
