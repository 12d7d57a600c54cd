package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A secret stands in the gateway's memory and where its owner put it: never in
// the log of the process, the audit log, the store, a container, or an answer.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	g := startGateway(t, map[string]string{"EXECGATE_LOG_LEVEL": "debug", "EXECGATE_REQUESTS_DRAIN_MS": "60000"})
	made := g.request(http.MethodPost, "/v1/keys", `{"tenant":"default","roles":["caller"]}`)
	if made.status != http.StatusCreated {
		t.Fatalf("%d %s", made.status, made.body)
	}
	created := keyOf(t, made)
	authorization := "Bearer " + created
	secrets := []string{g.key(), created}
	for _, key := range secrets[:2] {
		_, secret, _ := strings.Cut(key, ".")
		secrets = append(secrets, secret)
	}
	places := map[string]string{}

	answer := g.post(sleeps)
	c := g.waitContainers(1)[0]
	places["docker inspect"] = string(inspect(t, c.ID))
	for what, r := range map[string]reply{
		"the answer":             g.request(http.MethodPost, "/v1/executions", python("import os\nprint(dict(os.environ))"), "Authorization", authorization),
		"the answer of a denial": g.request(http.MethodPost, "/v1/executions", python("1", `"tools":["github"]`), "Authorization", authorization),
		"a wrong body":           g.request(http.MethodPost, "/v1/executions", `{"language":"python","code":1}`, "Authorization", authorization),
		"a wrong key":            g.request(http.MethodPost, "/v1/executions", python("1"), "Authorization", authorization+"x"),
		"a wrong scheme":         g.request(http.MethodPost, "/v1/executions", python("1"), "Authorization", "Basic "+created),
		"a missing role":         g.request(http.MethodGet, "/v1/keys", "", "Authorization", authorization),
		"the list of keys":       g.request(http.MethodGet, "/v1/keys", ""),
		"a key in the path":      g.request(http.MethodDelete, "/v1/keys/"+created[:20], ""),
		"a key in the query":     g.request(http.MethodGet, "/v1/keys?key="+created, ""),
		"/readyz":                g.request(http.MethodGet, "/readyz", ""),
	} {
		places[what] = string(r.body)
	}
	if code := g.request(http.MethodDelete, "/v1/keys/"+created[:29], "").status; code != http.StatusNoContent {
		t.Errorf("revoke: status %d", code)
	}
	g.request(http.MethodPost, "/v1/executions", python("1"), "Authorization", authorization).refused(t, http.StatusUnauthorized)
	g.signal(syscall.SIGTERM)
	g.waitDraining()
	g.signal(syscall.SIGTERM)
	g.wait()
	<-answer
	places["the process's log"] = g.log.String()
	g.start()
	g.waitReady()
	g.stop()

	places["the next process's log"] = g.log.String()
	err := filepath.WalkDir(g.state, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == "admin.key" {
			return err
		}
		content, err := os.ReadFile(path)
		places[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range places {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("a key stands in %s", place)
			}
		}
	}
	// What lasts is for its owner alone.
	for _, name := range []string{".", "audit", "keys", "admin.key", "gateway-id", "version", "store.db", "lock", "keys/audit.key"} {
		info, err := os.Stat(filepath.Join(g.state, name))
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}
