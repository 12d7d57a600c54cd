package main

import (
	"bytes"
	"strings"
	"testing"
)

const entry = `"runsc": {
      "path": "/opt/runsc",
      "runtimeArgs": [
        "--platform=systrap"
      ]
    }`

func TestRegister(t *testing.T) {
	alone := "{\n  \"runtimes\": {\n    " + entry + "\n  }\n}\n"
	for name, c := range map[string]struct{ config, want string }{
		"no file":      {"", alone},
		"an empty one": {" \n", alone},
		"no settings":  {"{}", alone},
		"an old entry": {`{"runtimes":{"runsc":{"path":"/old","runtimeArgs":["--debug"]}}}`, alone},
		"other settings stay": {
			`{"runtimes":{"kata":{"path":"/kata"}},"log-opts":{"max-size":"1m"},"mtu":9007199254740993}`,
			"{\n  \"log-opts\": {\n    \"max-size\": \"1m\"\n  },\n  \"mtu\": 9007199254740993,\n  \"runtimes\": {\n    \"kata\": {\n      \"path\": \"/kata\"\n    },\n    " + entry + "\n  }\n}\n",
		},
	} {
		var out bytes.Buffer
		if err := run([]string{"/opt/runsc"}, strings.NewReader(c.config), &out); err != nil || out.String() != c.want {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}

// A file that cannot be understood is left alone.
func TestRegisterRefuses(t *testing.T) {
	for _, config := range []string{"{", "[]", "null", `{"runtimes":[]}`, `{"runtimes":null}`, "{} {}"} {
		var out bytes.Buffer
		if err := run([]string{"/opt/runsc"}, strings.NewReader(config), &out); err == nil || out.Len() > 0 {
			t.Errorf("%s: %v, wrote %q", config, err, out.String())
		}
	}
	for _, args := range [][]string{nil, {"runsc"}, {"/a", "/b"}} {
		if err := run(args, strings.NewReader(""), &bytes.Buffer{}); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
