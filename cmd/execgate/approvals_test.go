package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// Nothing that was asked can pass for something else on the approver's terminal.
func TestWhatIsAskedIsShownAsItIs(t *testing.T) {
	a := shownApproval{
		ID: "ap_1", State: execution.ApprovalPending, Requester: "ak_1\x1b[2K", Expires: time.Unix(0, 0).UTC(),
		Reasons: []execution.Reason{{Code: "c", Message: "line\nstate        approved"}},
		Request: &execution.Request{
			Code:  "print(1)\r# \u202egnihton\n\tx = '\x1b]0;title\x07'",
			Files: []execution.File{{Path: "a\nb", Content: []byte("x")}}, Metadata: map[string]string{"agent": "\u0085\xff"},
		},
	}
	var out strings.Builder
	if err := a.show(&out); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if r != '\n' && r != '\t' && (r < ' ' || r == 0x7f || r >= 0x80) {
			t.Errorf("%q is written to the terminal", r)
		}
	}
	for _, want := range []string{`ak_1\x1b[2K`, `line\nstate`, `print(1)\r# \u202egnihton` + "\n\t", `a\nb 1 bytes`, `agent: \u0085\xff`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "\nstate "); n != 1 {
		t.Errorf("%d states:\n%s", n, out.String())
	}
}

func TestWebhooksOfTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	secret := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := secret("good", "0123456789abcdef\n", 0o600)
	for name, test := range map[string]struct {
		urls, secrets map[string]string
		says          string
	}{
		"good":      {map[string]string{"a": "https://hooks.example.com/x"}, map[string]string{"a": good}, ""},
		"no file":   {map[string]string{"a": "https://x"}, map[string]string{"a": filepath.Join(dir, "none")}, "no such file"},
		"too short": {map[string]string{"a": "https://x"}, map[string]string{"a": secret("short", "0123456789abcde\n", 0o600)}, "at least 16"},
		"readable":  {map[string]string{"a": "https://x"}, map[string]string{"a": secret("open", "0123456789abcdef", 0o644)}, "chmod 600"},
		"a user":    {map[string]string{"a": "https://u:p@x"}, map[string]string{"a": good}, "without a user"},
		"no scheme": {map[string]string{"a": "hooks.example.com"}, map[string]string{"a": good}, "http or https"},
		"a file":    {map[string]string{"a": "file:///etc/passwd"}, map[string]string{"a": good}, "http or https"},
	} {
		_, err := newWebhooks(WebhooksConfig{URLs: test.urls, Secrets: test.secrets}, newLogger(LogConfig{}, &strings.Builder{}))
		if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
		if err != nil && strings.Contains(err.Error(), "p@x") {
			t.Errorf("%s: the address is told: %v", name, err)
		}
	}
	cfg := defaultConfig()
	cfg.Webhooks = WebhooksConfig{URLs: map[string]string{"a": "https://x"}, Secrets: map[string]string{"b": "/x"}}
	cfg.Approvals.Webhook = "c"
	err := cfg.validate()
	for _, want := range []string{`no file for the webhook "a"`, `no address for the webhook "b"`, `approvals.webhook is "c"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestTablesOfNamesInTheEnvironment(t *testing.T) {
	load := func(text string) (Config, error) {
		return loadConfig("", func(name string) (string, bool) { return text, name == "EXECGATE_WEBHOOKS_URLS" })
	}
	cfg, err := load("a=https://x/?q=1,b=https://y")
	if err != nil || cfg.Webhooks.URLs["a"] != "https://x/?q=1" || cfg.Webhooks.URLs["b"] != "https://y" {
		t.Errorf("%v, %v", cfg.Webhooks.URLs, err)
	}
	for _, text := range []string{"a", "a=1,a=2", "a=1,"} {
		if _, err := load(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
