package egress

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
)

// Each of these requests is answered with a problem, and nothing of it leaves.
func TestAttacksAreRefusedInWords(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	s.job.Grant.Network.Rules = []execution.NetworkRule{
		{Host: "api.test", Ports: []int{s.to.Port}, Private: true, Mode: execution.NetworkIntercept, Methods: []string{"GET", "POST", "OPTIONS"}, Paths: []string{"/v1/*", "/"}},
	}
	get := func(target string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\n\r\n"
	}
	with := func(lines string) string {
		return "POST /v1/x HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\n" + lines + "\r\n"
	}
	for name, tt := range map[string]struct{ raw, code string }{
		"another host":                {strings.Replace(get("/v1/x"), "$HOST", "evil.test", 1), codeHostMismatch},
		"another port":                {strings.Replace(get("/v1/x"), "$HOST", "api.test:1", 1), codeHostMismatch},
		"the default port, unsaid":    {strings.Replace(get("/v1/x"), "$HOST", "api.test", 1), codeHostMismatch},
		"userinfo in Host":            {strings.Replace(get("/v1/x"), "$HOST", "api.test@$HOST", 1), codeHostMismatch},
		"an address as Host":          {strings.Replace(get("/v1/x"), "$HOST", "127.0.0.1", 1), codeHostMismatch},
		"absolute form, another host": {get("http://evil.test/v1/x"), codeHostMismatch},
		"absolute form, userinfo":     {get("https://a@$HOST/v1/x"), codeHostMismatch},
		"both name another":           {strings.Replace(get("https://evil.test/v1/x"), "$HOST", "evil.test", 1), codeHostMismatch},
		"two Hosts":                   {with("Host: $HOST\r\n"), codeHostRepeated},
		"two Hosts that differ":       {with("host: evil.test\r\n"), codeHostRepeated},
		"no Host":                     {"GET /v1/x HTTP/1.1\r\nConnection: close\r\n\r\n", codeHostMissing},
		"an empty Host":               {"GET /v1/x HTTP/1.1\r\nHost:\r\n\r\n", codeHostMissing},
		"length and chunks":           {with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n", codeFraming},
		"two lengths":                 {with("Content-Length: 5\r\nContent-Length: 5\r\n") + "hello", codeFraming},
		"a length with a sign":        {with("Content-Length: +5\r\n") + "hello", codeFraming},
		"a length of two":             {with("Content-Length: 5, 5\r\n") + "hello", codeFraming},
		"another encoding":            {with("Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n", codeFraming},
		"a disguised encoding":        {with("Transfer-Encoding: xchunked\r\n") + "0\r\n\r\n", codeFraming},
		"chunks in HTTP/1.0":          {"POST /v1/x HTTP/1.0\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", codeFraming},
		"bare LF":                     {"GET /v1/x HTTP/1.1\nHost: $HOST\n\n", codeLineEnd},
		"bare LF amid":                {with("X-A: b\nX-C: d\r\n"), codeLineEnd},
		"bare CR":                     {with("X-A: b\rX-C: d\r\n"), codeLineEnd},
		"a folded header":             {with("X-A: b\r\n c\r\n"), codeFolded},
		"a folded header, by a tab":   {with("X-A: b\r\n\tc\r\n"), codeFolded},
		"a space before the colon":    {with("Content-Length : 5\r\n") + "hello", codeHeaderInvalid},
		"a NUL in a header":           {with("X-A: b\x00c\r\n"), codeHeaderInvalid},
		"the gateway's own header":    {with(refusedHeader + ": path_invalid\r\n"), codeHeaderInvalid},
		"an expectation":              {with("Expect: 200-ok\r\n"), codeHeaderInvalid},
		"a long head":                 {with("X-A: " + strings.Repeat("a", maxHead) + "\r\n"), codeHeadTooLarge},
		"many headers":                {with(strings.Repeat("A: b\r\n", maxFields+1)), codeHeadTooLarge},
		"HTTP/2 said in HTTP/1.1":     {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", codeProtocol},
		"HTTP/0.9":                    {"GET /v1/x\r\n\r\n", codeRequestInvalid},
		"a space in the target":       {get("/v1/x y"), codeRequestInvalid},
		"a fragment":                  {get("/v1/x#y"), codeRequestInvalid},
		"TRACE":                       {strings.Replace(get("/v1/x"), "GET", "TRACE", 1), codeMethodRefused},
		"TRACK":                       {strings.Replace(get("/v1/x"), "GET", "TRACK", 1), codeMethodRefused},
		"CONNECT":                     {"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", codeMethodRefused},
		"a method in lower case":      {strings.Replace(get("/v1/x"), "GET", "get", 1), codeMethodRefused},
		"a method that is not open":   {strings.Replace(get("/v1/x"), "GET", "DELETE", 1), codeMethodNotOpen},
		"method override":             {with("X-HTTP-Method-Override: DELETE\r\n"), codeMethodOverride},
		"method override, underscore": {with("x_http_method: DELETE\r\n"), codeMethodOverride},
		"method override, by a dot":   {with("X.HTTP.Method.Override: DELETE\r\n"), codeMethodOverride},
		"another path by a header":    {with("X-Original-URL: /v2/x\r\n"), codeTargetOverride},
		"another path, underscore":    {with("x_rewrite_url: /v2/x\r\n"), codeTargetOverride},
		"another host by a header":    {with("X-Forwarded-Host: evil.test\r\n"), codeTargetOverride},
		"another host, Forwarded":     {with("Forwarded: host=evil.test\r\n"), codeTargetOverride},
		"upgrade to h2c":              {with("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"), codeUpgradeRefused},
		"HTTP2-Settings alone":        {with("HTTP2-Settings: AAMAAABkAAQAAP__\r\n"), codeUpgradeRefused},
		"upgrade to a WebSocket":      {"GET /v1/x HTTP/1.1\r\nHost: $HOST\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n", codeSocketNotOpen},
		"two upgrades":                {"GET /v1/x HTTP/1.1\r\nHost: $HOST\r\nUpgrade: websocket, h2c\r\nConnection: Upgrade\r\n\r\n", codeUpgradeRefused},
		"a WebSocket with a body":     {"GET /v1/x HTTP/1.1\r\nHost: $HOST\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\nhello", codeUpgradeRefused},
		"a WebSocket, HTTP2-Settings": {"GET /v1/x HTTP/1.1\r\nHost: $HOST\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", codeUpgradeRefused},
		"a WebSocket by POST":         {"POST /v1/x HTTP/1.1\r\nHost: $HOST\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", codeUpgradeRefused},
		"a path that is not open":     {get("/v2/x"), codePathNotOpen},
		"a path that ends too early":  {get("/v1"), codePathNotOpen},
		"a path in another case":      {get("/V1/x"), codePathNotOpen},
		"climbing":                    {get("/v1/../v2"), codePathAmbiguous},
		"climbing, escaped":           {get("/v1/%2e%2E/v2"), codePathAmbiguous},
		"climbing, half escaped":      {get("/v1/.%2e/v2"), codePathAmbiguous},
		"climbing, escaped twice":     {get("/v1/%252e%252e/v2"), codePathAmbiguous},
		"climbing, absolute form":     {get("https://$HOST/v1/../v2"), codePathAmbiguous},
		"a dot":                       {get("/v1/./x"), codePathAmbiguous},
		"a dot at the end":            {get("/v1/."), codePathAmbiguous},
		"two slashes":                 {get("/v1//x"), codePathAmbiguous},
		"two slashes first":           {get("//evil.test/v1/x"), codePathAmbiguous},
		"an escaped slash":            {get("/v1/..%2fv2"), codePathAmbiguous},
		"a semicolon":                 {get("/v1/x;y"), codePathAmbiguous},
		"an escaped semicolon":        {get("/v1/x%3by"), codePathAmbiguous},
		"a backslash":                 {get(`/v1/..\v2`), codePathAmbiguous},
		"an escaped backslash":        {get("/v1/..%5cv2"), codePathAmbiguous},
		"an escaped NUL":              {get("/v1/x%00"), codePathAmbiguous},
		"an escaped line end":         {get("/v1/x%0d%0aHost:%20evil"), codePathAmbiguous},
		"an escape that is none":      {get("/v1/%zz"), codePathInvalid},
		"an asterisk":                 {"OPTIONS * HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\n\r\n", codePathInvalid},
		"no path":                     {get("v1/x"), codeHostMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.log.all())
			text := s.raw(tt.raw)
			res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), nil)
			if err != nil {
				t.Fatalf("%v: %.300q", err, text)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if p := problemIn(t, res, string(body)); p.Code != tt.code || p.Host != "api.test" || p.Port != s.to.Port {
				t.Errorf("%+v, want the code %s", p, tt.code)
			}
			records := s.log.all()[before:]
			if len(records) != 1 || records[0].EgressDecided == nil || records[0].EgressDecided.Code != tt.code {
				t.Errorf("recorded: %+v", records)
			}
		})
	}
	if got := s.requests(); len(got) > 0 {
		t.Errorf("%d requests have left: %+v", len(got), got[0])
	}
}

// A request that is pipelined behind one that is open is decided like any other.
func TestPipelinedRequestToAnotherPlace(t *testing.T) {
	s := newSandbox(t, Config{}, nil)
	s.rule().Paths = []string{"/v1/*"}
	text := s.raw("GET /v1/a HTTP/1.1\r\nHost: $HOST\r\n\r\nGET /v1/b HTTP/1.1\r\nHost: evil.test\r\n\r\nGET /v1/c HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\n\r\n")
	if strings.Count(text, "HTTP/1.1 200") != 2 || strings.Count(text, codeHostMismatch) != 1 {
		t.Errorf("answered: %s", text)
	}
	if got := s.requests(); len(got) != 2 || got[0].URI != "/v1/a" || got[1].URI != "/v1/c" {
		t.Errorf("received: %+v", got)
	}
}

// What comes behind a body is a request by the one length that the body has.
func TestNothingIsSmuggledInABody(t *testing.T) {
	inner := "GET /v2/secret HTTP/1.1\r\nHost: evil.test\r\n\r\n"
	s := newSandbox(t, Config{}, nil)
	text := s.raw("POST /v1/a HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2c\r\n" + inner[:44] + "\r\n0\r\nX-Trailer: dropped\r\n\r\n" + inner)
	got := s.requests()
	if len(got) != 1 || got[0].Body != inner[:44] || len(got[0].Trailer) > 0 || !strings.Contains(text, "200 OK") {
		t.Errorf("received %+v, answered %s", got, text)
	}
}

func TestMalformedChunksEndTheRequest(t *testing.T) {
	for name, chunks := range map[string]string{
		"bare LF":            "5\nhello\r\n0\r\n\r\n",
		"an extension":       "5;a=b\r\nhello\r\n0\r\n\r\n",
		"a sign":             "+5\r\nhello\r\n0\r\n\r\n",
		"hex with a prefix":  "0x5\r\nhello\r\n0\r\n\r\n",
		"no end of a chunk":  "5\r\nhelloX\r\n0\r\n\r\n",
		"too long a number":  "00000000000000000000005\r\nhello\r\n0\r\n\r\n",
		"a trailer, folded":  "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
		"a long trailer":     "5\r\nhello\r\n0\r\nA: " + strings.Repeat("a", maxTrailer) + "\r\n\r\n",
		"a trailer, no name": "5\r\nhello\r\n0\r\n: b\r\n\r\n",
	} {
		s := newSandbox(t, Config{}, nil)
		text := s.raw("POST /v1/a HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
		if strings.Contains(text, "200 OK") {
			t.Errorf("%s: answered %s", name, text)
		}
		if codes := s.log.codes(); len(codes) != 2 || codes[1] != "end "+codeBodyInvalid {
			t.Errorf("%s: recorded %v", name, codes)
		}
	}
}
