package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// A program in a session keeps what it was given: in a file, or in a variable. Neither
// a later program, which is given nothing, nor the file gives a stored key away.
func TestKeysThatASessionKeeps(t *testing.T) {
	const value = "kvT0ken-8f2c1d9b7a"
	for name, test := range map[string]struct {
		credential execution.Credential
		revoked    bool
		kept       bool
	}{
		"a stored key":                {execution.Credential{Tool: "github", Engine: execution.EngineKV2}, true, false},
		"a stored password":           {execution.Credential{Tool: "github", Engine: execution.EngineDatabase, Path: "static-creds/app"}, true, false},
		"a password that is revoked":  {execution.Credential{Tool: "github", Engine: execution.EngineDatabase, Role: "reader"}, true, true},
		"one that is not revoked yet": {execution.Credential{Tool: "github", Engine: execution.EngineDatabase, Role: "reader"}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := lendsTo(test.credential)
			w.revoke = func(context.Context) ([]execution.Lease, error) {
				return []execution.Lease{{Tool: "github", ID: "l1", Revoked: test.revoked}}, nil
			}
			w.exposed = []execution.Exposed{{Credential: test.credential, Fields: map[string]execution.Secret{"token": execution.NewSecret(value)}}}
			w.execute = func(context.Context, execution.Job) (execution.Result, error) {
				result := exited(0)
				result.Stdout, result.Session = []byte("it is "+value), execution.SessionKept
				return result, nil
			}
			w.getFile = func(context.Context, string, int64) ([]byte, error) { return []byte("it is " + value), nil }
			s := w.service(t)
			id := mustOpen(t, s)
			first, err := s.Execute(t.Context(), asking(id))
			if err != nil || strings.Contains(string(first.Result.Stdout), value) {
				t.Fatalf("%v: the program that was given it says %q", err, first.Result.Stdout)
			}
			later, err := s.Execute(t.Context(), in(id))
			if err != nil || strings.Contains(string(later.Result.Stdout), value) != test.kept {
				t.Errorf("%v: a later program says %q", err, later.Result.Stdout)
			}
			file, err := s.GetFile(t.Context(), in(id), id, "x")
			if err != nil || strings.Contains(string(file), value) != test.kept {
				t.Errorf("%v: the file holds %q", err, file)
			}
			other := mustOpen(t, s)
			if r, err := s.Execute(t.Context(), in(other)); err != nil || !strings.Contains(string(r.Result.Stdout), value) {
				t.Errorf("%v: another session says %q", err, r.Result.Stdout) // it was never given it
			}
		})
	}
}

// lendsTo is a world whose sessions are lent a credential by programs that ask for it.
func lendsTo(credential execution.Credential) *world {
	w := sessionful()
	grants := w.decide
	w.decide = func(q execution.Question) execution.Decision {
		d := grants(q)
		if len(q.Request.Tools) > 0 {
			d.Grant.Credentials = []execution.Credential{credential}
		}
		return d
	}
	w.execute = func(context.Context, execution.Job) (execution.Result, error) {
		result := exited(0)
		result.Session = execution.SessionKept
		return result, nil
	}
	return w
}

// asking is in with a tool.
func asking(id string) gateway.Call {
	c := in(id)
	c.Request.Tools = []string{"github"}
	return c
}

// A session that is lent a new password for each program goes on for as long as it is
// open.
func TestSessionWithManyPasswords(t *testing.T) {
	credential := execution.Credential{Tool: "github", Engine: execution.EngineDatabase, Role: "reader"}
	w := lendsTo(credential)
	s := w.service(t)
	id := mustOpen(t, s)
	for i := range 200 {
		w.exposed = []execution.Exposed{{Credential: credential, Fields: map[string]execution.Secret{
			"password": execution.NewSecret(fmt.Sprintf("A1a-%060d-Zt9pLr", i)),
		}}}
		if _, err := s.Execute(t.Context(), asking(id)); err != nil {
			t.Fatalf("program %d: %v", i, err)
		}
	}
}

// A value that cannot be kept out of anything is not given to a program, and keeps
// nobody from going on in the session.
func TestSessionGoesOnWithoutWhatItWasNotGiven(t *testing.T) {
	credential := execution.Credential{Tool: "github", Engine: execution.EngineKV2}
	w := lendsTo(credential)
	w.exposed = []execution.Exposed{{Credential: credential, Fields: map[string]execution.Secret{"password": execution.NewSecret("short")}}}
	s := w.service(t)
	id := mustOpen(t, s)
	if _, err := s.Execute(t.Context(), asking(id)); problemOf(err).Code != "credential_unscrubbable" {
		t.Fatalf("%v, want credential_unscrubbable", err)
	}
	if _, err := s.Execute(t.Context(), in(id)); err != nil {
		t.Errorf("the next program: %v", err)
	}
}
