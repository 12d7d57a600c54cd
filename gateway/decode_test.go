package gateway

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

const mib = 1 << 20

func TestWholeRequest(t *testing.T) {
	got, err := decodeRequest([]byte(`{
		"language": "python", "code": "result = 1", "image": "python", "input": {"numbers": [1, null]},
		"stdin": "a\nb", "env": {"MODE": "test"}, "session": "se_01ARYZ6S41TSV4RRFFQ69G5FAV",
		"files": [{"path": "data.csv", "content": "YSxiCg==", "encoding": "base64"}, {"path": "a/b c.txt", "content": "x\u0000"},
		          {"path": "out/seed", "content": "", "encoding": "utf-8"}],
		"limits": {"timeout_ms": 30000, "memory_mib": 256, "cpu_millis": 500, "cpu_shares": 256, "pids": 50, "nofile": 64,
		           "tmp_mib": 10, "workspace_mib": 1, "shm_mib": 1, "output_kib": 1024, "result_kib": 1, "files_mib": 8, "files_count": 1},
		"network": ["API.GitHub.com:443", "[2001:DB8::0:1]:8080", "10.0.0.1:5432", "_srv.example.com:1"],
		"tools": ["github"], "runtime": "runc", "metadata": {"agent": "triage-bot"}
	}`), mib)
	want := execution.Request{
		Language: "python", Code: "result = 1", Image: "python", Input: []byte(`{"numbers": [1, null]}`),
		Stdin: "a\nb", Env: map[string]string{"MODE": "test"}, Session: "se_01ARYZ6S41TSV4RRFFQ69G5FAV",
		Files: []execution.File{{Path: "data.csv", Content: []byte("a,b\n")}, {Path: "a/b c.txt", Content: []byte("x\x00")}, {Path: "out/seed", Content: []byte{}}},
		Limits: execution.Limits{TimeoutMS: 30000, MemoryMiB: 256, CPUMillis: 500, CPUShares: 256, PIDs: 50, NoFile: 64,
			TmpMiB: 10, WorkspaceMiB: 1, ShmMiB: 1, OutputKiB: 1024, ResultKiB: 1, FilesMiB: 8, FilesCount: 1},
		Network: []execution.Destination{{Host: "api.github.com", Port: 443}, {Host: "2001:db8::1", Port: 8080}, {Host: "10.0.0.1", Port: 5432}, {Host: "_srv.example.com", Port: 1}},
		Tools:   []string{"github"}, Runtime: "runc", Metadata: map[string]string{"agent": "triage-bot"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("error %v, request (-want +got):\n%s", err, diff)
	}
}

// pointers are those of a refusal, or why it is none.
func pointers(err error) []string {
	e, ok := errors.AsType[*execution.Error](err)
	if !ok || e.Kind != execution.KindInvalid {
		return []string{fmt.Sprintf("not invalid: %v", err)}
	}
	var found []string
	for _, field := range e.Fields {
		found = append(found, field.Pointer)
	}
	return found
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	program := `"language":"python","code":"1"`
	tests := []struct {
		name, body string
		want       []string
	}{
		{"empty", ``, []string{""}},
		{"white space", `  `, []string{""}},
		{"no object", `[]`, []string{""}},
		{"null", `null`, []string{""}},
		{"nothing asked", `{}`, []string{""}},
		{"cut off", `{"language":"python","code":"1"`, []string{""}},
		{"trailing bytes", `{` + program + `}x`, []string{""}},
		{"trailing document", `{` + program + `}{}`, []string{""}},
		{"byte order mark", "\xef\xbb\xbf{" + program + "}", []string{""}},
		{"comment", `{/**/` + program + `}`, []string{""}},
		{"trailing comma", `{` + program + `,}`, []string{""}},
		{"single quotes", `{'code':'1'}`, []string{""}},

		{"unknown field", `{` + program + `,"principal":{"tenant":"other"}}`, []string{"/principal"}},
		{"unknown fields", `{` + program + `,"b/c":1,"a~":1}`, []string{"/a~0", "/b~1c"}},
		{"another case", `{"Language":"python","code":"1"}`, []string{"/language", "/Language"}},
		{"duplicate", `{` + program + `,"code":"2"}`, []string{"/code"}},
		{"escaped duplicate", `{` + program + `,"c\u006fde":"2"}`, []string{"/code"}},
		{"duplicate in env", `{` + program + `,"env":{"A":"1","A":"2"}}`, []string{"/env/A"}},
		{"duplicate in input", `{` + program + `,"input":{"a":[{"b":1,"b":2}]}}`, []string{"/input/a/0/b"}},
		{"duplicate in limits", `{` + program + `,"limits":{"pids":1,"pids":2}}`, []string{"/limits/pids"}},

		{"wrong types", `{"language":1,"code":["x"],"env":[],"files":{},"limits":3,"stdin":{},"network":"a:1","tools":[1],"metadata":"x","runtime":true,"session":1}`,
			[]string{"/language", "/code", "/stdin", "/files", "/env", "/limits", "/network", "/tools/0", "/runtime", "/session", "/metadata"}},
		{"nulls", `{"language":null,"code":"1","env":{"A":null},"files":[null],"limits":null,"metadata":{"m":null}}`,
			[]string{"/language", "/files/0", "/env/A", "/limits", "/metadata/m"}},
		{"null limit", `{` + program + `,"limits":{"pids":null}}`, []string{"/limits/pids"}},
		{"limits", `{` + program + `,"limits":{"timeout_ms":0,"memory_mib":-1,"cpu_millis":9223372036854775808,"cpu_shares":1,"pids":1.5,"nofile":"64","tmp_mib":1e3,"shm_mib":999999999999,"gpu":1}}`,
			[]string{"/limits/timeout_ms", "/limits/memory_mib", "/limits/cpu_millis", "/limits/cpu_shares", "/limits/pids", "/limits/nofile", "/limits/tmp_mib", "/limits/shm_mib", "/limits/gpu"}},

		{"NUL in text", `{"language":"python","code":"a\u0000b","stdin":"\u0000","env":{"A":"\u0000"},"metadata":{"a":"\u0000"},"files":[{"path":"a\u0000b","content":""}]}`,
			[]string{"/code", "/stdin", "/files/0/path", "/env/A", "/metadata/a"}},
		{"NUL in command", `{"image":"python","command":["a","b\u0000"]}`, []string{"/command/1"}},
		{"raw NUL", "{\"language\":\"python\",\"code\":\"\x00\"}", []string{"/code"}},
		{"invalid UTF-8", "{\"language\":\"python\",\"code\":\"\xff\"}", []string{"/code"}},
		{"overlong UTF-8", "{\"language\":\"python\",\"code\":\"\xc0\xaf\"}", []string{"/code"}},
		{"lone surrogate", `{"language":"python","code":"\ud800"}`, []string{"/code"}},
		{"invalid UTF-8 in input", "{" + program + ",\"input\":[\"\xff\"]}", []string{"/input/0"}},

		{"language without code", `{"language":"python"}`, []string{"/code"}},
		{"code without language", `{"code":"1"}`, []string{"/language"}},
		{"code with image", `{"code":"1","image":"python"}`, []string{"/language"}},
		{"command beside language", `{` + program + `,"command":["ls"]}`, []string{"/command"}},
		{"command without image", `{"command":["ls"]}`, []string{"/image"}},
		{"image alone", `{"image":"python"}`, []string{"/command"}},
		{"empty command", `{"image":"python","command":[]}`, []string{"/command"}},
		{"empty program name", `{"image":"python","command":[""]}`, []string{"/command/0"}},
		{"empty names", `{"language":"","code":"1","image":"","runtime":"","session":"","tools":[""]}`,
			[]string{"/language", "/image", "/tools/0", "/runtime", "/session"}},
		{"references and paths for names", `{"language":"../x","code":"1","image":"evil.example/x:latest","runtime":"/bin/sh","session":"se_../..","tools":["a/b"]}`,
			[]string{"/language", "/image", "/tools/0", "/runtime", "/session"}},
		{"names of variables", `{` + program + `,"env":{"":"1","1A":"1","A-B":"1","A=B":"1","É":"1"}}`, []string{"/env/", "/env/1A", "/env/A-B", "/env/A=B", "/env/É"}},
		{"names of metadata", `{` + program + `,"metadata":{"a b":"1","":"x"}}`, []string{"/metadata/", "/metadata/a b"}},

		{"file without path and content", `{` + program + `,"files":[{}]}`, []string{"/files/0/path", "/files/0/content"}},
		{"file with unknown field", `{` + program + `,"files":[{"path":"a","content":"","mode":"0777"}]}`, []string{"/files/0/mode"}},
		{"encodings", `{` + program + `,"files":[{"path":"a","content":"","encoding":"UTF-8"},{"path":"b","content":"","encoding":""},{"path":"c","content":"YQ","encoding":"base64"},
			{"path":"d","content":"YR==","encoding":"base64"},{"path":"e","content":"Y\nQ==","encoding":"base64"},{"path":"f","content":"_-==","encoding":"base64"}]}`,
			[]string{"/files/0/encoding", "/files/1/encoding", "/files/2/content", "/files/3/content", "/files/4/content", "/files/5/content"}},
		{"files that stand in each other's way", `{` + program + `,"files":[{"path":"a","content":""},{"path":"a","content":""},{"path":"a/b","content":""},{"path":"d/e","content":""},{"path":"d","content":""},{"path":"out","content":""}]}`,
			[]string{"/files/1/path", "/files/2/path", "/files/4/path", "/files/5/path"}},
		{"input too deep", `{` + program + `,"input":` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + `}`, []string{"/input"}},
		{"nested beyond all sense", `{` + program + `,"input":` + strings.Repeat("[", 1<<20), []string{"/input" + strings.Repeat("/0", 125) + "…"}},
		{"too many files", `{` + program + `,"files":[{"path":"x","content":""}` + strings.Repeat(`,{"path":"x","content":""}`, 1000) + `]}`, []string{"/files"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := decodeRequest([]byte(test.body), mib)
			if diff := cmp.Diff(test.want, pointers(err)); diff != "" {
				t.Errorf("pointers (-want +got):\n%s\n%v", diff, err)
			}
		})
	}
}

func TestWhatIsUnusualAndRight(t *testing.T) {
	for name, body := range map[string]string{
		"input null":           `{"language":"python","code":"1","input":null}`,
		"input as deep as may": `{"language":"python","code":"","input":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
		"NUL in input":         `{"language":"python","code":"1","input":"\u0000"}`,
		"brackets in strings":  `{"language":"python","code":"1","input":["` + strings.Repeat(`[\"{`, 200) + `"]}`,
		"null in a string":     `{"language":"python","code":"null","env":{"null":"null"}}`,
		"command":              `{"image":"python","command":["python3","-c",""]}`,
		"image with language":  `{"image":"python","language":"python","code":"1"}`,
		"white space around":   " \n\t{\"language\":\"python\",\"code\":\"1\"}\r\n ",
	} {
		if _, err := decodeRequest([]byte(body), mib); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	var body strings.Builder
	body.WriteString(`{"language":"python","code":"1"`)
	for i := range 1000 {
		fmt.Fprintf(&body, `,"%s%d":1`, strings.Repeat("é", 500), i)
	}
	body.WriteString(`}`)
	_, err := decodeRequest([]byte(body.String()), mib)
	e, _ := errors.AsType[*execution.Error](err)
	if e == nil || len(e.Fields) != maxFieldErrors || len(e.Error()) > 20_000 {
		t.Errorf("%d fields, %d bytes", len(e.Fields), len(e.Error()))
	}
}

// No value of a request is repeated in its refusal, and so none is in a log.
func TestRefusalsRepeatNoValue(t *testing.T) {
	const secret = "hunter2hunter2"
	for _, body := range []string{
		`{"language":"` + secret + `/","code":1,"stdin":["` + secret + `"],"limits":{"pids":"` + secret + `"},"network":["` + secret + `"],"env":{"A":["` + secret + `"]}}`,
		`{"language":"python","code":"` + secret + `\q"}`,
		`{"language":"python","code":"1","files":[{"path":"../` + secret + `","content":"` + secret + `","encoding":"` + secret + `"}]}`,
	} {
		if _, err := decodeRequest([]byte(body), mib); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestLongCodeIsTooLarge(t *testing.T) {
	body := `{"language":"python","code":"` + strings.Repeat("x", 101) + `"}`
	if _, err := decodeRequest([]byte(body), 100); execution.KindOf(err) != execution.KindTooLarge {
		t.Errorf("got %v, want too_large", err)
	}
	if _, err := decodeRequest([]byte(body), 101); err != nil {
		t.Error(err)
	}
}

func TestPaths(t *testing.T) {
	long := strings.Repeat("x", 255)
	for _, good := range []string{"a", "a.b", ".hidden", "..a", "a..", "a/b/c", "out/x", "output", "é/ü", long + "/" + long, " "} {
		if wrong := checkPath(good); wrong != "" {
			t.Errorf("%q: %s", good, wrong)
		}
	}
	for _, bad := range []string{
		"", ".", "..", "/", "/a", "../a", "a/..", "a/../b", "a/./b", "./a", "a/", "a//b", "//a", `a\b`, `..\a`, "C:\\x",
		"a\x00b", "a\nb", "a\x7f", "a\u0085b", "out", long + "x", strings.Repeat("a/", 512) + "a",
	} {
		if checkPath(bad) == "" {
			t.Errorf("%q is a path", bad)
		}
	}
}

func TestDestinations(t *testing.T) {
	for text, want := range map[string]execution.Destination{
		"a:1":                            {Host: "a", Port: 1},
		"API.Example.COM:65535":          {Host: "api.example.com", Port: 65535},
		"xn--bcher-kva.example:443":      {Host: "xn--bcher-kva.example", Port: 443},
		"1.2.3.4:80":                     {Host: "1.2.3.4", Port: 80},
		"1password.com:443":              {Host: "1password.com", Port: 443},
		"[::1]:80":                       {Host: "::1", Port: 80},
		"[2001:0DB8:0:0:0:0:0:1]:443":    {Host: "2001:db8::1", Port: 443},
		strings.Repeat("a", 63) + ".b:9": {Host: strings.Repeat("a", 63) + ".b", Port: 9},
	} {
		if got, wrong := parseDestination(text); got != want || wrong != "" {
			t.Errorf("%q: %+v %s, want %+v", text, got, wrong, want)
		}
	}
	for _, bad := range []string{
		"", ":", "a", "a:", ":443", "a:0", "a:65536", "a:-1", "a:+1", "a:01", "a:1_0", "a:99999999999999999999", "a: 1", "a:1 ", "a:https",
		"https://a:443", "user@a:443", "a/b:443", "a?b:443", "a#b:443", "a%2e:443", "a b:443", "a\x00:443", "a\n:443", "a,b:443",
		"*:443", "*.example.com:443", ".a:443", "a.:443", "a..b:443", "-a:443", "a-:443", "bücher.example:443", strings.Repeat("a", 64) + ":443", strings.Repeat("a.", 127) + "a:443",
		"127.1:80", "2130706433:80", "0x7f000001:80", "0x7f.1:80", "0177.0.0.1:80", "1.2.3.4.5:80", "1.2.3.256:80", "1.2.3:80", "a.1:80", "a.0x1:80", "01.2.3.4:80",
		"::1:80", "[::1]", "[::1]80", "[::1]:", "[::1%25eth0]:80", "[fe80::1%eth0]:80", "[::ffff:127.0.0.1]:80", "[1.2.3.4]:80", "[a]:80", "[]:80", "[[::1]]:80",
	} {
		if got, wrong := parseDestination(bad); wrong == "" {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"language":"python","code":"1","env":{"A":"b"},"files":[{"path":"a/b","content":"YQ==","encoding":"base64"}],"limits":{"pids":1},"network":["a:1","[::1]:2"],"input":[{}]}`))
	f.Add([]byte(`{"image":"x","command":["a"],"metadata":{"a":"b"},"tools":["t"],"session":"se_01ARYZ6S41TSV4RRFFQ69G5FAV"}`))
	f.Add([]byte(`{"code":"1","session":"se_01ARYZ6S41TSV4RRFFQ69G5FAV"}`))
	f.Add([]byte(`{"limits":{"pids":1e400}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeRequest(body, mib)
		if err != nil {
			if kind := execution.KindOf(err); kind != execution.KindInvalid && kind != execution.KindTooLarge {
				t.Errorf("error %v", err)
			}
			return
		}
		switch {
		case r.Session != "" && r.Code != "" && len(r.Command) > 0,
			r.Session == "" && (r.Language != "") == (len(r.Command) > 0),
			r.Session == "" && len(r.Command) > 0 && r.Image == "":
			t.Errorf("the request says not one thing: %+v", r)
		}
		for _, d := range execution.AllLimits() {
			if v := *d.Of(&r.Limits); v < 0 || v > d.Max || v == math.MinInt64 {
				t.Errorf("limit %s is %d", d.Name, v)
			}
		}
		for _, file := range r.Files {
			if checkPath(file.Path) != "" {
				t.Errorf("path %q", file.Path)
			}
		}
		if strings.Contains(r.Code+r.Stdin+r.Language+r.Image+r.Runtime, "\x00") {
			t.Error("NUL in text")
		}
		if _, err := r.SHA256(); err != nil {
			t.Errorf("it cannot be digested: %v", err)
		}
	})
}

func FuzzDecodeSession(f *testing.F) {
	f.Add([]byte(`{"language":"python","limits":{"memory_mib":64},"runtime":"runc","metadata":{"agent":"a"}}`))
	f.Add([]byte(`{"image":"node"}`))
	f.Add([]byte(`{"language":"python","code":"1"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeSession(body)
		if err != nil {
			if execution.KindOf(err) != execution.KindInvalid {
				t.Errorf("error %v", err)
			}
			return
		}
		if r.Language == "" && r.Image == "" || r.Session != "" || r.Code != "" || len(r.Command)+len(r.Files)+len(r.Env)+len(r.Network)+len(r.Tools) > 0 {
			t.Errorf("the request is not for a session: %+v", r)
		}
		for _, d := range execution.AllLimits() {
			if v := *d.Of(&r.Limits); v != 0 && (v < d.Min || v > d.Max) {
				t.Errorf("limit %s is %d", d.Name, v)
			}
		}
	})
}

func TestProgramInSession(t *testing.T) {
	const session = `"session":"se_01ARYZ6S41TSV4RRFFQ69G5FAV"`
	for body, pointer := range map[string]string{
		`{` + session + `,"code":"1"}`:                                    "none",
		`{` + session + `,"command":["ls"]}`:                              "none",
		`{` + session + `,"code":"1","language":"python","image":"node"}`: "none",
		`{` + session + `}`:                                               "",
		`{` + session + `,"language":"python"}`:                           "",
		`{` + session + `,"code":"1","command":["ls"]}`:                   "/command",
		`{"code":"1"}`: "/language",
	} {
		_, err := decodeRequest([]byte(body), mib)
		e, _ := errors.AsType[*execution.Error](err)
		switch {
		case pointer == "none" && err != nil:
			t.Errorf("%s: %v", body, err)
		case pointer != "none" && (e == nil || len(e.Fields) != 1 || e.Fields[0].Pointer != pointer):
			t.Errorf("%s: %v, want an error at %q", body, err, pointer)
		}
	}
}

func FuzzDestination(f *testing.F) {
	for _, seed := range []string{"a:1", "[::1]:1", "1.2.3.4:5", "0x7f.1:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, wrong := parseDestination(text)
		if wrong != "" {
			return
		}
		again := fmt.Sprintf("%s:%d", d.Host, d.Port)
		if strings.Contains(d.Host, ":") {
			again = fmt.Sprintf("[%s]:%d", d.Host, d.Port)
		}
		if same, wrong := parseDestination(again); same != d || wrong != "" {
			t.Errorf("%q is %+v, which reads back as %+v %s", text, d, same, wrong)
		}
	})
}

func BenchmarkDecodeRequest(b *testing.B) {
	body := []byte(`{"language":"python","code":"` + strings.Repeat("x = 1\\n", 100) + `","input":{"numbers":[1,2,3]},"limits":{"timeout_ms":1000,"memory_mib":64}}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := decodeRequest(body, mib); err != nil {
			b.Fatal(err)
		}
	}
}
