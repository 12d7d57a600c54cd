package vaulttest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
)

// Seal has Vault forget its key: everything but its state is answered 503.
func (s *Server) Seal(tb testing.TB) {
	tb.Helper()
	s.Do(tb, http.MethodPut, "sys/seal", nil)
}

// Unseal undoes Seal, and the seal of a durable server that was restarted.
func (s *Server) Unseal(tb testing.TB) {
	tb.Helper()
	err := s.unseal()
	if err == nil {
		err = s.awaitMounts()
	}
	if err != nil {
		tb.Fatalf("unseal Vault: %v", err)
	}
}

func (s *Server) unseal() error {
	if _, err := s.do(http.MethodPut, "sys/unseal", map[string]string{"key": s.unsealKey}); err != nil {
		return err
	}
	return s.awaitOK("auth/token/lookup-self") // it is on duty a moment after
}

// awaitMounts waits for the engines kv of version 2, which are ready later than
// the server.
func (s *Server) awaitMounts() error {
	if s.options.LeasedKV {
		return nil
	}
	for _, mount := range append(slices.Clone(s.options.KV2), "secret") {
		if err := s.awaitOK(mount + "/config"); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) awaitOK(path string) error {
	return s.process.await(func(ctx context.Context) error {
		answer, err := s.call(ctx, s.rootToken, http.MethodGet, path, nil)
		if err == nil && answer.Status != http.StatusOK {
			err = fmt.Errorf("%s: %d: %s", path, answer.Status, answer.Body)
		}
		return err
	})
}

// prepare makes of a server that is new what its options say.
func (s *Server) prepare() error {
	mounts := map[string]string{}
	for _, path := range s.options.KV1 {
		mounts[path] = "1"
	}
	for _, path := range s.options.KV2 {
		mounts[path] = "2"
	}
	if s.options.Durable {
		if err := s.initialise(); err != nil {
			return err
		}
		mounts["secret"] = "2" // as one in memory has
	}
	for path, version := range mounts {
		engine := map[string]any{"type": "kv", "options": map[string]string{"version": version}}
		if _, err := s.do(http.MethodPost, "sys/mounts/"+path, engine); err != nil {
			return err
		}
	}
	if s.options.Audit {
		if err := s.enableAudit(); err != nil {
			return err
		}
	}
	return s.awaitMounts()
}

// initialise gives the server its key and its root token, and unseals it.
func (s *Server) initialise() error {
	answer, err := s.do(http.MethodPut, "sys/init", map[string]int{"secret_shares": 1, "secret_threshold": 1})
	if err != nil {
		return err
	}
	var made struct {
		Keys      []string `json:"keys_base64"`
		RootToken string   `json:"root_token"`
	}
	if err := json.Unmarshal(answer.Body, &made); err != nil || len(made.Keys) != 1 {
		return fmt.Errorf("sys/init gave %d keys and not one: %v", len(made.Keys), err)
	}
	s.unsealKey, s.rootToken = made.Keys[0], made.RootToken
	return s.unseal()
}
