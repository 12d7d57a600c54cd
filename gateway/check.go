package gateway

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"
)

// checkText refuses NUL, at which half of all programs would stop reading.
func checkText(text, pointer string, f *faults) {
	if strings.Contains(text, "\x00") {
		f.add(pointer, "must not contain NUL")
	}
}

// checkName takes the names of languages, images, tools and runtimes: letters,
// digits, '.', '_', '-' and '+', beginning with a letter or a digit. An image's
// name is not a reference to a registry.
func checkName(name, pointer string, longest int, f *faults) {
	if !validName(name, longest, "._-+") {
		f.addf(pointer, "must be a name of 1 to %d letters, digits, '.', '_', '-' and '+', beginning with a letter or a digit", longest)
	}
}

func validName(name string, longest int, others string) bool {
	if name == "" || len(name) > longest || !isAlphanumeric(name[0]) {
		return false
	}
	for _, c := range []byte(name) {
		if !isAlphanumeric(c) && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}

func checkCommand(command []string, f *faults) {
	if len(command) == 0 || len(command) > maxArguments {
		f.addf("/command", "must have 1 to %d entries", maxArguments)
		return
	}
	if command[0] == "" {
		f.add("/command/0", "must not be empty")
	}
	for i, argument := range command {
		pointer := fmt.Sprintf("/command/%d", i)
		checkText(argument, pointer, f)
		if len(argument) >= maxStringLength {
			f.addf(pointer, "must be shorter than %d bytes", maxStringLength)
		}
	}
}

func checkEnv(env map[string]string, f *faults) {
	if len(env) > maxVariables {
		f.addf("/env", "must have at most %d entries", maxVariables)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		value := env[name]
		pointer := "/env" + pointerTo(name)
		if !validVariable(name) {
			f.addf(pointer, "must have a name of 1 to %d letters, digits and '_', not beginning with a digit", maxVariableName)
		}
		checkText(value, pointer, f)
		if len(name)+len("=")+len(value) >= maxStringLength {
			f.addf(pointer, "must be shorter than %d bytes with its name", maxStringLength)
		}
	}
}

func validVariable(name string) bool {
	if name == "" || len(name) > maxVariableName || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	for _, c := range []byte(name) {
		if !isAlphanumeric(c) && c != '_' {
			return false
		}
	}
	return true
}

func checkTools(tools []string, f *faults) {
	if len(tools) > maxTools {
		f.addf("/tools", "must have at most %d entries", maxTools)
		return
	}
	for i, tool := range tools {
		checkName(tool, fmt.Sprintf("/tools/%d", i), 64, f)
	}
}

// checkMetadata bounds what a caller says about itself: it stands in every record.
func checkMetadata(metadata map[string]string, f *faults) {
	if len(metadata) > maxMetadata {
		f.addf("/metadata", "must have at most %d entries", maxMetadata)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(metadata)) {
		value := metadata[name]
		pointer := "/metadata" + pointerTo(name)
		if !validName(name, maxMetadataName, "._-") {
			f.addf(pointer, "must have a name of 1 to %d letters, digits, '.', '_' and '-'", maxMetadataName)
		}
		checkText(value, pointer, f)
		if len(value) > maxMetadataValue {
			f.addf(pointer, "must have at most %d bytes", maxMetadataValue)
		}
	}
}

// The bounds of a file's path: NAME_MAX, and a quarter of PATH_MAX, of Linux.
const (
	maxPathComponent = 255
	maxPath          = 1024
)

// checkPath says what is wrong with a path under /workspace. There must be one
// spelling of every file, and nothing that climbs, also where something else
// than Linux reads it.
func checkPath(p string) string {
	switch {
	case p == "":
		return "must not be empty"
	case len(p) > maxPath:
		return fmt.Sprintf("must have at most %d bytes", maxPath)
	case strings.ContainsFunc(p, unicode.IsControl):
		return "must not contain control characters"
	case strings.Contains(p, `\`):
		return "must not contain a backslash"
	case p[0] == '/':
		return "must be relative to /workspace"
	case p == "." || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../"):
		return "must be clean: no '.', '..' or empty part, no '/' at the end"
	case p == "out":
		return "is the folder for artifacts"
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > maxPathComponent {
			return fmt.Sprintf("must not have a part of more than %d bytes", maxPathComponent)
		}
	}
	return ""
}

// fileTree is the files of a request by path; folders on the way to them are
// false.
type fileTree map[string]bool

// add adds the file at p, a clean path, or says why it cannot stand beside the
// others.
func (t fileTree) add(p string) string {
	if isFile, ok := t[p]; ok {
		if isFile {
			return "stands twice"
		}
		return "is also the folder of another file"
	}
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if t[dir] {
			return "lies in a folder that is also a file"
		}
		t[dir] = false
	}
	t[p] = true
	return ""
}
