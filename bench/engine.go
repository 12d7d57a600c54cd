package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

const (
	image = "execgate/sandbox:latest"
	user  = "210000:210000"
)

// engine speaks the Docker Engine API without a library, so that nothing but
// the engine is measured.
type engine struct {
	socket string
	client *http.Client
	create []byte // body of a creation
}

func newEngine() (*engine, error) {
	e := &engine{socket: "/var/run/docker.sock"}
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		var ok bool
		if e.socket, ok = strings.CutPrefix(host, "unix://"); !ok {
			return nil, fmt.Errorf("DOCKER_HOST is %s: the benchmark needs a unix socket", host)
		}
	}
	e.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * most, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return e.dial(ctx)
	}}}
	seccomp, err := os.ReadFile("executor/seccomp.json")
	if err != nil {
		return nil, fmt.Errorf("run it from the root of the repository: %w", err)
	}
	var profile bytes.Buffer
	if err := json.Compact(&profile, seccomp); err != nil {
		return nil, err
	}
	e.create, err = json.Marshal(map[string]any{
		"Image": image, "User": user, "Entrypoint": []string{"/usr/bin/python3", "-I", "-c", code}, "Cmd": []string{},
		"AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "OpenStdin": true, "StdinOnce": true,
		"Healthcheck": map[string]any{"Test": []string{"NONE"}},
		"HostConfig": map[string]any{
			"NetworkMode": "none", "ReadonlyRootfs": true, "CapDrop": []string{"ALL"}, "IpcMode": "none",
			"CgroupnsMode": "private", "SecurityOpt": []string{"no-new-privileges", "seccomp=" + profile.String()},
			"Memory": 256 << 20, "MemorySwap": 256 << 20, "CpuPeriod": 100_000, "CpuQuota": 50_000, "CpuShares": 256,
			"PidsLimit": 74, "OomScoreAdj": 500, "LogConfig": map[string]any{"Type": "none"},
			"Tmpfs": map[string]string{
				"/tmp":       "rw,nosuid,nodev,size=16777216,nr_inodes=3072,mode=1777",
				"/dev/shm":   "rw,nosuid,nodev,size=8388608,nr_inodes=2048,noexec,mode=1777",
				"/workspace": "rw,nosuid,nodev,size=33554432,nr_inodes=5120,mode=0755",
			},
			"Ulimits": []map[string]any{
				{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nofile", "Soft": 256, "Hard": 256},
				{"Name": "fsize", "Soft": 33554432, "Hard": 33554432},
			},
		},
	})
	return e, err
}

func (e *engine) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
}

// run is the engine's own way: create, attach, start, wait, remove.
func (e *engine) run(ctx context.Context, _ int) (answer, error) {
	var created struct{ ID string }
	if err := e.call(ctx, http.MethodPost, "/containers/create", e.create, &created); err != nil {
		return answer{}, err
	}
	attached, err := e.attach(ctx, created.ID)
	if err != nil {
		return answer{}, err
	}
	defer attached.Close()
	if err := e.call(ctx, http.MethodPost, "/containers/"+created.ID+"/start", nil, nil); err != nil {
		return answer{}, err
	}
	stdout, err := demultiplex(attached)
	if err != nil {
		return answer{}, err
	}
	if err := e.call(ctx, http.MethodPost, "/containers/"+created.ID+"/wait", nil, nil); err != nil {
		return answer{}, err
	}
	return answer{stdout: stdout}, e.call(ctx, http.MethodDelete, "/containers/"+created.ID+"?force=1&v=1", nil, nil)
}

// facts are what the numbers depend on.
func (e *engine) facts(ctx context.Context) (machine, error) {
	var info struct {
		NCPU                                                                         int
		KernelVersion, OperatingSystem, ServerVersion, CgroupVersion, DefaultRuntime string
	}
	if err := e.call(ctx, http.MethodGet, "/info", nil, &info); err != nil {
		return machine{}, err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return machine{}, err
	}
	return machine{
		Cores: info.NCPU, Kernel: info.KernelVersion, System: info.OperatingSystem, Engine: info.ServerVersion,
		Cgroup: info.CgroupVersion, Runtime: info.DefaultRuntime, Load: strings.TrimSpace(string(load)), Pool: pool,
	}, nil
}

// call makes one request of the API.
func (e *engine) call(ctx context.Context, method, path string, body []byte, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://engine/v1.41"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// attach takes over a connection as the container's streams.
func (e *engine) attach(ctx context.Context, id string) (io.ReadCloser, error) {
	conn, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	query := url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}, "stdin": {"1"}}
	fmt.Fprintf(conn, "POST /v1.41/containers/%s/attach?%s HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n", id, query.Encode())
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		conn.Close()
		return nil, fmt.Errorf("attach: %s", resp.Status)
	}
	return struct {
		io.Reader
		io.Closer
	}{reader, conn}, nil
}

// demultiplex reads the engine's frames (stream, three zeros, length, content)
// and returns those of standard output.
func demultiplex(r io.Reader) (string, error) {
	var stdout strings.Builder
	var header [8]byte
	for {
		if _, err := io.ReadFull(r, header[:]); err == io.EOF {
			return stdout.String(), nil
		} else if err != nil {
			return "", err
		}
		to := io.Discard
		if header[0] == 1 {
			to = io.Writer(&stdout)
		}
		if _, err := io.CopyN(to, r, int64(binary.BigEndian.Uint32(header[4:]))); err != nil {
			return "", err
		}
	}
}

// dockerRun is what a person would type, with the same hardening.
func (e *engine) dockerRun(ctx context.Context, _ int) (answer, error) {
	cmd := exec.CommandContext(ctx, "docker", "run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL",
		"--security-opt=no-new-privileges", "--security-opt=seccomp=executor/seccomp.json", "--ipc=none", "--cgroupns=private",
		"--user="+user, "--memory=256m", "--memory-swap=256m", "--cpu-period=100000", "--cpu-quota=50000", "--cpu-shares=256",
		"--pids-limit="+strconv.Itoa(74), "--oom-score-adj=500", "--log-driver=none",
		"--tmpfs=/tmp:size=16m,nr_inodes=3072", "--tmpfs=/dev/shm:size=8m,nr_inodes=2048", "--tmpfs=/workspace:size=32m,nr_inodes=5120",
		"--ulimit=core=0", "--ulimit=nofile=256", "--ulimit=fsize=33554432",
		"--entrypoint=/usr/bin/python3", image, "-I", "-c", code)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		return answer{}, fmt.Errorf("%w: %s", err, stderr.String())
	}
	return answer{stdout: string(stdout)}, nil
}
