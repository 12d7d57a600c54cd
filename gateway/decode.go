package gateway

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/execgate/execgate/execution"
)

// The bounds of a request, beside the size of the whole. What a caller may have
// is for policy to say; these catch what no program could use.
const (
	maxInputDepth    = 100
	maxFiles         = 1000
	maxArguments     = 256
	maxVariables     = 256
	maxVariableName  = 128
	maxStringLength  = 128 << 10 // of an argument, or a variable with its name: MAX_ARG_STRLEN, execve(2)
	maxDestinations  = 64
	maxTools         = 64
	maxMetadata      = 32
	maxMetadataName  = 64
	maxMetadataValue = 512
)

// fileDocument is one of `files` in the body.
type fileDocument struct {
	Path     *string `json:"path"`
	Content  *string `json:"content"`
	Encoding *string `json:"encoding"`
}

// decodeRequest reads the body of POST /v1/executions. What it returns is well
// formed and says one thing only; it is still untrusted. Its error is of
// KindInvalid and names as many wrong fields as it found, or of KindTooLarge
// where the code is longer than maxCode bytes.
func decodeRequest(body []byte, maxCode int) (execution.Request, error) {
	f := &faults{}
	m := splitObject(body, "", f)
	if m == nil {
		return execution.Request{}, f.err()
	}
	var r execution.Request
	var hasLanguage, hasCode, hasImage, hasCommand bool
	r.Language, hasLanguage = takeName(m, "language", 32, f)
	if r.Code, hasCode = take[string](m, "", "code", f); hasCode {
		checkText(r.Code, "/code", f)
	}
	r.Image, hasImage = takeName(m, "image", 64, f)
	if r.Command, hasCommand = take[[]string](m, "", "command", f); hasCommand {
		checkCommand(r.Command, f)
	}
	if _, inSession := m["session"]; inSession {
		checkProgramInSession(hasCode, hasCommand, f)
	} else {
		checkProgram(hasLanguage, hasCode, hasImage, hasCommand, f)
	}

	if raw, ok := m["input"]; ok { // any JSON, so also null
		delete(m, "input")
		if depth(raw) > maxInputDepth {
			f.addf("/input", "must not be nested deeper than %d", maxInputDepth)
		}
		r.Input = json.RawMessage(raw)
	}
	r.Stdin, _ = take[string](m, "", "stdin", f)
	checkText(r.Stdin, "/stdin", f)
	files, _ := take[[]fileDocument](m, "", "files", f)
	r.Files = decodeFiles(files, f)
	r.Env, _ = take[map[string]string](m, "", "env", f)
	checkEnv(r.Env, f)
	if raw, ok := m["limits"]; ok {
		delete(m, "limits")
		r.Limits = decodeLimits(raw, f)
	}
	network, _ := take[[]string](m, "", "network", f)
	r.Network = decodeNetwork(network, f)
	r.Tools, _ = take[[]string](m, "", "tools", f)
	checkTools(r.Tools, f)
	r.Runtime, _ = takeName(m, "runtime", 64, f)
	r.Session = takeSession(m, f)
	r.Metadata, _ = take[map[string]string](m, "", "metadata", f)
	checkMetadata(r.Metadata, f)
	m.rest("", f)

	if err := f.err(); err != nil {
		return execution.Request{}, err
	}
	if len(r.Code) > maxCode {
		return execution.Request{}, &execution.Error{
			Kind: execution.KindTooLarge, Detail: fmt.Sprintf("code may have at most %d bytes", maxCode),
			Fields: []execution.FieldError{{Pointer: "/code", Detail: fmt.Sprintf("must have at most %d bytes", maxCode)}},
		}
	}
	return r, nil
}

// takeName reads the member called name, which is a name itself. What is not even
// a string is reported once, as that.
func takeName(m members, name string, longest int, f *faults) (value string, present bool) {
	before := len(f.fields)
	value, present = take[string](m, "", name, f)
	if present && len(f.fields) == before {
		checkName(value, pointerTo(name), longest, f)
	}
	return value, present
}

func takeSession(m members, f *faults) string {
	before := len(f.fields)
	id, present := take[string](m, "", "session", f)
	if present && len(f.fields) == before && !execution.ValidID(execution.PrefixSession, id) {
		f.add("/session", "must be the id of a session")
	}
	return id
}

// checkProgram holds the rule of what runs: a language with its code, in the
// language's image or a named one, or else a command in a named image.
func checkProgram(language, code, image, command bool, f *faults) {
	switch {
	case language && command:
		f.add("/command", "cannot stand beside language; send language and code, or image and command")
	case language && !code:
		f.add("/code", "is required with language")
	case code && !language:
		f.add("/language", "is required with code")
	case command && !image:
		f.add("/image", "is required with command")
	case image && !language && !command:
		f.add("/command", "is required with an image that has no language beside it")
	case !language && !image:
		f.add("", "send language and code, or image and command")
	}
}

// checkProgramInSession is checkProgram where the session has the language and the
// image; whether they fit is seen when the session is.
func checkProgramInSession(code, command bool, f *faults) {
	switch {
	case code && command:
		f.add("/command", "cannot stand beside code")
	case !code && !command:
		f.add("", "send code, or in a session without a language command")
	}
}

// decodeLimits reads the limits that were asked for, each by its description, so
// that the message can name its range.
func decodeLimits(raw []byte, f *faults) (l execution.Limits) {
	m := splitObject(raw, "/limits", f)
	for _, limit := range execution.AllLimits() {
		before := len(f.fields)
		value, present := take[int64](m, "/limits", limit.Name, f)
		if !present || len(f.fields) > before {
			continue
		}
		if value < limit.Min || value > limit.Max {
			f.addf("/limits/"+limit.Name, "must be from %d to %d", limit.Min, limit.Max)
			continue
		}
		*limit.Of(&l) = value
	}
	m.rest("/limits", f)
	return l
}

func decodeFiles(documents []fileDocument, f *faults) []execution.File {
	if len(documents) > maxFiles {
		f.addf("/files", "must have at most %d entries", maxFiles)
		return nil
	}
	var files []execution.File
	tree := fileTree{}
	for i, d := range documents {
		at := fmt.Sprintf("/files/%d", i)
		if d.Path == nil {
			f.add(at+"/path", "is required")
		} else if wrong := checkPath(*d.Path); wrong != "" {
			f.add(at+"/path", wrong)
		} else if wrong := tree.add(*d.Path); wrong != "" {
			f.add(at+"/path", wrong)
		}
		if d.Content == nil {
			f.add(at+"/content", "is required; it may be empty")
		}
		content, wrong := decodeContent(d)
		if wrong.Pointer != "" {
			f.add(at+wrong.Pointer, wrong.Detail)
		}
		if d.Path != nil && wrong.Pointer == "" {
			files = append(files, execution.File{Path: *d.Path, Content: content})
		}
	}
	return files
}

// decodeContent decodes the content of a file. In utf-8 it may hold NUL: a file
// is bytes.
func decodeContent(d fileDocument) ([]byte, execution.FieldError) {
	if d.Content == nil {
		return nil, execution.FieldError{}
	}
	if d.Encoding == nil || *d.Encoding == "utf-8" {
		return []byte(*d.Content), execution.FieldError{}
	}
	if *d.Encoding != "base64" {
		return nil, execution.FieldError{Pointer: "/encoding", Detail: "must be utf-8 or base64"}
	}
	content, err := base64.StdEncoding.Strict().DecodeString(*d.Content)
	if err != nil || strings.ContainsAny(*d.Content, "\r\n") { // which the decoder skips
		return nil, execution.FieldError{Pointer: "/content", Detail: "must be base64 of the standard alphabet, padded, without line breaks"}
	}
	return content, execution.FieldError{}
}

func decodeNetwork(entries []string, f *faults) []execution.Destination {
	if len(entries) > maxDestinations {
		f.addf("/network", "must have at most %d entries", maxDestinations)
		return nil
	}
	var destinations []execution.Destination
	for i, entry := range entries {
		d, wrong := parseDestination(entry)
		if wrong != "" {
			f.add(fmt.Sprintf("/network/%d", i), wrong)
			continue
		}
		destinations = append(destinations, d)
	}
	return destinations
}
