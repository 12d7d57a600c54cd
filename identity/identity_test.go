package identity_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/identity"
)

func TestNewRefusesNoStore(t *testing.T) {
	if _, err := identity.New(nil); err == nil {
		t.Fatal("a nil store was accepted")
	}
}

func TestKeyProvesItsPrincipal(t *testing.T) {
	keys, _ := newKeys(t)
	key, text := create(t, keys, time.Time{})
	got, err := keys.Authenticate(t.Context(), text)
	want := execution.Principal{
		Subject: key.ID, Tenant: "acme", Roles: []execution.Role{execution.RoleCaller}, Method: execution.MethodAPIKey,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("error %v, principal (-want +got):\n%s", err, diff)
	}
}

func code(err error) string {
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Kind == execution.KindUnauthenticated {
		return e.Code
	}
	return "not an authentication error"
}

func TestOneKeyHasOneSpelling(t *testing.T) {
	keys, _ := newKeys(t)
	_, secret := create(t, keys, time.Time{})
	text := secret.Reveal()
	id, random, _ := strings.Cut(text, ".")
	last := random[len(random)-1]
	// The last of 43 characters carries 4 bits; its 2 spare bits must be zero.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	twin := random[:len(random)-1] + string(alphabet[strings.IndexByte(alphabet, last)|1])
	if twin == random {
		t.Fatalf("the last character %q has spare bits", last)
	}
	jwt := "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."
	for name, bad := range map[string]string{
		"empty":               "",
		"only the id":         id,
		"no secret":           id + ".",
		"no id":               "." + random,
		"space before":        " " + text,
		"line break after":    text + "\n",
		"line break inside":   id + "." + random[:42] + "\n",
		"NUL":                 text[:len(text)-1] + "\x00",
		"padding":             text + "=",
		"spare bits":          id + "." + twin,
		"standard base64":     id + "." + strings.Repeat("/", 43),
		"other separator":     id + ":" + random,
		"lower case id":       strings.ToLower(id) + "." + random,
		"other prefix":        "ex_" + text[3:],
		"JWT, alg none":       jwt,
		"JWT, padded to size": jwt + strings.Repeat("A", len(text)-len(jwt)),
		"two keys":            text + "," + text,
		"a megabyte":          strings.Repeat("A", 1<<20),
	} {
		if p, err := keys.Authenticate(t.Context(), execution.NewSecret(bad)); code(err) != identity.CodeMalformed || p.Subject != "" {
			t.Errorf("%s: principal %+v, error %v; want malformed", name, p, err)
		}
	}
}

// Nobody learns from an answer whether a key exists, unless they hold its secret.
func TestUnknownAndWrongAreTheSame(t *testing.T) {
	keys, _ := newKeys(t)
	key, _ := create(t, keys, time.Time{})
	revoked, _ := create(t, keys, time.Time{})
	if _, err := keys.RevokeKey(t.Context(), revoked.ID, recorded); err != nil {
		t.Fatal(err)
	}
	wrong := "." + strings.Repeat("A", 43)
	show := func(id string) string {
		_, err := keys.Authenticate(t.Context(), execution.NewSecret(id+wrong))
		e, ok := errors.AsType[*execution.Error](err)
		if !ok {
			t.Fatalf("error %v", err)
		}
		return string(e.Kind) + " " + e.Code + " " + e.Detail
	}
	unknown := show(execution.NewID(execution.PrefixKey, time.Now()))
	if got := show(key.ID); got != unknown {
		t.Errorf("wrong secret: %q, unknown key: %q", got, unknown)
	}
	if got := show(revoked.ID); got != unknown {
		t.Errorf("wrong secret of a revoked key: %q, unknown key: %q", got, unknown)
	}
}

// The record may name the key; only one that exists.
func TestFailureNamesAnExistingKey(t *testing.T) {
	keys, _ := newKeys(t)
	key, _ := create(t, keys, time.Time{})
	for id, want := range map[string]string{key.ID: key.ID, execution.NewID(execution.PrefixKey, time.Now()): ""} {
		_, err := keys.Authenticate(t.Context(), execution.NewSecret(id+"."+strings.Repeat("A", 43)))
		got := ""
		if named, ok := errors.AsType[interface {
			error
			KeyID() string
		}](err); ok {
			got = named.KeyID()
		}
		if got != want {
			t.Errorf("the error names key %q, want %q", got, want)
		}
	}
}

func TestKeyExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, _ := newKeys(t)
		_, text := create(t, keys, time.Now().Add(time.Hour))
		time.Sleep(time.Hour - time.Millisecond)
		if _, err := keys.Authenticate(t.Context(), text); err != nil {
			t.Errorf("just before its end: %v", err)
		}
		time.Sleep(time.Millisecond)
		if _, err := keys.Authenticate(t.Context(), text); code(err) != identity.CodeExpired {
			t.Errorf("at its end: %v, want expired", err)
		}
	})
}

func TestRevocationHoldsAtOnce(t *testing.T) {
	keys, _ := newKeys(t)
	key, text := create(t, keys, time.Time{})
	if _, err := keys.Authenticate(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.RevokeKey(t.Context(), key.ID, recorded); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Authenticate(t.Context(), text); code(err) != identity.CodeRevoked {
		t.Errorf("got %v, want revoked", err)
	}
}

// A store that fails lets nobody in, and is not mistaken for a wrong key.
func TestFailingStoreLetsNobodyIn(t *testing.T) {
	keys, m := newKeys(t)
	_, text := create(t, keys, time.Time{})
	m.fail = errors.New("disk I/O error")
	if p, err := keys.Authenticate(t.Context(), text); execution.KindOf(err) != execution.KindUnavailable || p.Subject != "" {
		t.Errorf("principal %+v, error %v; want unavailable", p, err)
	}
}

func FuzzAuthenticate(f *testing.F) {
	keys, _ := newKeys(f)
	_, text := create(f, keys, time.Time{})
	for _, seed := range []string{"", "ak_", text.Reveal(), text.Reveal()[3:], "a.b.c", strings.Repeat("ak_.", 20)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, credential string) {
		p, err := keys.Authenticate(t.Context(), execution.NewSecret(credential))
		if (err == nil) != (credential == text.Reveal()) {
			t.Errorf("%q: principal %+v, error %v", credential, p, err)
		}
		if err != nil && (p.Subject != "" || len(p.Roles) != 0 || strings.Contains(err.Error(), text.Reveal())) {
			t.Errorf("%q: principal %+v beside error %v", credential, p, err)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	keys, _ := newKeys(b)
	_, text := create(b, keys, time.Time{})
	for b.Loop() {
		if _, err := keys.Authenticate(b.Context(), text); err != nil {
			b.Fatal(err)
		}
	}
}
