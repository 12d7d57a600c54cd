// Package examples holds policies for kinds of work, each a few rules and its
// own data over the shipped policy.
package examples

import (
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/execgate/execgate/policies"
	"github.com/execgate/execgate/policy"
)

//go:embed policies
var folder embed.FS

// Policies are the names of the examples, sorted.
func Policies() []string {
	entries, err := folder.ReadDir("policies")
	if err != nil {
		panic(err) // it is part of the program
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// Policy is an example as a whole bundle: the shipped policy with the example's
// rules and tests, and its data in place of the shipped ones.
func Policy(name string) (policy.Files, error) {
	if !slices.Contains(Policies(), name) {
		return nil, fmt.Errorf("there is no example %q: there are %s", name, strings.Join(Policies(), ", "))
	}
	files, err := policy.ReadFiles(policies.Files)
	if err != nil {
		return nil, err
	}
	over, err := fs.Sub(folder, path.Join("policies", name))
	if err != nil {
		return nil, err
	}
	own, err := policy.ReadFiles(over)
	if err != nil {
		return nil, err
	}
	maps.Copy(files, own)
	return files, nil
}
