package vault_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a small Vault: what the lender asks of one, with the same answers. The
// contract that is tested with it is tested with the real one too.
type fake struct {
	address string
	server  *http.Server

	mu      sync.Mutex
	tokens  map[string]*fakeToken // by the token
	leases  map[string]*fakeLease
	calls   []string
	mode    string        // sealed, full, limited, or nothing
	paused  chan struct{} // not nil: nothing is answered until it is closed
	answers map[string]func(w http.ResponseWriter, r *http.Request)
	forbid  map[string]bool // paths that the gateway's policy lacks
	logins  int
	ttl     int  // of the gateway's token, in seconds; 0: without an end
	lasting bool // the gateway's token does not end when its time is over
	entry   map[string]any
}

type fakeToken struct {
	token, accessor string
	policies        []string
	meta            map[string]string
	expires         time.Time // zero: never
	ttl             int
	root            bool
}

type fakeLease struct {
	id, user, token string
	expires         time.Time
}

const fakeRoot = "hvs.fake-root-token"

func newFake(t *testing.T) *fake {
	f := &fake{
		tokens: map[string]*fakeToken{fakeRoot: {token: fakeRoot, accessor: "root-accessor", root: true}},
		leases: make(map[string]*fakeLease), answers: make(map[string]func(http.ResponseWriter, *http.Request)), forbid: make(map[string]bool),
	}
	f.listen(t, "127.0.0.1:0")
	t.Cleanup(func() {
		f.Resume(t)
		_ = f.server.Close()
	})
	return f
}

func (f *fake) listen(t testing.TB, address string) {
	var listener net.Listener
	within(t, patience, "listening at "+address, func() (is bool) { // somebody may have the port for a while
		var err error
		listener, err = net.Listen("tcp", address)
		return err == nil
	})
	f.address = listener.Addr().String()
	f.server = &http.Server{Handler: f}
	go f.server.Serve(listener)
}

func (f *fake) Addr() string    { return "http://" + f.address }
func (f *fake) gateway() string { return fakeRoot }

func (f *fake) set(mode string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = mode
}

func (f *fake) Seal(testing.TB)      { f.set("sealed") }
func (f *fake) Unseal(testing.TB)    { f.set("") }
func (f *fake) FillAudit(testing.TB) { f.set("full") }
func (f *fake) FreeAudit(testing.TB) { f.set("") }
func (f *fake) limit(testing.TB)     { f.set("limited") }

func (f *fake) Pause(testing.TB) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = make(chan struct{})
}

func (f *fake) Resume(testing.TB) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.paused != nil {
		close(f.paused)
		f.paused = nil
	}
}

func (f *fake) Stop()                { _ = f.server.Close() }
func (f *fake) Restart(t testing.TB) { f.listen(t, f.address) }

// executionTokens are the accessors of those that were made for executions.
func (f *fake) executionTokens(testing.TB) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	var out []string
	for _, token := range f.tokens {
		if token.meta["execution_id"] != "" {
			out = append(out, token.accessor)
		}
	}
	return out
}

func (f *fake) users(testing.TB) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	var out []string
	for _, lease := range f.leases {
		out = append(out, lease.user)
	}
	return out
}

func (f *fake) revokeByHand(_ testing.TB, accessor string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoke(accessor)
}

func (f *fake) expire() {
	for _, token := range f.tokens {
		if !token.expires.IsZero() && time.Now().After(token.expires) {
			f.revoke(token.accessor)
		}
	}
	for id, lease := range f.leases {
		if time.Now().After(lease.expires) {
			delete(f.leases, id)
		}
	}
}

func (f *fake) revoke(accessor string) (found bool) {
	for id, token := range f.tokens {
		if token.accessor == accessor {
			delete(f.tokens, id)
			found = true
			for name, lease := range f.leases {
				if lease.token == id {
					delete(f.leases, name)
				}
			}
		}
	}
	return found
}

// ServeHTTP implements http.Handler.
func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	paused := f.paused
	f.mu.Unlock()
	if paused != nil {
		select {
		case <-paused:
		case <-r.Context().Done():
			return
		}
	}
	text, _ := io.ReadAll(r.Body)
	var body map[string]any
	_ = json.Unmarshal(text, &body)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.expire()
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	f.calls = append(f.calls, path)
	if answer := f.answers[path]; answer != nil {
		answer(w, r)
		return
	}
	switch f.mode {
	case "sealed":
		refuse(w, 503, "Vault is sealed")
		return
	case "full":
		refuse(w, 500, "internal error")
		return
	case "limited":
		w.Header().Set("Retry-After", "7")
		refuse(w, 429, "request path \""+path+"\": rate limit quota exceeded")
		return
	}
	if strings.HasPrefix(path, "auth/") && strings.HasSuffix(path, "/login") {
		f.login(w, body)
		return
	}
	token := f.tokens[r.Header.Get("X-Vault-Token")]
	if token == nil || f.forbid[path] {
		refuse(w, 403, "permission denied")
		return
	}
	f.answer(w, r, path, token, body)
}

func (f *fake) login(w http.ResponseWriter, body map[string]any) {
	if body["secret_id"] != "the-secret-id" && body["jwt"] != "the.signed.jwt" {
		refuse(w, 400, "invalid role or secret ID")
		return
	}
	f.logins++
	made := f.mint(nil, f.ttl)
	made.root = true
	if f.lasting {
		made.expires = time.Time{}
	}
	f.reply(w, map[string]any{"auth": map[string]any{"client_token": made.token, "accessor": made.accessor, "lease_duration": f.ttl, "renewable": f.ttl > 0}})
}

func (f *fake) mint(policies []string, ttl int) *fakeToken {
	token := &fakeToken{token: "hvs." + rand.Text(), accessor: rand.Text(), policies: policies, ttl: ttl}
	if ttl > 0 {
		token.expires = time.Now().Add(time.Duration(ttl) * time.Second)
	}
	f.tokens[token.token] = token
	return token
}

func (f *fake) answer(w http.ResponseWriter, r *http.Request, path string, token *fakeToken, body map[string]any) {
	if !token.root {
		f.read(w, r, path, token, body)
		return
	}
	switch {
	case path == "auth/token/lookup-self":
		ttl := 0
		if !token.expires.IsZero() {
			ttl = int(time.Until(token.expires).Seconds())
		}
		f.reply(w, map[string]any{"data": map[string]any{"id": token.token, "ttl": ttl, "renewable": token.ttl > 0}})
	case path == "auth/token/renew-self":
		if !f.lasting {
			token.expires = time.Now().Add(time.Duration(token.ttl) * time.Second)
		}
		f.reply(w, map[string]any{"auth": map[string]any{"client_token": token.token, "accessor": token.accessor, "lease_duration": token.ttl, "renewable": true}})
	case path == "auth/token/create-orphan", path == "auth/token/create/gate":
		var ttl int
		fmt.Sscanf(body["ttl"].(string), "%ds", &ttl)
		made := f.mint(nil, ttl)
		for _, name := range body["policies"].([]any) {
			made.policies = append(made.policies, name.(string))
		}
		made.meta = make(map[string]string)
		for key, value := range body["meta"].(map[string]any) {
			made.meta[key] = value.(string)
		}
		answer := map[string]any{
			"client_token": made.token, "accessor": made.accessor, "lease_duration": ttl, "renewable": body["renewable"],
			"orphan": true, "policies": made.policies, "token_policies": made.policies,
		}
		for key, value := range f.entry {
			answer[key] = value
		}
		f.reply(w, map[string]any{"auth": answer})
	case path == "auth/token/accessors":
		var keys []string
		for _, token := range f.tokens {
			keys = append(keys, token.accessor)
		}
		f.reply(w, map[string]any{"data": map[string]any{"keys": keys}})
	case path == "auth/token/lookup-accessor":
		for _, token := range f.tokens {
			if token.accessor == body["accessor"] {
				f.reply(w, map[string]any{"data": map[string]any{"meta": token.meta}})
				return
			}
		}
		refuse(w, 400, "invalid accessor")
	case path == "auth/token/revoke-accessor":
		if !f.revoke(body["accessor"].(string)) {
			f.reply(w, map[string]any{"warnings": []string{"No token found with this accessor"}})
			return
		}
		w.WriteHeader(204)
	case path == "sys/leases/revoke":
		delete(f.leases, body["lease_id"].(string))
		w.WriteHeader(204)
	default:
		refuse(w, 404)
	}
}

// values are what the engines kv hold; the second is one that tries to break out of
// wherever it is put.
var values = map[string]map[string]any{
	"plain": {"token": "ghp_plainvalue", "number": json.Number("1234567890"), "deep": map[string]any{"a": "<b>"}},
	"wild":  {"token": "a\r\nX-Evil: 1\x00end", "unicode": "pässwörd"},
}

func (f *fake) read(w http.ResponseWriter, r *http.Request, path string, token *fakeToken, body map[string]any) {
	mount, rest, _ := strings.Cut(path, "/")
	if !slices.Contains(token.policies, mount) {
		refuse(w, 403, "permission denied")
		return
	}
	leased := func(data map[string]any, seconds int) {
		id := path + "/" + rand.Text()
		f.leases[id] = &fakeLease{id: id, user: fmt.Sprint(data["username"]), token: token.token, expires: time.Now().Add(time.Duration(seconds) * time.Second)}
		f.reply(w, map[string]any{"lease_id": id, "lease_duration": seconds, "renewable": true, "data": data})
	}
	value := values[strings.TrimPrefix(rest, "data/")]
	switch {
	case mount == "kv1" && value != nil:
		f.reply(w, map[string]any{"lease_duration": 2764800, "data": value})
	case mount == "secret" && value != nil:
		f.reply(w, map[string]any{"data": map[string]any{"data": value, "metadata": map[string]any{"version": 1}}})
	case (mount == "database" || mount == "short") && rest == "creds/reader":
		seconds := map[string]int{"database": 600, "short": 2}[mount]
		leased(map[string]any{"username": "v-" + rand.Text(), "password": "pw-" + rand.Text()}, seconds)
	case mount == "aws" && (rest == "creds/deploy" || rest == "sts/deploy"):
		leased(map[string]any{"username": "aws", "access_key": "AKIA0", "secret_key": "sk", "session_token": nil}, 600)
	case mount == "pki" && rest == "issue/client" && r.Method == http.MethodPut:
		f.reply(w, map[string]any{"data": map[string]any{
			"certificate": "-----BEGIN CERTIFICATE-----\n" + fmt.Sprint(body["common_name"]), "private_key": "key", "issuing_ca": "ca",
			"expiration": time.Now().Add(90 * time.Second).Unix(), "ca_chain": []string{"ca"},
		}})
	case mount == "misc" && rest == "leased":
		leased(map[string]any{"username": "misc", "key": "k"}, 600)
	case mount == "misc" && rest == "bare":
		f.reply(w, map[string]any{"data": map[string]any{"key": "k"}})
	default:
		refuse(w, 404)
	}
}

func (f *fake) reply(w http.ResponseWriter, answer map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func refuse(w http.ResponseWriter, status int, errors ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if errors == nil {
		errors = []string{}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": errors})
}

// called is how often a path was asked for.
func (f *fake) called(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, call := range f.calls {
		if call == path {
			n++
		}
	}
	return n
}
