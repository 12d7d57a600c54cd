package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

const password = "A1a-x7Qw\"Zt9pLr/20"

func exposedPassword() []execution.Exposed {
	return []execution.Exposed{{
		Credential: execution.Credential{Tool: "reports-db", Inject: execution.InjectEnv, EnvName: "DB"},
		Fields: map[string]execution.Secret{
			"username": execution.NewSecret("app"), "password": execution.NewSecret(password), "port": execution.NewSecret("5432"),
		},
	}}
}

func mustScrub(t *testing.T, tell func(execution.Event) error) *scrubber {
	t.Helper()
	s, err := newScrubber(exposedPassword(), tell)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// inEveryForm is a text with the password in the forms that programs print it in.
func inEveryForm() []byte {
	quoted, _ := json.Marshal(password)
	return []byte(strings.Join([]string{
		"app:5432", password, string(quoted), base64.StdEncoding.EncodeToString([]byte(password)),
		base64.URLEncoding.EncodeToString([]byte("x:" + password)), hex.EncodeToString([]byte(password)), "the end",
	}, "\n"))
}

func wantNone(t *testing.T, where string, text []byte) {
	t.Helper()
	for _, form := range []string{
		password, `A1a-x7Qw\"Zt9pLr`, base64.StdEncoding.EncodeToString([]byte(password))[:20], hex.EncodeToString([]byte(password)),
	} {
		if bytes.Contains(text, []byte(form)) {
			t.Errorf("%s holds %q: %s", where, form, text)
		}
	}
}

// Nothing that a program gives back holds what it was given, in any form and wherever
// a stream is cut; what is no secret stays.
func TestScrubbedResult(t *testing.T) {
	text := inEveryForm()
	value, _ := json.Marshal(map[string]any{"password": password, password: []any{string(text), 5432}})
	in := execution.Result{
		Outcome: execution.OutcomeExited, Stdout: text, Stderr: text, Value: value,
		Artifacts: []execution.Artifact{{Path: "a-" + password, Content: text, Size: int64(len(text))}},
	}
	out := mustScrub(t, nil).result(in)
	wantNone(t, "stdout", out.Stdout)
	wantNone(t, "stderr", out.Stderr)
	wantNone(t, "result", out.Value)
	wantNone(t, "artifact", out.Artifacts[0].Content)
	wantNone(t, "name of the artifact", []byte(out.Artifacts[0].Path))
	if out.Artifacts[0].Size != int64(len(out.Artifacts[0].Content)) {
		t.Errorf("the size is %d of %d bytes", out.Artifacts[0].Size, len(out.Artifacts[0].Content))
	}
	for where, text := range map[string][]byte{"stdout": out.Stdout, "result": out.Value} {
		if !bytes.Contains(text, []byte("app:5432")) || !bytes.Contains(text, []byte("the end")) || !bytes.Contains(text, []byte("[redacted]")) {
			t.Errorf("%s is %s", where, text)
		}
	}
	if !json.Valid(out.Value) || out.ValueError != "" {
		t.Errorf("the result %s, %q", out.Value, out.ValueError)
	}
	if !bytes.Equal(in.Stdout, text) {
		t.Error("what was given to the scrubber is changed")
	}
}

func TestScrubbedEvents(t *testing.T) {
	text := inEveryForm()
	for size := 1; size < 40; size += 3 {
		told := map[execution.EventType][]byte{}
		var artifact execution.Artifact
		s := mustScrub(t, func(e execution.Event) error {
			told[e.Type] = append(told[e.Type], e.Data...)
			if e.Artifact != nil {
				artifact = *e.Artifact
			}
			return nil
		})
		tell := s.events()
		for at := 0; at < len(text); at += size {
			piece := bytes.Clone(text[at:min(at+size, len(text))])
			for _, kind := range []execution.EventType{execution.EventStdout, execution.EventStderr} {
				if err := tell(execution.Event{Type: kind, Data: piece}); err != nil {
					t.Fatal(err)
				}
			}
			clear(piece) // the executor's own
		}
		if err := tell(execution.Event{Type: execution.EventArtifact, Artifact: &execution.Artifact{Path: "a", Content: text}}); err != nil {
			t.Fatal(err)
		}
		if err := s.rest(execution.Truncated{}); err != nil {
			t.Fatal(err)
		}
		whole := s.result(execution.Result{Stdout: text}).Stdout
		for kind, got := range told {
			if kind != execution.EventArtifact && !bytes.Equal(got, whole) {
				t.Errorf("in pieces of %d, %s is %q, and whole %q", size, kind, got, whole)
			}
		}
		wantNone(t, "artifact", artifact.Content)
	}
}

// The beginning of a secret that a cut has left is not told.
func TestScrubbedWhereItIsCutOff(t *testing.T) {
	for n := 1; n < len(password); n++ {
		text := []byte("xyz " + password[:n])
		var told []byte
		s := mustScrub(t, func(e execution.Event) error { told = append(told, e.Data...); return nil })
		if err := s.events()(execution.Event{Type: execution.EventStdout, Data: text}); err != nil {
			t.Fatal(err)
		}
		if err := s.rest(execution.Truncated{Stdout: true}); err != nil {
			t.Fatal(err)
		}
		out := s.result(execution.Result{Stdout: text, Truncated: execution.Truncated{Stdout: true}})
		for where, got := range map[string][]byte{"event": told, "result": out.Stdout} {
			if string(got) != "xyz " {
				t.Errorf("after %d the %s is %q", n, where, got)
			}
		}
	}
}

func TestResultThatCannotBeMaskedIsWithheld(t *testing.T) {
	s, err := newScrubber([]execution.Exposed{{Fields: map[string]execution.Secret{"token": execution.NewSecret(`abcdef","b":"cdef`)}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{`{"a":"abcdef","b":"cdef"}`, `{"a":`} {
		if out := s.result(execution.Result{Value: json.RawMessage(in)}); out.Value != nil || out.ValueError != errWithheldSecret {
			t.Errorf("%s: %s, %q", in, out.Value, out.ValueError)
		}
	}
	if out := s.result(execution.Result{}); out.Value != nil || out.ValueError != "" {
		t.Errorf("no result became %s, %q", out.Value, out.ValueError)
	}
	number, err := newScrubber([]execution.Exposed{{Fields: map[string]execution.Secret{"pin": execution.NewSecret("1234567890")}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if out := number.result(execution.Result{Value: json.RawMessage(`[1234567890,7]`)}); string(out.Value) != `["[redacted]",7]` {
		t.Errorf("%s", out.Value)
	}
}

// A secret that is too short to be masked is not handed out.
func TestValuesThatCannotBeScrubbed(t *testing.T) {
	for name, value := range map[string]string{"password": "hunter2", "api_key": "q9z", "Token": "  abc  ", "secret": strings.Repeat("x", 1<<20)} {
		exposed := []execution.Exposed{{Credential: execution.Credential{Tool: "t"}, Fields: map[string]execution.Secret{name: execution.NewSecret(value)}}}
		_, err := newScrubber(exposed, nil)
		if execution.KindOf(err) != execution.KindUnavailable || strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, value := range map[string]string{"port": "5432", "private_key_type": "rsa", "password": ""} {
		exposed := []execution.Exposed{{Fields: map[string]execution.Secret{name: execution.NewSecret(value)}}}
		if _, err := newScrubber(exposed, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
