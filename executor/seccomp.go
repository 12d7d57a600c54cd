package executor

import (
	_ "embed"
	"encoding/json"
	"fmt"
)

// seccompRules is the list of what a program may call; everything else fails
// with EPERM. It is ours and not the engine's default, which in many versions
// allows sockets of families that reach the host though the sandbox has no
// network (AF_VSOCK, AF_ALG), and ptrace, message queues and others that a
// program in a sandbox has no use for. docs/seccomp.md gives the reason for each.
//
//go:embed seccomp.json
var seccompRules []byte

// seccompArchitectures are libseccomp's names by the engine's. Only the native
// one is ever listed: filters on the arguments of 64-bit calls do not see the
// 32-bit socketcall, so 32-bit programs are ended by the kernel.
var seccompArchitectures = map[string]string{
	"x86_64": "SCMP_ARCH_X86_64", "amd64": "SCMP_ARCH_X86_64",
	"aarch64": "SCMP_ARCH_AARCH64", "arm64": "SCMP_ARCH_AARCH64",
}

// seccompProfile returns the profile for an engine's architecture.
func seccompProfile(architecture string) (string, error) {
	native, ok := seccompArchitectures[architecture]
	if !ok {
		return "", fmt.Errorf("the engine runs on %s; sandboxes are built for amd64 and arm64", architecture)
	}
	var profile map[string]any
	if err := json.Unmarshal(seccompRules, &profile); err != nil {
		return "", fmt.Errorf("read seccomp profile: %w", err)
	}
	profile["architectures"] = []string{native}
	text, err := json.Marshal(profile)
	if err != nil {
		return "", fmt.Errorf("write seccomp profile: %w", err)
	}
	return string(text), nil
}
