package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestScripts runs the scripts in testdata/script: the command line as its user
// sees it. They are written in a part of the language of testscript
// (github.com/rogpeppe/go-internal):
//
//	[!] execgate ARG...   runs the program; ! where it must fail
//	exit N                the exit code of what ran last
//	stdin FILE            standard input of what runs next; "stdout" is the last output
//	[!] stdout REGEXP     what ran last printed that, with (?m); also stderr
//	cmp stdout FILE       it printed exactly that
//	[!] exists FILE
//	cp FROM TO            of a file or a folder; FROM may be "stdout"
//	env NAME=VALUE        "env NAME=@stdout" takes the last output
//
// with single quotes, $NAME, # and files after "-- name --" lines. Beyond that:
//
//	serve ARG...          starts a gateway and points EXECGATE_URL and EXECGATE_API_KEY at it
//	stop                  stops it as an operator does
//	get STATUS PATH       asks it; the body is stdout
//	revoke KEY            revokes a key by its text
//	flip FILE OFFSET      changes one byte
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := unpack(t, string(text))
			s := &script{t: t, dir: lines.dir, env: map[string]string{}}
			s.env["WORK"], s.env["STATE"] = s.dir, filepath.Join(s.dir, "state")
			s.env["XDG_STATE_HOME"] = filepath.Join(s.dir, "xdg")
			s.env["EXECGATE_AUDIT_SEGMENT_MIB"] = "1"
			s.env["EXECGATE_POLICY_DEADLINE_MS"] = "5000" // the race detector is slow
			for i, line := range lines.script {
				if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
					s.where = fmt.Sprintf("%s:%d: %s", path, i+1, line)
					s.run(line)
				}
			}
		})
	}
}

type unpacked struct {
	dir    string
	script []string
}

var fileLine = regexp.MustCompile(`^-- (\S+) --$`)

// unpack writes the files of an archive to a folder of their own.
func unpack(t *testing.T, text string) unpacked {
	u := unpacked{dir: t.TempDir()}
	name, content := "", ""
	flush := func() {
		if name != "" {
			path := filepath.Join(u.dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for line := range strings.Lines(text) {
		if m := fileLine.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			flush()
			name, content = m[1], ""
		} else if name == "" {
			u.script = append(u.script, line)
		} else {
			content += line
		}
	}
	flush()
	return u
}

// script is one run of a script.
type script struct {
	t     *testing.T
	dir   string
	env   map[string]string
	where string

	stdin, stdout, stderr []byte
	code                  int
	gateway               *gatewayUnderTest
}

func (s *script) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\n%s\nstdout:\n%s\nstderr:\n%s", s.where, fmt.Sprintf(format, args...), s.stdout, s.stderr)
}

func (s *script) must(err error) {
	s.t.Helper()
	if err != nil {
		s.fatalf("%v", err)
	}
}

func (s *script) run(line string) {
	s.t.Helper()
	line, negated := strings.CutPrefix(line, "! ")
	words := s.split(line)
	command, args := words[0], words[1:]
	switch command {
	case "needs-engine":
		needsEngine(s.t)
	case "execgate":
		s.execgate(negated, args)
	case "exit":
		if want, err := strconv.Atoi(args[0]); err != nil || s.code != want {
			s.fatalf("exit code %d", s.code)
		}
	case "stdin":
		s.stdin = s.read(args[0])
	case "stdout", "stderr":
		pattern, err := regexp.Compile("(?m)" + args[0])
		s.must(err)
		if pattern.Match(s.read(command)) == negated {
			s.fatalf("%s does not hold", line)
		}
	case "cmp":
		if got, want := s.read(args[0]), s.read(args[1]); !bytes.Equal(got, want) {
			s.fatalf("%s is\n%s\nand %s is\n%s", args[0], got, args[1], want)
		}
	case "exists":
		if _, err := os.Stat(s.path(args[0])); (err == nil) == negated {
			s.fatalf("%v", err)
		}
	case "cp":
		s.copy(args[0], args[1])
	case "env":
		name, value, _ := strings.Cut(args[0], "=")
		if value == "@stdout" {
			value = strings.TrimSpace(string(s.stdout))
		}
		s.env[name] = value
	case "chmod":
		mode, err := strconv.ParseUint(args[0], 8, 32)
		s.must(err)
		s.must(os.Chmod(s.path(args[1]), os.FileMode(mode)))
	case "mkdir":
		s.must(os.MkdirAll(s.path(args[0]), 0o700))
	default:
		s.further(command, args)
	}
}

// further are the commands that testscript does not have.
func (s *script) further(command string, args []string) {
	s.t.Helper()
	switch command {
	case "serve":
		s.serve(args)
	case "stop":
		if code := s.gateway.stop(); code != 0 {
			s.fatalf("the gateway's exit code is %d", code)
		}
	case "get":
		r := s.gateway.request("GET", args[1], "")
		s.stdout, s.stderr = r.body, nil
		if strconv.Itoa(r.status) != args[0] {
			s.fatalf("status %d", r.status)
		}
	case "revoke":
		id, _, _ := strings.Cut(args[0], ".")
		s.execgate(false, []string{"keys", "revoke", id})
	case "flip":
		offset, err := strconv.Atoi(args[1])
		s.must(err)
		content := s.read(args[0])
		content[offset] ^= 1
		s.must(os.WriteFile(s.path(args[0]), content, 0o600))
	default:
		s.fatalf("there is no such command")
	}
}

func (s *script) execgate(negated bool, args []string) {
	s.t.Helper()
	cmd := exec.Command("execgate", args...)
	cmd.Dir = s.dir
	cmd.Env = os.Environ()
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(s.stdin), &stdout, &stderr
	s.stdin = nil
	err := cmd.Run()
	s.stdout, s.stderr, s.code = stdout.Bytes(), stderr.Bytes(), cmd.ProcessState.ExitCode()
	if (err != nil) != negated {
		s.fatalf("%v", err)
	}
}

func (s *script) serve(args []string) {
	s.t.Helper()
	needsEngine(s.t)
	if s.gateway == nil {
		s.gateway = newGateway(s.t, s.env["STATE"], s.env)
	}
	s.gateway.args = args
	s.gateway.start()
	eventually(s.t, startTimeout, "the gateway answers", func() bool {
		_, err := s.gateway.try("GET", "/readyz", "")
		return err == nil
	})
	s.env[envURL], s.env[envKey] = s.gateway.url, s.gateway.key()
}

func (s *script) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.dir, name)
}

func (s *script) read(name string) []byte {
	s.t.Helper()
	switch name {
	case "stdout":
		return s.stdout
	case "stderr":
		return s.stderr
	}
	content, err := os.ReadFile(s.path(name))
	s.must(err)
	return content
}

func (s *script) copy(from, to string) {
	s.t.Helper()
	if info, err := os.Stat(s.path(from)); err == nil && info.IsDir() {
		s.must(os.CopyFS(s.path(to), os.DirFS(s.path(from))))
		return
	}
	s.must(os.WriteFile(s.path(to), s.read(from), 0o600))
}

// split reads a line's words: quoted ones as they are, $NAME in the others.
func (s *script) split(line string) []string {
	var words []string
	word, in, quoted := "", false, false
	expand := func(text string) string {
		return os.Expand(text, func(name string) string { return s.env[name] })
	}
	plain := ""
	for _, c := range line + " " {
		switch {
		case c == '\'':
			word += expand(plain)
			plain, quoted, in = "", !quoted, true
		case quoted:
			word += string(c)
		case c == ' ' || c == '\t':
			if in {
				words = append(words, word+expand(plain))
			}
			word, plain, in = "", "", false
		default:
			plain += string(c)
			in = true
		}
	}
	return words
}
