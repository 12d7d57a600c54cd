package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The key goes to the address that was named and nowhere else.
func TestClientFollowsNoRedirect(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the redirect was followed")
	}))
	defer elsewhere.Close()
	named := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer named.Close()
	t.Setenv(envURL, named.URL)
	t.Setenv(envKey, "ak_secret")
	c, err := newClient()
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.call(t.Context(), http.MethodPost, "/v1/executions", map[string]string{})
	if codeOf(err) != exitUsage || !strings.Contains(err.Error(), elsewhere.URL) {
		t.Errorf("%d %v", codeOf(err), err)
	}
}

func TestAddressOfTheGateway(t *testing.T) {
	t.Setenv(envKey, "ak_secret")
	for address, ok := range map[string]bool{
		"": true, "http://127.0.0.1:8080/": true, "https://gateway.example/execgate": true,
		"gateway.example:8080": false, "ftp://gateway.example": false, "http://": false,
		"http://user:hunter2@gateway.example": false, "http://gateway.example/?key=hunter2": false,
	} {
		t.Setenv(envURL, address)
		_, err := newClient()
		if (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
		if err != nil && (codeOf(err) != exitUsage || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// Whatever stands at the address, the user is told what came of it.
func TestAnswersThatAreNone(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		code   int
	}{
		{http.StatusOK, "<html>", exitFailed},
		{http.StatusAccepted, "{}", exitFailed},
		{http.StatusUnauthorized, "", exitDenied},
		{http.StatusNotFound, "<html>", exitUsage},
		{http.StatusTooManyRequests, "{}", exitBusy},
		{http.StatusInternalServerError, "{}", exitFailed},
		{http.StatusBadGateway, "<html>", exitUnavailable},
		{http.StatusGatewayTimeout, "", exitUnavailable},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			w.Write([]byte(test.body))
		}))
		t.Setenv(envURL, server.URL)
		t.Setenv(envKey, "ak_secret")
		var stdout, stderr strings.Builder
		code := Main(t.Context(), []string{"run"}, strings.NewReader("print(1)"), &stdout, &stderr)
		server.Close()
		if code != test.code || stdout.Len() > 0 || stderr.Len() == 0 || strings.Contains(stderr.String(), "ak_secret") {
			t.Errorf("%d: exit code %d, stdout %q, stderr %q", test.status, code, stdout.String(), stderr.String())
		}
	}
}
