package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// unchanged is how long a gateway's sandboxes must be the same ones. It is
	// longer than a gateway takes from a removal to the next creation.
	unchanged = 150 * time.Millisecond
	// idle is what the sandboxes may use of the processors, all of them, between two
	// looks that are looked apart. An interpreter that still starts uses more.
	idle   = 2 * time.Millisecond
	looked = 25 * time.Millisecond
	// settleTimeout bounds the wait for sandboxes to be parked, and for removals.
	settleTimeout = 60 * time.Second
)

// settled waits until a gateway's sandboxes, at least n, are all running, do not
// change and do nothing. It returns since when.
func (e *engine) settled(ctx context.Context, gateway string, n int) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	tick := time.NewTicker(looked)
	defer tick.Stop()
	var before []string
	var used time.Duration
	since := time.Now()
	for {
		found, running, err := e.sandboxes(ctx, gateway)
		if err != nil {
			return since, fmt.Errorf("wait for %d parked sandboxes: %w", n, err)
		}
		now, err := cpu(found)
		if err != nil || !running || len(found) < n || !slices.Equal(found, before) || now-used > idle {
			since = time.Now()
		}
		if before, used = found, now; time.Since(since) > unchanged {
			return since, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return since, fmt.Errorf("wait for %d parked sandboxes, there are %d: %w", n, len(found), errors.Join(ctx.Err(), err))
		}
	}
}

// sandboxes are the containers of a gateway, sorted, and whether all are running.
func (e *engine) sandboxes(ctx context.Context, gateway string) (ids []string, running bool, err error) {
	filters, err := json.Marshal(map[string][]string{"label": {"execgate.gateway=" + gateway}})
	if err != nil {
		return nil, false, err
	}
	query := url.Values{"all": {"1"}, "filters": {string(filters)}}
	var found []struct{ ID, State string }
	if err := e.call(ctx, http.MethodGet, "/containers/json?"+query.Encode(), nil, &found); err != nil {
		return nil, false, err
	}
	running = true
	for _, container := range found {
		ids = append(ids, container.ID)
		running = running && container.State == "running"
	}
	slices.Sort(ids)
	return ids, running, nil
}

// cpuFiles are where the kernel counts the processor time of a container, for
// cgroup v1 and v2 and the engine's two cgroup drivers. (The engine's own counters
// take a second to ask for.)
var cpuFiles = []string{
	"/sys/fs/cgroup/cpuacct/docker/%s/cpuacct.usage", "/sys/fs/cgroup/cpuacct/system.slice/docker-%s.scope/cpuacct.usage",
	"/sys/fs/cgroup/docker/%s/cpu.stat", "/sys/fs/cgroup/system.slice/docker-%s.scope/cpu.stat",
}

// errGone is that a container has no counter, most likely because it has gone.
var errGone = errors.New("no processor time of a container under /sys/fs/cgroup")

// cpu is what the containers have used of the processors.
func cpu(ids []string) (time.Duration, error) {
	var sum time.Duration
	for _, id := range ids {
		used, err := cpuOf(id)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func cpuOf(id string) (time.Duration, error) {
	for _, file := range cpuFiles {
		if text, err := os.ReadFile(fmt.Sprintf(file, id)); err == nil {
			return parseCPU(string(text))
		}
	}
	return 0, errGone
}

// parseCPU reads nanoseconds, or a line of microseconds.
func parseCPU(text string) (time.Duration, error) {
	text, unit := strings.TrimSpace(text), time.Nanosecond
	if rest, ok := strings.CutPrefix(text, "usage_usec "); ok {
		text, _, _ = strings.Cut(rest, "\n")
		unit = time.Microsecond
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return time.Duration(n) * unit, err
}
