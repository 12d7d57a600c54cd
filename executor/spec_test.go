package executor

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sample is a grant and an image that use everything a specification has.
func sample() spec {
	return spec{
		Gateway: "gw_1", Execution: "ex_1", Deadline: time.UnixMilli(1_700_000_000_000), UID: 210_007, Profile: sealed,
		Grant: execution.Grant{
			Image: "sha256:" + strings.Repeat("a", 64), Runtime: "runc",
			Limits: execution.Limits{
				TimeoutMS: 30_000, MemoryMiB: 128, CPUMillis: 250, CPUShares: 256, PIDs: 50, NoFile: 256,
				TmpMiB: 10, WorkspaceMiB: 16, ShmMiB: 8, OutputKiB: 1024, ResultKiB: 256, FilesMiB: 8, FilesCount: 16,
			},
		},
		Image: imageFacts{
			ID: "sha256:" + strings.Repeat("b", 64), Env: []string{"PATH", "GODEBUG", "LD_PRELOAD"},
			Volumes: []string{"/data", "/var/lib/x/", "/tmp"}, Labels: []string{"maintainer", labelGateway},
		},
		Engine: engineFacts{AgentVolume: "execgate-agent-0123456789abcdef", Seccomp: `{"profile":"here"}`},
	}
}

// Invariant 3, in part: what is created is what was granted. Review the golden
// file: it is everything that a sandbox is.
func TestSpecIsGolden(t *testing.T) {
	for _, p := range []profile{sealed, reusable} {
		t.Run(string(p), func(t *testing.T) { specIsGolden(t, p) })
	}
}

func specIsGolden(t *testing.T, p profile) {
	golden := "testdata/spec-" + string(p) + ".golden.json"
	s := sample()
	s.Profile = p
	built, err := s.build()
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(built, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the specification differs from %s (-want +got; -update rewrites it):\n%s", golden, diff)
	}
	again, err := s.build()
	if err != nil || cmp.Diff(built, again) != "" {
		t.Errorf("the same grant gives another specification (%v)", err)
	}
}

// No grant is carried out other than literally.
func TestGrantRefused(t *testing.T) {
	cases := map[string]func(*execution.Grant){
		"without an image":   func(g *execution.Grant) { g.Image = "" },
		"without a runtime":  func(g *execution.Grant) { g.Runtime = "" },
		"mounts over memory": func(g *execution.Grant) { g.Limits.TmpMiB = 73 },
		"a mount of the whole address space": func(g *execution.Grant) {
			g.Limits.MemoryMiB, g.Limits.WorkspaceMiB = 1<<20, 1<<20
		},
	}
	for _, d := range execution.AllLimits() {
		cases["without "+d.Name] = func(g *execution.Grant) { *d.Of(&g.Limits) = 0 }
		cases["with a negative "+d.Name] = func(g *execution.Grant) { *d.Of(&g.Limits) = -1 }
		cases["with too large a "+d.Name] = func(g *execution.Grant) { *d.Of(&g.Limits) = d.Max + 1 }
	}
	for name, change := range cases {
		s := sample()
		change(&s.Grant)
		if built, err := s.build(); err == nil {
			t.Errorf("a grant %s builds %+v", name, built)
		}
	}
	edge := sample()
	edge.Grant.Limits.TmpMiB = 72 // 96 of 128 together: three quarters
	if _, err := edge.build(); err != nil {
		t.Errorf("three quarters of memory: %v", err)
	}
	if _, err := (spec{}).build(); err == nil {
		t.Error("the zero spec builds")
	}
}

func TestVolumeMasks(t *testing.T) {
	masks, err := volumeMasks([]string{"/data", "/a/../b", "/c/"})
	if err != nil || len(masks) != 3 || masks["/data"] == "" || masks["/b"] == "" || masks["/c"] == "" {
		t.Errorf("%v, %v", masks, err)
	}
	for _, options := range masks {
		if !strings.HasPrefix(options, "ro,") {
			t.Errorf("a mask with %q", options)
		}
	}
	for _, bad := range []string{"", "/", "relative", "//", "/..", "/proc", "/proc/x", "/sys/fs", "/dev", "/dev/shm", "/execgate", "/execgate/agent", "/a,b", "/a:rw", "/x/../proc"} {
		if masks, err := volumeMasks([]string{bad}); err == nil {
			t.Errorf("volume %q is masked by %v", bad, masks)
		}
	}
	if _, err := volumeMasks(make([]string, maxVolumes+1)); err == nil {
		t.Error("more volumes than may be")
	}
}

// The profile names one architecture and keeps the rules as they are.
func TestSeccompProfile(t *testing.T) {
	for engine, want := range map[string]string{"x86_64": "SCMP_ARCH_X86_64", "amd64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "arm64": "SCMP_ARCH_AARCH64"} {
		text, err := seccompProfile(engine)
		if err != nil {
			t.Fatal(err)
		}
		var profile struct {
			DefaultAction string
			Architectures []string
			ArchMap       []any
			Syscalls      []any
		}
		if err := json.Unmarshal([]byte(text), &profile); err != nil {
			t.Fatal(err)
		}
		if profile.DefaultAction != "SCMP_ACT_ERRNO" || cmp.Diff(profile.Architectures, []string{want}) != "" || profile.ArchMap != nil || len(profile.Syscalls) == 0 {
			t.Errorf("%s: %.300s", engine, text)
		}
	}
	for _, other := range []string{"", "i686", "riscv64", "s390x"} {
		if _, err := seccompProfile(other); err == nil {
			t.Errorf("a profile for %q", other)
		}
	}
}
