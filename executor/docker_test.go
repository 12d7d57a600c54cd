package executor_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// docker runs the engine's own command line, which is how these tests look at
// the engine from outside.
func docker(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// containers lists ids, of any state.
func containers(t testing.TB, filter string) []string {
	t.Helper()
	return strings.Fields(docker(t, "ps", "-aq", "--no-trunc", "--filter", filter))
}

// tasks counts the processes and threads of one container, and is 0 where none
// of those that filter names runs.
func tasks(t testing.TB, filter string) int {
	t.Helper()
	ids := containers(t, filter)
	if len(ids) != 1 {
		return 0
	}
	out, err := exec.Command("docker", "top", ids[0], "-eLo", "pid,lwp,comm").Output()
	if err != nil {
		return 0 // not up yet
	}
	return strings.Count(strings.TrimSpace(string(out)), "\n")
}

// programEnded reports whether a container has no process any more but its agent, or
// is gone.
func programEnded(t testing.TB, filter string) bool {
	t.Helper()
	ids := containers(t, filter)
	if len(ids) == 0 {
		return true
	}
	out, err := exec.Command("docker", "top", ids[0]).Output()
	return err == nil && strings.Count(strings.TrimSpace(string(out)), "\n") == 1
}

// anonymousVolumes lists the volumes that the engine made of itself and nobody
// uses: what a container leaves that was removed without them.
func anonymousVolumes(t testing.TB) []string {
	t.Helper()
	const idLength = 64
	var names []string
	for name := range strings.FieldsSeq(docker(t, "volume", "ls", "-q", "--filter", "dangling=true")) {
		if len(name) == idLength {
			names = append(names, name)
		}
	}
	return names
}

// untilNoVolumeIsLeft waits until there is no anonymous volume that was not there
// before. Others on this machine may have theirs, which go in their time.
func untilNoVolumeIsLeft(t testing.TB, before []string) {
	t.Helper()
	left := slices.DeleteFunc(anonymousVolumes(t), func(name string) bool { return slices.Contains(before, name) })
	until(t, "no volume is left", func() bool {
		now := anonymousVolumes(t)
		left = slices.DeleteFunc(left, func(name string) bool { return !slices.Contains(now, name) })
		return len(left) == 0
	})
}
