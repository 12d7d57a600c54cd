package executor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// exposed lays out the credentials that a program itself is given: its variables
// and files. No error holds a value.
func exposed(list []execution.Exposed) (variables map[string]string, files []wire.SecretFile, err error) {
	variables = map[string]string{}
	for _, x := range list {
		if err := x.Credential.Validate(); err != nil {
			return nil, nil, fmt.Errorf("credential of tool %q: %w", x.Credential.Tool, err)
		}
		switch x.Credential.Inject {
		case execution.InjectEnv:
			err = addVariables(variables, x)
		case execution.InjectFile:
			var file wire.SecretFile
			if file, err = secretFile(x); err == nil && slices.ContainsFunc(files, func(other wire.SecretFile) bool { return other.Path == file.Path }) {
				err = fmt.Errorf("two credentials have the file %q", file.Path)
			}
			files = append(files, file)
		default:
			err = fmt.Errorf("it is not for a program, but for %s", x.Credential.Inject)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("credential of tool %q: %w", x.Credential.Tool, err)
		}
	}
	return variables, files, nil
}

// addVariables adds one variable for each field. A value that ends in the middle
// is refused: a driver that gets variables one by one takes what follows for
// another.
func addVariables(variables map[string]string, x execution.Exposed) error {
	for _, field := range slices.Sorted(maps.Keys(x.Fields)) {
		name := x.Credential.VariableOf(field)
		if _, is := variables[name]; is {
			return fmt.Errorf("two fields have the variable %s", name)
		}
		value := x.Fields[field].Reveal()
		if strings.Contains(value, "\x00") {
			return fmt.Errorf("the field %q has a NUL, which no variable can hold", field)
		}
		variables[name] = value
	}
	return nil
}

// secretFile is a file with all fields: an object of strings as JSON, by name.
func secretFile(x execution.Exposed) (wire.SecretFile, error) {
	name := x.Credential.FilePath
	fields := map[string]string{}
	for field, value := range x.Fields {
		fields[field] = value.Reveal()
	}
	var content bytes.Buffer
	encoder := json.NewEncoder(&content)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(fields); err != nil {
		return wire.SecretFile{}, fmt.Errorf("encode the file %q: %w", name, err)
	}
	return wire.SecretFile{Path: name, Content: content.String()}, nil
}

// checkExposed refuses credentials that cannot be given to a program.
func checkExposed(list []execution.Exposed) error {
	_, _, err := exposed(list)
	return err
}
