package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// attacksOfAProgram are said over raw sockets: what a client library would refuse to
// say, or mend. The host and port of the API are to be put in.
const attacksOfAProgram = `
import json, re, socket, ssl

HOST, PORT = %q, %d
AUTHORITY = f"{HOST}:{PORT}"

def say(text, sni=HOST, host=HOST, secured=True):
    said = b"" # what was said before the end of a connection counts, however that comes
    try:
        with socket.create_connection((host, PORT), 60) as s:
            if secured:
                context = ssl.create_default_context()
                context.set_alpn_protocols(["http/1.1"])
                context.check_hostname = sni is not None
                s = context.wrap_socket(s, server_hostname=sni)
            s.settimeout(60)
            s.sendall(text.replace("$AUTHORITY", AUTHORITY).encode("latin-1"))
            while piece := s.recv(65536):
                said += piece
    except (OSError, ssl.SSLError) as refused:
        said += type(refused).__name__.encode()
    return said.decode("latin-1")

def told(text, **how):
    said = say(text, **how)
    return re.findall(r'"code":"(\w+)"', said) or re.findall(r"HTTP/1.1 (\d+)", said) or ["nothing"]

def get(target="/reports/7", authority="$AUTHORITY", more=""):
    return f"GET {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n{more}\r\n"

def post(more, body):
    return get(more=more).replace("GET", "POST") + body

result = {
    "another SNI": told(get(), sni="evil.example"),
    "no SNI": told(get(), sni=None),
    "no TLS": told(get(), secured=False),
    "no protocol that is known": told("\x00\x01\x02\x03 hello", secured=False),
    "another Host": told(get(authority="evil.example")),
    "an address as Host": told(get(authority="127.0.0.1")),
    "absolute form": told(get(target="https://evil.example/reports/7")),
    "two Hosts": told(get(more="Host: evil.example\r\n")),
    "length and chunks": told(post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
    "bare LF": told(get(more="X-A: b\nX-C: d\r\n")),
    "bare CR": told(get(more="X-A: b\rX-C: d\r\n")),
    "folded": told(get(more="X-A: b\r\n c\r\n")),
    "CONNECT": told("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n"),
    "TRACE": told(get().replace("GET", "TRACE")),
    "method override": told(get(more="X-HTTP-Method-Override: DELETE\r\n")),
    "path by a header": told(get(more="X-Original-URL: /admin\r\n")),
    "h2c": told(get().replace("close", "Upgrade, HTTP2-Settings") .replace("\r\n\r\n", "\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")),
    "WebSocket": told(get().replace("close", "Upgrade").replace("\r\n\r\n", "\r\nUpgrade: websocket\r\n\r\n")),
    "climbing": told(get(target="/reports/../admin")),
    "climbing, escaped": told(get(target="/reports/%%2e%%2e/admin")),
    "an escaped slash": told(get(target="/reports/..%%2fadmin")),
    "a backslash": told(get(target="/reports/..\\admin")),
    "another path": told(get(target="/admin")),
    "another method": told(get().replace("GET", "DELETE")),
    "a name that is not granted": told(get(authority=f"evil.example:{PORT}"), sni="evil.example", host="evil.example"),
    "pipelined": told(get().replace("Connection: close\r\n", "") + get(authority="evil.example")),
}
redirect = say(get(target="/reports/elsewhere", more="Authorization: Bearer mine\r\nauthorization: Bearer mine\r\n"))
result["redirect"] = [line for line in redirect.split("\r\n") if line.startswith(("HTTP", "Location"))]
result["allowed"] = told(get())
`

// What a program can say to get a request out that policy did not grant, or the key to
// where it does not belong, is refused in words from inside a real sandbox too, recorded,
// and never reaches the destination.
func TestAttacksFromInside(t *testing.T) {
	t.Parallel()
	for _, runtime := range []string{"runc", "runsc"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			needsRuntime(t, runtime)
			attacksFromInside(t, runtime)
		})
	}
}

func attacksFromInside(t *testing.T, runtime string) {
	l, u := startBrokering(t, brokering{tools: codeUsesReports, granted: []string{"reports-api"}, runtime: runtime})
	e := l.execute(python(fmt.Sprintf(attacksOfAProgram, apiHost, u.port), fmt.Sprintf(`"tools": ["reports-api"], "network": ["%s:%d"]`, apiHost, u.port))).ok(t)
	var told map[string][]string
	if err := json.Unmarshal(e.Result, &told); err != nil {
		t.Fatalf("%v: %+v", err, e)
	}
	one := func(code string) []string { return []string{code} }
	want := map[string][]string{
		"another SNI": one("sni_mismatch"), "no SNI": one("sni_missing"), "no TLS": one("tls_required"), "no protocol that is known": one("nothing"),
		"another Host": one("host_mismatch"), "an address as Host": one("host_mismatch"), "absolute form": one("host_mismatch"), "two Hosts": one("host_repeated"),
		"length and chunks": one("framing_ambiguous"), "bare LF": one("line_end_invalid"), "bare CR": one("line_end_invalid"), "folded": one("header_folded"),
		"CONNECT": one("method_refused"), "TRACE": one("method_refused"), "method override": one("method_override_refused"), "path by a header": one("target_override_refused"),
		"h2c": one("upgrade_refused"), "WebSocket": one("websocket_not_granted"),
		"climbing": one("path_ambiguous"), "climbing, escaped": one("path_ambiguous"), "an escaped slash": one("path_ambiguous"), "a backslash": one("path_ambiguous"),
		"another path": one("path_not_granted"), "another method": one("method_not_granted"), "a name that is not granted": one("network_not_granted"),
		"pipelined": one("host_mismatch"), "allowed": one("200"),
		"redirect": {"HTTP/1.1 302 Found", "Location: https://evil.example/?key=[redacted]"},
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	// The first of the two that were pipelined, the redirect, and the last.
	if keys := u.seen(); !slices.Equal(keys, slices.Repeat([]string{"Bearer " + apiKey}, 3)) {
		t.Errorf("the API was sent %q", keys)
	}
	var denied, allowed int
	for _, r := range l.recordsOf(execution.RecordEgressDecided) {
		switch d := r.EgressDecided; {
		case d.Effect == execution.EffectAllow && d.Host == apiHost && strings.HasPrefix(d.Path, "/reports/") && d.Binding == "reports-api":
			allowed++
		case d.Effect == execution.EffectDeny && d.Code != "":
			denied++
		default:
			t.Errorf("recorded %+v", d)
		}
	}
	if allowed != 3 || denied != len(want)-2 {
		t.Errorf("recorded: %d allowed, %d denied", allowed, denied)
	}
	l.endsWithout(t, apiKey)
}

// A key that a tool has left at its destination is scrubbed where the program that called
// the tool reads it by itself, without any.
func TestKeyThatAToolLeftBehind(t *testing.T) {
	t.Parallel()
	l, u := startBrokering(t, brokering{tools: toolsOfReports, granted: []string{"report"}, rules: []any{toolsInside}})
	code := fmt.Sprintf(`
import urllib.request
urllib.request.urlopen("http://tools.execgate/report", b'{"id": "1"}').read()
print(urllib.request.urlopen("https://%s:%d/reports/left").read().decode())
`, apiHost, u.port)
	e := l.execute(python(code, fmt.Sprintf(`"network": ["tools.execgate:80", "%s:%d"]`, apiHost, u.port))).ok(t)
	if e.Stdout != "Bearer [redacted]\n" {
		t.Errorf("%+v", e)
	}
	if keys := u.seen(); !slices.Equal(keys, []string{"Bearer " + apiKey, ""}) {
		t.Errorf("the API was sent %q", keys)
	}
	l.endsWithout(t, apiKey)
}
