package main

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// body is the request in the words of the API.
func (p *program) body(cmd *cobra.Command, given []string) (map[string]any, error) {
	body := map[string]any{}
	set := func(key, value string) {
		if value != "" {
			body[key] = value
		}
	}
	set("image", p.image)
	set("runtime", p.runtime)
	set("session", p.session)
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		if dash > 0 || len(given) == 0 {
			return nil, usage("a command stands alone after --; see `execgate run --help`")
		}
		body["command"] = given
		set("language", p.language)
	} else {
		code, err := readCode(cmd, given)
		if err != nil {
			return nil, err
		}
		body["code"] = code
		set("language", p.language)
		if p.language == "" && p.session == "" {
			body["language"] = "python"
		}
	}
	for key, list := range map[string][]string{"network": p.network, "tools": p.tools} {
		if len(list) > 0 {
			body[key] = list
		}
	}
	return body, p.values(cmd, body)
}

// values adds what has a form of its own.
func (p *program) values(cmd *cobra.Command, body map[string]any) error {
	if cmd.Flags().Changed("input") {
		text := []byte(p.input)
		if name, ok := strings.CutPrefix(p.input, "@"); ok {
			var err error
			if text, err = os.ReadFile(name); err != nil {
				return usage("--input: %w", err)
			}
		}
		if !json.Valid(text) {
			return usage("--input is not JSON: quote it for the shell, or name a file by @FILE")
		}
		body["input"] = json.RawMessage(text)
	}
	if p.stdin != "" {
		text, err := os.ReadFile(p.stdin)
		if err != nil {
			return usage("--stdin: %w", err)
		}
		// JSON would carry U+FFFD in place of what is not.
		if !utf8.Valid(text) {
			return usage("--stdin %s is not UTF-8 text: hand it over by --file, which takes any bytes", p.stdin)
		}
		body["stdin"] = string(text)
	}
	for key, list := range map[string][]string{"env": p.env, "metadata": p.metadata} {
		pairs, err := pairs(key, list)
		if err != nil {
			return err
		}
		if len(pairs) > 0 {
			body[key] = pairs
		}
	}
	limits, err := pairs("limit", p.limits)
	if err != nil {
		return err
	}
	if len(limits) > 0 {
		numbers := map[string]int64{}
		for name, value := range limits {
			if numbers[name], err = strconv.ParseInt(value, 10, 64); err != nil {
				return usage("--limit %s=%s: the value must be a whole number", name, value)
			}
		}
		body["limits"] = numbers
	}
	files, err := readFiles(p.files)
	if len(files) > 0 {
		body["files"] = files
	}
	return err
}

// readCode reads the program from the one file in given, or standard input.
func readCode(cmd *cobra.Command, given []string) (string, error) {
	if len(given) > 1 {
		return "", usage("one FILE at most; a command stands after --; see `execgate run --help`")
	}
	var code []byte
	var err error
	if len(given) == 0 && isTerminal(cmd.InOrStdin()) {
		return "", usage("name a FILE, or pipe the code in; see `execgate run --help`")
	}
	if len(given) == 0 || given[0] == "-" {
		code, err = io.ReadAll(cmd.InOrStdin())
	} else {
		code, err = os.ReadFile(given[0])
	}
	if err != nil {
		return "", usage("read the code: %w", err)
	}
	if !utf8.Valid(code) {
		return "", usage("the code is not UTF-8 text")
	}
	return string(code), nil
}

// isTerminal reports whether somebody would have to type what is read, and
// probably does not know it.
func isTerminal(r io.Reader) bool {
	file, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// pairs reads the values of a flag that is given as name=value, each name once.
func pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usage("--%s %s: it must be name=value", flag, text)
		}
		if _, ok := out[name]; ok {
			return nil, usage("--%s %s stands twice", flag, name)
		}
		if !utf8.ValidString(text) {
			return nil, usage("--%s %s: it must be UTF-8 text", flag, name)
		}
		out[name] = value
	}
	return out, nil
}

// readFiles reads the files of --file as the API takes them.
func readFiles(list []string) ([]map[string]string, error) {
	var out []map[string]string
	for _, text := range list {
		name, path, ok := strings.Cut(text, "=")
		if !ok {
			name, path = filepath.Base(text), text
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, usage("--file: %w", err)
		}
		out = append(out, map[string]string{"path": name, "content": base64.StdEncoding.EncodeToString(content), "encoding": "base64"})
	}
	return out, nil
}
