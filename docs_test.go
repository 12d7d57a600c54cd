package execgate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/execgate/execgate/vault/vaulttest"
)

// The pages are part of the product: what they show is run, and what they name
// exists. A fenced block says by its language what it is:
//
//	sh       is run, the blocks of a page in order in one shell
//	text     right after sh: what that block must print; … stands for anything
//	console  is not run; its commands and flags must exist

// pageTimeout bounds the blocks of one page, some of which build: it only ends what
// hangs, on a machine that may be busy.
const pageTimeout = 15 * time.Minute

// TestPages runs the pages against a real gateway, in a working copy and with
// a state folder of their own.
func TestPages(t *testing.T) {
	t.Parallel()
	needDocker(t)
	s := newStage(t)
	s.sh(t, s.copy, "make build")
	t.Run("README.md", func(t *testing.T) { s.play(t, readPage(t, "README.md"), s.copy) })
	s.startGateway(t)
	for _, p := range readPages(t) {
		t.Run(p.name, func(t *testing.T) {
			s.commandsExist(t, p)
			if p.name == "docs/vault.md" {
				s.haveVaultAndDatabase(t)
			}
			if p.name != "README.md" {
				s.play(t, p, s.folder(t))
			}
		})
	}
}

// needDocker skips loudly where no engine answers, and fails under CI.
func needDocker(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("docker", "version").CombinedOutput(); err != nil {
		const message = "NOT TESTED: no Docker engine answers; run scripts/setup.\n%v: %s"
		if os.Getenv("CI") == "true" {
			t.Fatalf(message, err, out)
		}
		t.Skipf(message, err, out)
	}
}

// stage is where pages are played.
type stage struct {
	copy    string // the working copy
	state   string
	address string // of gateways
	second  string // of the gateway that a page starts beside the one of all pages
	vault   string // of the Vault that a page starts
	env     []string
	helps   map[string]string
}

func newStage(t *testing.T) *stage {
	dir := t.TempDir()
	s := &stage{copy: filepath.Join(dir, "execgate"), address: ownAddress(t), second: ownAddress(t), vault: ownAddress(t), helps: map[string]string{}}
	s.state = filepath.Join(s.copy, ".cache", "state", "execgate")
	copyTree(t, s.copy)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "EXECGATE_") && !strings.HasPrefix(variable, "XDG_") {
			s.env = append(s.env, variable)
		}
	}
	for _, name := range []string{"GOPATH", "GOCACHE", "GOMODCACHE"} { // which HOME would decide
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		s.env = append(s.env, name+"="+strings.TrimSpace(string(out)))
	}
	s.env = append(s.env, "HOME="+dir, "XDG_STATE_HOME="+filepath.Dir(s.state), "STATE="+s.state,
		"EXECGATE_LISTEN="+s.address, "EXECGATE_URL=http://"+s.address,
		// A busy machine is not what a page is about.
		"EXECGATE_POLICY_DEADLINE_MS=10000", "EXECGATE_AUDIT_BUDGET_MS=60000", "EXECGATE_EXECUTOR_START_TIMEOUT_MS=120000", "EXECGATE_VAULT_TIMEOUT_MS=60000")
	return s
}

// copyTree copies what git would have in a fresh clone, and new files.
func copyTree(t *testing.T, to string) {
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		info, statErr := os.Stat(name)
		path := filepath.Join(to, name)
		if err := cmp.Or(err, statErr, os.MkdirAll(filepath.Dir(path), 0o755)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}

// ownAddress is free, and stays so until what is to listen there does: it is not at
// 127.0.0.1, where others are given the port meanwhile.
func ownAddress(t *testing.T) string {
	own := net.IPv4(127, byte(1+rand.IntN(63)), byte(rand.IntN(256)), byte(1+rand.IntN(254)))
	listener, err := net.Listen("tcp", own.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// startGateway starts the gateway that all pages but README.md talk to.
func (s *stage) startGateway(t *testing.T) {
	log, err := os.Create(filepath.Join(s.copy, "pages.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	process := exec.Command(filepath.Join(s.copy, "bin", "execgate"), "serve")
	process.Env, process.Stderr = s.env, log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	t.Cleanup(func() {
		process.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			t.Errorf("the gateway ended with %v", err)
		}
	})
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if answer, err := http.Get("http://" + s.address + "/readyz"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				break
			}
		}
		if len(ended) > 0 || time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("the gateway is not ready:\n%s", text)
		}
	}
	key, err := os.ReadFile(filepath.Join(s.state, "admin.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "EXECGATE_API_KEY="+strings.TrimSpace(string(key)))
}

// haveVaultAndDatabase gives the pages the command vault and a PostgreSQL.
func (s *stage) haveVaultAndDatabase(t *testing.T) {
	bin := t.TempDir()
	if err := os.Symlink(vaulttest.Binary(t), filepath.Join(bin, "vault")); err != nil {
		t.Fatal(err)
	}
	postgres := vaulttest.StartPostgres(t, vaulttest.PostgresOptions{})
	s.env = append(s.env, "PATH="+bin+":"+os.Getenv("PATH"), fmt.Sprintf("DATABASE=127.0.0.1:%d", postgres.Port),
		"DATABASE_PASSWORD="+postgres.Password, "DATABASE_CA="+postgres.CAFile)
}

// folder is a working copy as far as the pages need one, for one page.
func (s *stage) folder(t *testing.T) string {
	dir := t.TempDir()
	for _, name := range []string{"bin", "docs", "examples", "policies", "images", "policy"} {
		if err := os.Symlink(filepath.Join(s.copy, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// play runs the blocks of a page and compares what they print.
func (s *stage) play(t *testing.T, p page, dir string) {
	const mark = "\n=== end of the block at line %d\n"
	var script strings.Builder
	var blocks []block
	for _, b := range p.blocks {
		if b.language == "sh" {
			blocks = append(blocks, b)
			fmt.Fprintf(&script, "%s\nprintf '%s'\n", b.text, fmt.Sprintf(strings.ReplaceAll(mark, "\n", `\n`), b.line))
		}
	}
	if len(blocks) == 0 {
		return
	}
	addresses := strings.NewReplacer("127.0.0.1:8080", s.address, "127.0.0.1:8081", s.second, "127.0.0.1:8200", s.vault)
	rest := s.sh(t, dir, addresses.Replace(script.String()))
	for _, b := range blocks {
		printed, after, found := strings.Cut(rest, fmt.Sprintf(mark, b.line))
		if !found {
			t.Fatalf("%s:%d: the block did not end well:\n%s", p.name, b.line, rest)
		}
		rest = after
		if b.prints == "" {
			continue
		}
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(b.prints)), "…", ".*?")
		if !regexp.MustCompile(`(?s)^` + pattern + `$`).MatchString(strings.TrimSpace(printed)) {
			t.Errorf("%s:%d: the block printed\n%s\nand the page says\n%s", p.name, b.line, printed, b.prints)
		}
	}
}

// atTheEnd is what a shell begins with: it ends what its script has left in the
// background, and waits for that. What went on would write to the folder while that is
// removed.
const atTheEnd = `set -eo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
`

// sh runs a script in dir and returns what it printed. Nothing of it is left
// running.
func (s *stage) sh(t *testing.T, dir, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pageTimeout)
	defer cancel()
	// A file: what is left in the background would keep a pipe open.
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	shell := exec.CommandContext(ctx, "bash", "-c", atTheEnd+script)
	shell.Dir, shell.Env, shell.Stdout, shell.Stderr = dir, s.env, out, out
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGKILL) }
	failed := shell.Run()
	if shell.Process != nil {
		syscall.Kill(-shell.Process.Pid, syscall.SIGTERM) // no error where all is gone
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if failed != nil {
		t.Fatalf("%v:\n%s", failed, text)
	}
	return string(text)
}

var (
	inlineCode = regexp.MustCompile("`([^`\n]+)`")
	word       = regexp.MustCompile(`^[a-z]+$`)
	flagWord   = regexp.MustCompile(`^--[a-z-]+`)
)

// commandsExist checks the commands that a page names without running them.
func (s *stage) commandsExist(t *testing.T, p page) {
	for _, m := range inlineCode.FindAllStringSubmatch(p.prose, -1) {
		if line, ok := strings.CutPrefix(m[1], "execgate "); ok {
			s.commandExists(t, p, line)
		}
		if target, ok := strings.CutPrefix(m[1], "make "); ok {
			targetExists(t, p, target)
		}
	}
	for _, b := range p.blocks {
		if b.language != "console" {
			continue
		}
		for line := range strings.Lines(b.text) {
			program, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch program {
			case "execgate", "bin/execgate":
				s.commandExists(t, p, rest)
			case "make":
				targetExists(t, p, rest)
			case "go":
				s.goCommandExists(t, p, rest)
			case "git":
			default:
				t.Errorf("%s:%d: %q can be neither run nor checked", p.name, b.line, line)
			}
		}
	}
}

// commandExists follows a command line of execgate through its help.
func (s *stage) commandExists(t *testing.T, p page, line string) {
	line, _, _ = strings.Cut(line, " -- ")
	var commands []string
	for _, w := range strings.Fields(line) {
		help := s.help(t, commands)
		_, list, isGroup := strings.Cut(help, "Available Commands:")
		switch {
		case flagWord.MatchString(w):
			if !strings.Contains(help, " "+flagWord.FindString(w)+" ") {
				t.Errorf("%s: execgate %s: there is no flag %s", p.name, line, w)
			}
		case isGroup && word.MatchString(w):
			if !strings.Contains(list, "\n  "+w+" ") {
				t.Errorf("%s: execgate %s: there is no command %s", p.name, line, w)
				return
			}
			commands = append(commands, w)
		}
	}
}

func (s *stage) help(t *testing.T, commands []string) string {
	key := strings.Join(commands, " ")
	if _, ok := s.helps[key]; !ok {
		out, err := exec.Command(filepath.Join(s.copy, "bin", "execgate"), append(commands, "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("execgate %s --help: %v: %s", key, err, out)
		}
		s.helps[key] = string(out)
	}
	return s.helps[key]
}

// goCommandExists checks the packages, the test and the flag -update of a line.
func (s *stage) goCommandExists(t *testing.T, p page, line string) {
	tests := testNames(t)
	for _, w := range strings.Fields(line) {
		if folder, ok := strings.CutPrefix(w, "./"); ok && folder != "..." {
			if _, err := os.Stat(folder); err != nil {
				t.Errorf("%s: go %s: %v", p.name, line, err)
			}
		}
		name := strings.Trim(w, "'^$")
		if testName.MatchString(name) && !slices.ContainsFunc(tests, func(have string) bool { return strings.HasPrefix(have, name) }) {
			t.Errorf("%s: go %s: there is no %s", p.name, line, name)
		}
	}
}

func targetExists(t *testing.T, p page, target string) {
	if !strings.Contains(readFile(t, "Makefile"), "\n"+target+": ;") {
		t.Errorf("%s: there is no make %s", p.name, target)
	}
}

// What the code has must be on the page that is its reference.
func TestReferencesAreWhole(t *testing.T) {
	for _, r := range []struct {
		page, files, names string
		format             func(match []string) string
	}{
		{"docs/api.md", "gateway/routes.go", `http\.Method(\w+), "(/[^"]*)"`, func(m []string) string {
			return strings.ToUpper(m[1]) + " " + regexp.MustCompile(`[:*](\w+)`).ReplaceAllString(m[2], "{$1}")
		}},
		{"docs/api.md", "execution/limits.go", `\{"(\w+)", `, nil},
		{"docs/api.md", "execution/result.go", `Outcome = "(\w+)"`, nil},
		{"docs/api.md", "execution/principal.go", `Role = "(\w+)"`, nil},
		{"docs/api.md", "gateway/executions.go", "json:\"(\\w+)", nil},
		{"docs/api.md", "gateway/problem.go", `execution\.Kind = "(\w+)"`, nil},
		{"docs/audit.md", "execution/record.go", `RecordType = "(\w+)"`, nil},
		{"docs/policy.md", "execution/decision.go", `Code\w+ += "(\w+)"`, nil},
		{"docs/policy.md", "policy/enforce.go", `code\w+ += "(\w+)"`, nil},
		{"docs/policy.md", "policies/*.rego", `#   code: (\w+)`, nil},
		{"docs/policy.md", "policy/decode.go", `case "(\w+)":\n\t\t\treturn (?:d\.|list|fields|stringOf\(v, &d|stringsOf\(v, &d|nullable|oneOf)`, nil},
		{"docs/sandbox.md", "executor/verify.go", `(?:check\(|\{)"([a-z_]+)", `, nil},
		{"docs/cli.md", "cmd/execgate/request.go", `usage\("--(\w+)`, func(m []string) string { return "--" + m[1] }},
	} {
		found := 0
		text := readFile(t, r.page)
		files, err := filepath.Glob(r.files)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			for _, m := range regexp.MustCompile(r.names).FindAllStringSubmatch(readFile(t, file), -1) {
				found++
				name := m[1]
				if r.format != nil {
					name = r.format(m)
				}
				if !regexp.MustCompile("`" + regexp.QuoteMeta(name) + `(?:\W|$)`).MatchString(text) {
					t.Errorf("%s does not have `%s` of %s", r.page, name, file)
				}
			}
		}
		if found == 0 {
			t.Errorf("%s has nothing like %s any more", r.files, r.names)
		}
	}
	for folder := range packages {
		if !strings.Contains(readFile(t, "docs/architecture.md"), "| `"+folder+"` |") {
			t.Errorf("docs/architecture.md does not have the package %s", folder)
		}
	}
}

// Each setting has one row: its key, its default, its variable.
func TestEverySettingHasItsRow(t *testing.T) {
	text := readFile(t, "docs/configuration.md")
	for key, value := range settingsOfSchema(t) {
		row := fmt.Sprintf("| `%s` | `%v` | `%s` |", key, value, variableOf(key))
		if value == "" {
			row = fmt.Sprintf("| `%s` |  | `%s` |", key, variableOf(key))
		}
		if !strings.Contains(text, row) {
			t.Errorf("docs/configuration.md has no row %s", row)
		}
	}
}

func variableOf(key string) string {
	return "EXECGATE_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// settingsOfSchema returns the default of every setting.
func settingsOfSchema(t *testing.T) map[string]any {
	type node struct {
		Type       any             `json:"type"`
		Default    json.RawMessage `json:"default"`
		Properties map[string]node `json:"properties"`
	}
	var root node
	if err := json.Unmarshal([]byte(readFile(t, "cmd/execgate/config.schema.json")), &root); err != nil {
		t.Fatal(err)
	}
	settings := map[string]any{}
	var walk func(prefix string, n node)
	walk = func(prefix string, n node) {
		for name, child := range n.Properties {
			if len(child.Properties) > 0 {
				walk(prefix+name+".", child)
				continue
			}
			if child.Type == "array" {
				continue // it has no variable, and a section of its own
			}
			settings[prefix+name] = strings.Trim(string(child.Default), `"`)
		}
	}
	walk("", root)
	return settings
}

func TestExitCodesAreThoseOfTheCode(t *testing.T) {
	want := []string{"0"}
	for _, m := range regexp.MustCompile(`\n\texit\w+ += (\d+)`).FindAllStringSubmatch(readFile(t, "cmd/execgate/exit.go"), -1) {
		want = append(want, m[1])
	}
	_, table, _ := strings.Cut(readFile(t, "docs/cli.md"), "## Exit codes")
	var got []string
	for _, m := range regexp.MustCompile(`\n\| (\d+) \|`).FindAllStringSubmatch(table, -1) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/cli.md has the exit codes %v, the code %v", got, want)
	}
}

var (
	testName     = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z0-9]\w+`)
	testDeclared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	variableName = regexp.MustCompile(`\bEXECGATE_[A-Z][A-Z_]*[A-Z]\b`)
)

func TestNamedTestsExist(t *testing.T) {
	have := testNames(t)
	for _, p := range readPages(t) {
		for _, name := range testName.FindAllString(p.prose, -1) {
			if !slices.Contains(have, name) {
				t.Errorf("%s: there is no %s", p.name, name)
			}
		}
	}
	text := readFile(t, "docs/architecture.md")
	for n := 1; n <= 9; n++ {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \|.*$`, n)).FindString(text)
		if !testName.MatchString(row) {
			t.Errorf("docs/architecture.md: invariant %d names no test: %s", n, row)
		}
	}
}

func testNames(t *testing.T) (names []string) {
	for _, file := range tracked(t, "*_test.go") {
		for _, m := range testDeclared.FindAllStringSubmatch(readFile(t, file), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func TestNamedVariablesExist(t *testing.T) {
	known := map[string]bool{}
	for key := range settingsOfSchema(t) {
		known[variableOf(key)] = true
	}
	for _, file := range tracked(t, "*.go", "scripts/*", "images/drivers/*") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, name := range variableName.FindAllString(readFile(t, file), -1) {
			known[name] = true
		}
	}
	for _, p := range readPages(t) {
		for _, name := range variableName.FindAllString(p.text, -1) {
			if !known[name] {
				t.Errorf("%s: nothing reads the variable %s", p.name, name)
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	dropped = regexp.MustCompile(`[^a-z0-9 _-]`)
)

func TestLinksLead(t *testing.T) {
	for _, p := range readPages(t) {
		for _, m := range link.FindAllStringSubmatch(p.prose, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			target := p.name
			if file != "" {
				target = filepath.Join(filepath.Dir(p.name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s leads nowhere", p.name, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(readFile(t, target)), anchor) {
				t.Errorf("%s: %s: there is no such heading", p.name, m[1])
			}
		}
	}
	readme := readFile(t, "README.md")
	for _, p := range readPages(t) {
		if p.name != "README.md" && !strings.Contains(readme, "("+p.name+")") {
			t.Errorf("README.md does not lead to %s", p.name)
		}
	}
}

// anchors are those that GitHub gives the headings of a page.
func anchors(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		all = append(all, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}

func TestReadmeIsShort(t *testing.T) {
	if n := strings.Count(readFile(t, "README.md"), "\n"); n > 150 {
		t.Errorf("README.md has %d lines, at most 150: depth belongs in docs/", n)
	}
}

// A page is for every machine.
func TestPagesNameNoMachine(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	somebodys := regexp.MustCompile(`/home/\w|/Users/\w|` + regexp.QuoteMeta(here) + `\b`)
	for _, p := range readPages(t) {
		if found := somebodys.FindString(p.text); found != "" {
			t.Errorf("%s: %s is on one machine only", p.name, found)
		}
	}
}

// page is one page of the documentation.
type page struct {
	name, text string
	prose      string // text without its fenced blocks
	blocks     []block
}

// block is one fenced block.
type block struct {
	line           int
	language, text string
	prints         string // of sh: the block of text right after it
}

func readPages(t *testing.T) (pages []page) {
	t.Helper()
	names, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}, names...) {
		pages = append(pages, readPage(t, name))
	}
	return pages
}

func readPage(t *testing.T, name string) page {
	t.Helper()
	p := page{name: name, text: readFile(t, name)}
	var open *block
	var prose bytes.Buffer
	adjacent := false // nothing but space since the last block
	number := 0
	for line := range strings.Lines(p.text) {
		number++
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && open == nil:
			open = &block{line: number, language: strings.TrimSpace(fence)}
			if !slices.Contains([]string{"sh", "text", "console", "rego", "json", "yaml", "go"}, open.language) {
				t.Errorf("%s:%d: a block of the language %q", name, number, open.language)
			}
		case isFence:
			if n := len(p.blocks); open.language == "text" && adjacent && p.blocks[n-1].language == "sh" {
				p.blocks[n-1].prints = open.text
			}
			p.blocks = append(p.blocks, *open)
			open, adjacent = nil, true
		case open != nil:
			open.text += line
		default:
			prose.WriteString(line)
			adjacent = adjacent && strings.TrimSpace(line) == ""
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the block has no end", name, open.line)
	}
	p.prose = prose.String()
	return p
}

// tracked lists the files that git would have in a clone, and new ones.
func tracked(t *testing.T, patterns ...string) []string {
	t.Helper()
	out, err := exec.Command("git", append([]string{"ls-files", "--cached", "--others", "--exclude-standard", "--"}, patterns...)...).Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(name string) bool {
		_, err := os.Stat(name)
		return err != nil // deleted, and not committed yet
	})
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
