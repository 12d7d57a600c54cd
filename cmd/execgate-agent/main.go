//go:build linux

// Command execgate-agent is process 1 of every sandbox. See package
// executor/agent.
package main

import (
	"os"

	"github.com/execgate/execgate/executor/agent"
)

func main() { os.Exit(agent.Main(os.Args)) }
