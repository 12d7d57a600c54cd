// Runsc adds the runtime "runsc" to an engine's configuration: it reads a
// daemon.json from standard input, where nothing stands for a file that is not
// there, and writes it with the runtime to standard output. Its only argument
// is the path of the binary. What else the file says stays as it is.
//
// The module around it pins gVisor: scripts/setup --gvisor builds the tool of
// its go.mod.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxConfig bounds what is read, in bytes.
const maxConfig = 1 << 20

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "runsc:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 || !filepath.IsAbs(args[0]) {
		return errors.New("give the path of the binary, from the root")
	}
	config, err := io.ReadAll(io.LimitReader(in, maxConfig))
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	merged, err := register(config, args[0])
	if err != nil {
		return err
	}
	_, err = out.Write(merged)
	return err
}

// engineRuntime is an entry of "runtimes".
type engineRuntime struct {
	Path string   `json:"path"`
	Args []string `json:"runtimeArgs"`
}

// register returns config with the runtime in it. The platform is systrap,
// which needs neither KVM nor ptrace of the host.
func register(config []byte, path string) ([]byte, error) {
	settings := map[string]json.RawMessage{}
	if err := decode(config, &settings); err != nil {
		return nil, fmt.Errorf("the engine's configuration is not a JSON object, so nothing was changed: %w", err)
	}
	runtimes := map[string]json.RawMessage{}
	if err := decode(settings["runtimes"], &runtimes); err != nil {
		return nil, fmt.Errorf("the runtimes in the engine's configuration are not a JSON object, so nothing was changed: %w", err)
	}
	var err error
	if runtimes["runsc"], err = json.Marshal(engineRuntime{path, []string{"--platform=systrap"}}); err != nil {
		return nil, err
	}
	if settings["runtimes"], err = json.Marshal(runtimes); err != nil {
		return nil, err
	}
	merged, err := json.MarshalIndent(settings, "", "  ")
	return append(merged, '\n'), err
}

// decode is json.Unmarshal of an object that may be absent.
func decode(text []byte, into *map[string]json.RawMessage) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return err
	}
	if *into == nil {
		return errors.New("it is null")
	}
	return nil
}
