package egress

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

const secret = "hvs.Xk8/pQ+ab\"31\\sZ-token"

func TestCredentialIsSetInPlaceOfEveryDisguise(t *testing.T) {
	store := &lender{fields: map[string]map[string]string{"api": {"token": secret, "note": "x"}}}
	for _, tt := range []struct {
		bind execution.Binding
		name string
		want string
	}{
		{execution.Binding{Mode: "bearer"}, "Authorization", "Bearer " + secret},
		{execution.Binding{Mode: "header", Name: "x-api-key"}, "X-Api-Key", secret},
	} {
		for _, http2 := range []bool{false, true} {
			s := newSandbox(t, Config{Credentials: store}, nil)
			s.bind("api", tt.bind)
			r := request(t, "GET", s.url("/"), "")
			for _, name := range []string{tt.name, strings.ToUpper(tt.name), strings.ToLower(tt.name), strings.ReplaceAll(tt.name, "-", "_"), strings.ReplaceAll(tt.name, "-", "."), strings.ReplaceAll(tt.name, "-", "!")} {
				r.Header[name] = append(r.Header[name], "mine", "mine too")
			}
			res, body := s.do(s.client(http2), r)
			if res.StatusCode != 200 {
				t.Fatalf("%s: %s", res.Status, body)
			}
			header := s.requests()[0].Header
			for name, values := range header {
				if isForm(name, tt.name) && (name != tt.name || len(values) != 1 || values[0] != tt.want) {
					t.Errorf("%s: %q", name, values)
				}
			}
			if header.Get(tt.name) != tt.want {
				t.Errorf("%s is not set: %v", tt.name, header)
			}
			if strings.Contains(body, "Xk8/pQ") {
				t.Errorf("it has come back: %s", body)
			}
		}
	}
	for _, use := range store.uses {
		if use != "exec_1 api" {
			t.Errorf("asked for %s", use)
		}
	}
}

// Whatever Connection names, the header that is set is set, and trailers are dropped.
func TestCredentialIsNotNamedAway(t *testing.T) {
	s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"api": {"token": secret}}}}, nil)
	s.bind("api", execution.Binding{Mode: "bearer"})
	s.raw("POST / HTTP/1.1\r\nHost: $HOST\r\nConnection: close, Authorization\r\nAuthorization: Bearer mine\r\nTrailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAuthorization: Bearer mine\r\n\r\n")
	got := s.requests()[0]
	if diff := cmp.Diff([]string{"Bearer " + secret}, got.Header["Authorization"]); diff != "" || len(got.Trailer) > 0 {
		t.Errorf("%s, trailer %v", diff, got.Trailer)
	}
}

func TestBasicAndQuery(t *testing.T) {
	store := &lender{fields: map[string]map[string]string{"db": {"username": "user", "password": secret}, "key": {"value": secret}}}
	s := newSandbox(t, Config{Credentials: store}, nil)
	s.bind("db", execution.Binding{Mode: "basic", Paths: []string{"/basic"}})
	s.bind("key", execution.Binding{Mode: "query", Name: "api_key", Paths: []string{"/query"}})
	c := s.client(false)
	_, body := s.do(c, request(t, "GET", s.url("/basic"), ""))
	if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+secret)); s.requests()[0].Header.Get("Authorization") != want || strings.Contains(body, want) {
		t.Errorf("%v, answered %s", s.requests()[0].Header, body)
	}
	_, body = s.do(c, request(t, "GET", s.url("/query?a=b&api_key=x&API_KEY=y&api%5Fkey=z&api%255fkey=w&api_key%5B%5D=v&api.key=u&c"), ""))
	if want := "/query?a=b&c&api_key=" + url.QueryEscape(secret); s.requests()[1].URI != want || strings.Contains(body, url.QueryEscape(secret)) {
		t.Errorf("received %s, want %s; answered %s", s.requests()[1].URI, want, body)
	}
	res, body := s.do(c, request(t, "GET", s.url("/query?a=b;api_key=x"), ""))
	if p := problemIn(t, res, body); p.Code != codeQueryInvalid {
		t.Errorf("%+v", p)
	}
	s.do(c, request(t, "GET", s.url("/neither"), ""))
	if h := s.requests()[2].Header; h.Get("Authorization") != "" || len(store.uses) != 3 {
		t.Errorf("%v, uses %v", h, store.uses)
	}
	if got := s.log.all()[0].EgressDecided.Binding; got != "db" {
		t.Errorf("recorded is the binding %q", got)
	}
	for _, r := range s.log.all() {
		if d := r.EgressDecided; d != nil && strings.Contains(d.Path, "?") {
			t.Errorf("recorded is the path %s", d.Path)
		}
	}
}

func TestBindingIsExact(t *testing.T) {
	cred := func(tool string, binds ...execution.Binding) execution.Credential {
		return execution.Credential{Tool: tool, Inject: execution.InjectEgress, Bind: binds}
	}
	d := destination{host: "api.test", port: 443}
	tight := execution.Binding{Host: "api.test", Port: 443, Methods: []string{"GET"}, Paths: []string{"/v1/*"}}
	other := execution.Binding{Host: "api.test", Port: 443, Paths: []string{"/v1/x"}}
	for name, tt := range map[string]struct {
		credentials []execution.Credential
		d           destination
		q           question
		tool, code  string
	}{
		"matches":                    {[]execution.Credential{cred("a", tight)}, d, question{method: "GET", path: "/v1/x", tls: true}, "a", ""},
		"another method":             {[]execution.Credential{cred("a", tight)}, d, question{method: "PUT", path: "/v1/x", tls: true}, "", ""},
		"another path":               {[]execution.Credential{cred("a", tight)}, d, question{method: "GET", path: "/v2/x", tls: true}, "", ""},
		"another port":               {[]execution.Credential{cred("a", tight)}, destination{host: "api.test", port: 8443}, question{method: "GET", path: "/v1/x", tls: true}, "", ""},
		"a name below":               {[]execution.Credential{cred("a", tight)}, destination{host: "x.api.test", port: 443}, question{method: "GET", path: "/v1/x", tls: true}, "", ""},
		"two credentials":            {[]execution.Credential{cred("a", tight), cred("b", other)}, d, question{method: "GET", path: "/v1/x", tls: true}, "", codeAmbiguous},
		"two bindings of one":        {[]execution.Credential{cred("a", tight, other)}, d, question{method: "GET", path: "/v1/x", tls: true}, "", codeAmbiguous},
		"two, one matches":           {[]execution.Credential{cred("a", tight), cred("b", other)}, d, question{method: "GET", path: "/v1/y", tls: true}, "a", ""},
		"without TLS":                {[]execution.Credential{cred("a", tight)}, d, question{method: "GET", path: "/v1/x"}, "", codeNeedsTLS},
		"without TLS, private":       {[]execution.Credential{cred("a", tight)}, destination{"api.test", 443, execution.NetworkRule{Private: true}}, question{method: "GET", path: "/v1/x"}, "a", ""},
		"one that the program holds": {[]execution.Credential{{Tool: "a", Inject: execution.InjectEnv, Bind: []execution.Binding{tight}}}, d, question{method: "GET", path: "/v1/x", tls: true}, "", ""},
	} {
		if got, code := choose(tt.credentials, tt.d, tt.q); got.tool != tt.tool || code != tt.code {
			t.Errorf("%s: %q %q, want %q %q", name, got.tool, code, tt.tool, tt.code)
		}
	}
}

// A request that a credential is bound to does not leave without it.
func TestNoRequestLeavesWithoutItsCredential(t *testing.T) {
	for name, tt := range map[string]struct {
		store Credentials
		mode  execution.Binding
		code  string
	}{
		"no store":          {nil, execution.Binding{Mode: "bearer"}, codeNoCredential},
		"it fails":          {&lender{err: errors.New("vault: permission denied on kv/" + secret)}, execution.Binding{Mode: "bearer"}, codeNoCredential},
		"no field":          {&lender{fields: map[string]map[string]string{"api": {}}}, execution.Binding{Mode: "bearer"}, codeBadCredential},
		"which field":       {&lender{fields: map[string]map[string]string{"api": {"a": secret, "b": secret}}}, execution.Binding{Mode: "bearer"}, codeBadCredential},
		"CR and LF":         {&lender{fields: map[string]map[string]string{"api": {"token": "long enough\r\nX-Evil: yes"}}}, execution.Binding{Mode: "bearer"}, codeBadCredential},
		"LF, of basic":      {&lender{fields: map[string]map[string]string{"api": {"username": "u", "password": "long\nenough"}}}, execution.Binding{Mode: "basic"}, codeBadCredential},
		"NUL, of a query":   {&lender{fields: map[string]map[string]string{"api": {"token": "long\x00enough"}}}, execution.Binding{Mode: "query", Name: "k"}, codeBadCredential},
		"too short to mask": {&lender{fields: map[string]map[string]string{"api": {"token": "short"}}}, execution.Binding{Mode: "bearer"}, codeBadCredential},
		"an unknown mode":   {&lender{fields: map[string]map[string]string{"api": {"token": secret}}}, execution.Binding{Mode: "cookie"}, codeBindingInvalid},
		"no mode":           {&lender{fields: map[string]map[string]string{"api": {"token": secret}}}, execution.Binding{}, codeBindingInvalid},
		"the header Host":   {&lender{fields: map[string]map[string]string{"api": {"token": secret}}}, execution.Binding{Mode: "header", Name: "host"}, codeBindingInvalid},
		"no header":         {&lender{fields: map[string]map[string]string{"api": {"token": secret}}}, execution.Binding{Mode: "header", Name: "a b"}, codeBindingInvalid},
	} {
		s := newSandbox(t, Config{Credentials: tt.store}, nil)
		s.bind("api", tt.mode)
		res, body := s.do(s.client(false), request(t, "GET", s.url("/"), ""))
		if p := problemIn(t, res, body); p.Code != tt.code || p.Status/100 != 5 || strings.Contains(body, secret) {
			t.Errorf("%s: %s", name, body)
		}
		if len(s.requests()) > 0 {
			t.Errorf("%s: a request has left", name)
		}
		if codes := s.log.codes(); len(codes) != 2 || codes[1] != "end "+tt.code {
			t.Errorf("%s: recorded %v", name, codes)
		}
	}
}

func TestSignatureVersion4(t *testing.T) {
	keys := map[string]string{"access_key": "AKIDEXAMPLE", "secret_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "security_token": "session-token-of-some-length"}
	s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"aws": keys}}}, nil)
	s.bind("aws", execution.Binding{Mode: "sigv4", Name: "s3/eu-west-1"})
	r := request(t, "PUT", s.url("/bucket/key%20x?b=2&a=1&X-Amz-Signature=mine"), "hello")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=placeholder/...")
	r.Header.Set("X-Amz-Date", "19700101T000000Z")
	r.Header.Set("X-Amz-Security-Token", "mine")
	res, body := s.do(s.client(true), r)
	if res.StatusCode != 200 {
		t.Fatalf("%s: %s", res.Status, body)
	}
	got := s.requests()[0]
	at, err := time.Parse("20060102T150405Z", got.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at) > patience {
		t.Fatalf("signed at %q: %v", got.Header.Get("X-Amz-Date"), err)
	}
	// The same request, signed anew: whoever verifies a signature does that.
	again, err := http.NewRequestWithContext(context.Background(), got.Method, "https://"+got.Host+got.URI, strings.NewReader(got.Body))
	if err != nil {
		t.Fatal(err)
	}
	authorization := got.Header.Get("Authorization")
	_, signed, _ := strings.Cut(authorization, "SignedHeaders=")
	signed, _, _ = strings.Cut(signed, ",")
	for name := range strings.SplitSeq(signed, ";") {
		if name != "host" && name != "content-length" {
			again.Header[http.CanonicalHeaderKey(name)] = got.Header[http.CanonicalHeaderKey(name)]
		}
	}
	fields := map[string]execution.Secret{}
	for name, value := range keys {
		fields[name] = execution.NewSecret(value)
	}
	if _, code := sign(t.Context(), again, execution.Binding{Name: "s3/eu-west-1"}, fields, at); code != "" {
		t.Fatal(code)
	}
	if again.Header.Get("Authorization") != authorization {
		t.Errorf("signed %s, and anew %s", authorization, again.Header.Get("Authorization"))
	}
	if !strings.HasPrefix(authorization, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"+at.Format("20060102")+"/eu-west-1/s3/aws4_request") ||
		got.Header.Get("X-Amz-Security-Token") != keys["security_token"] || strings.Contains(got.URI, "Signature") || got.Body != "hello" {
		t.Errorf("received: %+v", got)
	}
	if strings.Contains(body, keys["security_token"]) {
		t.Errorf("it has come back: %s", body)
	}
	if !strings.Contains(body, "Credential=AKIDEXAMPLE/") {
		t.Errorf("the name of the key is no secret, and was taken out: %s", body)
	}
	r = request(t, "PUT", s.url("/bucket/key"), "hello")
	r.Header.Set(hashHeader, "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
	res, body = s.do(s.client(true), r)
	if p := problemIn(t, res, body); p.Code != codeUnsigned || p.Status != 413 {
		t.Errorf("%+v", p)
	}
}

// Whatever a program has signed with is gone, in every disguise, and also what its keys
// have and those that are lent have not.
func TestSignatureIsInPlaceOfEveryDisguise(t *testing.T) {
	keys := map[string]string{"access_key": "AKIDEXAMPLE", "secret_key": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	s := newSandbox(t, Config{Credentials: &lender{fields: map[string]map[string]string{"aws": keys}}}, nil)
	s.bind("aws", execution.Binding{Mode: "sigv4", Name: "sqs/eu-west-1"})
	r := request(t, "POST", s.url("/queue"), "hello")
	for _, name := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token", hashHeader, "Date"} {
		for _, form := range []string{name, strings.ToLower(name), strings.ReplaceAll(name, "-", "_")} {
			r.Header[form] = []string{"mine"}
		}
	}
	res, body := s.do(s.client(false), r)
	if res.StatusCode != 200 {
		t.Fatalf("%s: %s", res.Status, body)
	}
	for name, values := range s.requests()[0].Header {
		if strings.Contains(fmt.Sprint(values), "mine") {
			t.Errorf("received %s: %q", name, values)
		}
	}
}

// The scope of a request of AWS's own documentation is told by its host.
func TestScopeIsToldByTheHost(t *testing.T) {
	r := request(t, "GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", "")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	fields := map[string]execution.Secret{
		"access_key": execution.NewSecret("AKIDEXAMPLE"), "secret_key": execution.NewSecret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
	}
	if _, code := sign(t.Context(), r, execution.Binding{}, fields, time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)); code != "" {
		t.Fatal(code)
	}
	if got := r.Header.Get("Authorization"); !strings.HasPrefix(got, "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date, Signature=") {
		t.Errorf("signed: %s", got)
	}
}

func TestScopeOfASignature(t *testing.T) {
	for _, tt := range []struct{ name, host, want string }{
		{"", "s3.eu-west-1.amazonaws.com", "s3 eu-west-1 true"},
		{"", "bucket.s3.us-gov-west-1.amazonaws.com", "s3 us-gov-west-1 true"},
		{"", "sts.amazonaws.com", "sts us-east-1 true"},
		{"", "dynamodb.cn-north-1.amazonaws.com.cn", "dynamodb cn-north-1 true"},
		{"", "eu-west-1.amazonaws.com", "  false"},
		{"", "amazonaws.com.evil.test", "  false"},
		{"bedrock/us-east-1", "proxy.internal.test", "bedrock us-east-1 true"},
		{"bedrock", "bedrock.us-east-1.amazonaws.com", "bedrock  false"},
	} {
		service, region, ok := awsScope(execution.Binding{Name: tt.name}, tt.host)
		if got := fmt.Sprint(service, " ", region, " ", ok); got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.name, tt.host, got, tt.want)
		}
	}
}
