package executor

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/execgate/execgate/executor/wire"
)

// elfMachines are the machines of ELF by the engine's names of architectures.
var elfMachines = map[string]elf.Machine{
	"x86_64": elf.EM_X86_64, "amd64": elf.EM_X86_64,
	"aarch64": elf.EM_AARCH64, "arm64": elf.EM_AARCH64,
}

// noGateway is an id that no gateway may have: earlier versions' containers that
// were made only to reach a volume carry it.
const noGateway = "none"

// provideAgent makes sure that the engine has a volume with this agent binary,
// and returns its name. The name holds the binary's digest, so gateways of
// different versions do not meet, and the content is read back and compared. The
// container that it takes carries labels.
func provideAgent(ctx context.Context, cli *client.Client, file, architecture string, images map[string]imageState, labels map[string]string) (string, error) {
	binary, err := readAgent(file, architecture)
	if err != nil {
		return "", err
	}
	if len(images) == 0 {
		return "", errors.New("the engine has none of the configured images: build them with `make setup`")
	}
	name := fmt.Sprintf("execgate-agent-%x", sha256.Sum256(binary))[:len("execgate-agent-")+16]
	if _, err := cli.VolumeCreate(ctx, volume.CreateOptions{Name: name}); err != nil {
		return "", fmt.Errorf("make the agent's volume: %w", err)
	}
	// A container that is never started is the engine's way of reaching into a
	// volume, wherever the engine is.
	var image string
	for _, state := range images {
		image = state.facts.ID
	}
	helper, err := cli.ContainerCreate(ctx,
		&container.Config{Image: image, Entrypoint: []string{wire.AgentPath}, WorkingDir: "/", NetworkDisabled: true, Labels: labels},
		&container.HostConfig{NetworkMode: "none", Mounts: []mount.Mount{{
			Type: mount.TypeVolume, Source: name, Target: wire.AgentFolder,
			VolumeOptions: &mount.VolumeOptions{NoCopy: true},
		}}}, nil, nil, "")
	if err != nil {
		return "", fmt.Errorf("reach the agent's volume: %w", err)
	}
	defer removeContainer(ctx, cli, helper.ID)

	same, err := holds(ctx, cli, helper.ID, binary)
	if err != nil || same {
		return name, err
	}
	if err := cli.CopyToContainer(ctx, helper.ID, wire.AgentFolder, archive(binary), container.CopyToContainerOptions{}); err != nil {
		return "", fmt.Errorf("write the agent's volume: %w", err)
	}
	if same, err = holds(ctx, cli, helper.ID, binary); err != nil || !same {
		return "", errors.Join(fmt.Errorf("the agent's volume %s does not hold what was written", name), err)
	}
	return name, nil
}

// readAgent reads the agent binary and checks that the engine can run it.
func readAgent(file, architecture string) ([]byte, error) {
	binary, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the agent (build it with `make build`, or name it by --agent): %w", err)
	}
	parsed, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return nil, fmt.Errorf("agent %s: %w", file, err)
	}
	if want := elfMachines[architecture]; parsed.Machine != want {
		return nil, fmt.Errorf("agent %s is for %s and the engine runs on %s: build it for the engine", file, parsed.Machine, architecture)
	}
	for _, segment := range parsed.Progs {
		if segment.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("agent %s is not static: build it with CGO_ENABLED=0", file)
		}
	}
	return binary, nil
}

func archive(binary []byte) io.Reader {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	// Writes to a buffer do not fail.
	w.WriteHeader(&tar.Header{Name: path.Base(wire.AgentPath), Mode: 0o555, Size: int64(len(binary)), Typeflag: tar.TypeReg})
	w.Write(binary)
	w.Close()
	return &out
}

// holds reports whether the volume holds exactly this binary.
func holds(ctx context.Context, cli *client.Client, id string, binary []byte) (bool, error) {
	content, _, err := cli.CopyFromContainer(ctx, id, wire.AgentPath)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the agent's volume: %w", err)
	}
	defer content.Close()
	r := tar.NewReader(content)
	header, err := r.Next()
	if err != nil {
		return false, fmt.Errorf("read the agent's volume: %w", err)
	}
	if header.Size != int64(len(binary)) || header.FileInfo().Mode().Perm() != 0o555 {
		return false, nil
	}
	found, err := io.ReadAll(io.LimitReader(r, int64(len(binary))))
	if err != nil {
		return false, fmt.Errorf("read the agent's volume: %w", err)
	}
	return bytes.Equal(found, binary), nil
}
