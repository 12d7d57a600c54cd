package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// spent is processor time by who used it, in ms: "machine" is all of it, the
// time of anybody else's work included; "sandboxes" is what containers used.
// Shims and runc are in "machine" alone.
type spent map[string]float64

// tickMS is the unit of /proc/stat (USER_HZ, which is 100 on every architecture
// that Go has).
const tickMS = 10

// spentSoFar reads the counters; what a machine does not have is absent.
func spentSoFar() spent {
	s := spent{"bench": milliseconds(ownTime())}
	if text, err := os.ReadFile("/proc/stat"); err == nil {
		line, _, _ := strings.Cut(string(text), "\n")
		fields := strings.Fields(line)
		for i, field := range fields {
			// cpu user nice system idle iowait irq softirq steal guest...
			if i >= 1 && i <= 7 && i != 4 && i != 5 {
				n, _ := strconv.ParseFloat(field, 64)
				s["machine"] += n * tickMS
			}
		}
	}
	if text, err := os.ReadFile("/sys/fs/cgroup/cpuacct/docker/cpuacct.usage"); err == nil {
		if used, err := parseCPU(string(text)); err == nil {
			s["sandboxes"] = milliseconds(used)
		}
	}
	found, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range found {
		name, ms := processTime(file)
		switch name {
		case "execgate", "dockerd", "containerd":
			s[name] += ms
		}
	}
	return s
}

// processTime is a process's name and the time of its threads. One that has gone
// has none.
func processTime(file string) (name string, ms float64) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", 0
	}
	before, after, ok := strings.Cut(string(text), ") ")
	_, name, _ = strings.Cut(before, "(")
	fields := strings.Fields(after)
	if !ok || len(fields) < 13 {
		return name, 0
	}
	for _, field := range fields[11:13] { // utime, stime: proc_pid_stat(5)
		n, _ := strconv.ParseFloat(field, 64)
		ms += n * tickMS
	}
	return name, ms
}

// ownTime is what this process has used.
func ownTime() time.Duration {
	_, ms := processTime(fmt.Sprintf("/proc/%d/stat", os.Getpid()))
	return time.Duration(ms) * time.Millisecond
}

// perExecution is what n executions used since, each.
func (s spent) perExecution(since spent, n int) spent {
	each := spent{}
	for name, ms := range s {
		if n > 0 {
			each[name] = (ms - since[name]) / float64(n)
		}
	}
	return each
}
