package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

// program is what the flags of run say.
type program struct {
	language, image, runtime, input, stdin, outputFormat string

	limits, env, files, network, tools, metadata []string
	artifacts                                    string
	local                                        bool
	settings                                     settings
}

func newRun() *cobra.Command {
	var p program
	cmd := &cobra.Command{
		Use:   "run [FILE|-] | run --image NAME -- COMMAND [ARG...]",
		Short: "Run a program in a sandbox",
		Long: `Run the code in FILE, or on standard input, or a command in an image, as
POST /v1/executions does, and pass its output and exit code on. A result is
printed as JSON after the program's output.

The gateway is the one at EXECGATE_URL (default http://127.0.0.1:8080), asked
with the key in EXECGATE_API_KEY. With --local everything happens in this
process, for the operator of this machine.`,
		Example: `  execgate run hello.py
  echo 'result = sum(INPUT_DATA)' | execgate run --input '[1,2,3]'
  execgate run --limit memory_mib=128 --limit timeout_ms=5000 job.py
  execgate run --local --image python -- /usr/bin/python3 --version`,
		RunE: func(cmd *cobra.Command, given []string) error {
			body, err := p.body(cmd, given)
			if err != nil {
				return err
			}
			if p.outputFormat != "text" && p.outputFormat != "json" {
				return usage("--output is %q: it is one of text, json", p.outputFormat)
			}
			use := func(c *client) error { return p.send(cmd, c, body) }
			if p.local {
				cfg, err := p.settings.config(cmd)
				if err != nil {
					return err
				}
				if !cmd.Flags().Changed("config") && os.Getenv("EXECGATE_LOG_LEVEL") == "" {
					cfg.Log.Level = "error" // the program's own output is what is looked at
				}
				return withLocalGateway(cmd.Context(), cfg, cmd.ErrOrStderr(), use)
			}
			c, err := newClient()
			if err != nil {
				return err
			}
			return use(c)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&p.language, "language", "", "language of the code (default python, or none with a command)")
	flags.StringVar(&p.image, "image", "", "name of the image")
	flags.StringVar(&p.runtime, "runtime", "", "OCI runtime, such as runc")
	flags.StringVar(&p.input, "input", "", "JSON value that the program sees as INPUT_DATA; @FILE reads it from a file")
	flags.StringVar(&p.stdin, "stdin", "", "file that is the program's standard input")
	flags.StringArrayVar(&p.limits, "limit", nil, "a limit as name=value, such as memory_mib=256")
	flags.StringArrayVar(&p.env, "env", nil, "a variable as NAME=value")
	flags.StringArrayVar(&p.files, "file", nil, "a file for /workspace as PATH, or NAME=PATH")
	flags.StringArrayVar(&p.network, "network", nil, "a destination as host:port")
	flags.StringArrayVar(&p.tools, "tool", nil, "a tool to use")
	flags.StringArrayVar(&p.metadata, "metadata", nil, "a claim about the request as name=value")
	flags.StringVar(&p.artifacts, "artifacts", "", "folder that artifacts are written to")
	flags.StringVar(&p.outputFormat, "output", "text", "text, or json for the whole answer")
	flags.BoolVar(&p.local, "local", false, "do everything in this process, without a gateway")
	p.settings.register(cmd)
	return cmd
}

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
		body["language"] = p.language
		if p.language == "" {
			body["language"] = "python"
		}
	}
	for key, list := range map[string][]string{"network": p.network, "tools": p.tools} {
		if len(list) > 0 {
			body[key] = list
		}
	}
	return body, p.values(body)
}

// values adds what has a form of its own.
func (p *program) values(body map[string]any) error {
	if p.input != "" {
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

func readCode(cmd *cobra.Command, given []string) (string, error) {
	if len(given) > 1 {
		return "", usage("one FILE at most; a command stands after --; see `execgate run --help`")
	}
	var code []byte
	var err error
	if len(given) == 0 || given[0] == "-" {
		code, err = io.ReadAll(cmd.InOrStdin())
	} else {
		code, err = os.ReadFile(given[0])
	}
	if err != nil {
		return "", usage("read the code: %w", err)
	}
	return string(code), nil
}

func pairs(flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usage("--%s %s: it must be name=value", flag, text)
		}
		out[name] = value
	}
	return out, nil
}

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

// ran is what run reads of the answer.
type ran struct {
	ID          string               `json:"id"`
	Outcome     execution.Outcome    `json:"outcome"`
	ExitCode    *int                 `json:"exit_code"`
	Stdout      string               `json:"stdout"`
	Stderr      string               `json:"stderr"`
	Result      json.RawMessage      `json:"result"`
	ResultError string               `json:"result_error"`
	Artifacts   []execution.Artifact `json:"artifacts"`
}

// send makes the request and shows what came of it.
func (p *program) send(cmd *cobra.Command, c *client, body map[string]any) error {
	got, err := c.call(cmd.Context(), http.MethodPost, "/v1/executions", body)
	if err != nil {
		return err
	}
	if p.outputFormat == "json" {
		if err := got.print(cmd.OutOrStdout()); err != nil {
			return err
		}
		if got.status >= 300 {
			return exitCode(codeOfStatus(got.status))
		}
	}
	if err := got.err(); err != nil {
		return err
	}
	var r ran
	if err := json.Unmarshal(got.body, &r); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	if err := saveArtifacts(p.artifacts, r.Artifacts); err != nil {
		return err
	}
	if p.outputFormat == "text" {
		r.show(cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return r.exit()
}

// show prints what the program printed, and then its result.
func (r ran) show(stdout, stderr io.Writer) {
	io.WriteString(stdout, r.Stdout)
	io.WriteString(stderr, r.Stderr)
	if len(r.Result) > 0 && string(r.Result) != "null" {
		fmt.Fprintln(stdout, string(r.Result))
	}
	if r.ResultError != "" {
		fmt.Fprintln(stderr, "execgate: no result:", r.ResultError)
	}
	if r.Outcome != execution.OutcomeExited {
		fmt.Fprintf(stderr, "execgate: %s: %s\n", r.ID, r.Outcome)
	}
}

// exit passes the program's end on.
func (r ran) exit() error {
	switch {
	case r.Outcome == execution.OutcomeTimedOut:
		return exitCode(exitTimedOut)
	case r.ExitCode == nil:
		return exitCode(exitStopped)
	case *r.ExitCode != 0:
		return exitCode(*r.ExitCode)
	}
	return nil
}

// saveArtifacts writes artifacts below folder, and nowhere else.
func saveArtifacts(folder string, artifacts []execution.Artifact) error {
	if folder == "" || len(artifacts) == 0 {
		return nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("save artifacts: %w", err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return fmt.Errorf("save artifacts: %w", err)
	}
	defer root.Close()
	for _, artifact := range artifacts {
		if err := root.MkdirAll(filepath.Dir(artifact.Path), 0o755); err != nil {
			return fmt.Errorf("save artifacts: %w", err)
		}
		if err := root.WriteFile(artifact.Path, artifact.Content, 0o644); err != nil {
			return fmt.Errorf("save artifacts: %w", err)
		}
	}
	return nil
}
