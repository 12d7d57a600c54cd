package vaulttest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"
)

// fullDevice has no room: a write to it fails as on a disk that is full.
const fullDevice = "/dev/full"

// AuditLog is the file that the audit device of Options.Audit writes to.
func (s *Server) AuditLog() string { return s.path("audit.log") }

// enableAudit has Vault write to a link, so that FillAudit can change what is
// behind it. Vault sets the mode at each opening: it is that of /dev/full, which
// must stay as it is.
func (s *Server) enableAudit() error {
	if err := s.linkAudit(s.AuditLog()); err != nil {
		return err
	}
	_, err := s.do(http.MethodPut, "sys/audit/file", map[string]any{
		"type": "file", "options": map[string]string{"file_path": s.path("audit"), "mode": "0666"},
	})
	return err
}

// linkAudit puts the link in place at once: Vault always finds one.
func (s *Server) linkAudit(target string) error {
	next := s.path("audit.next")
	if err := os.Symlink(target, next); err != nil {
		return err
	}
	return os.Rename(next, s.path("audit"))
}

// FillAudit has the audit device run out of room: Vault answers 500 to
// everything that is audited, and sys/health 200.
func (s *Server) FillAudit(tb testing.TB) {
	tb.Helper()
	s.moveAudit(tb, fullDevice, http.StatusInternalServerError)
}

// FreeAudit undoes FillAudit.
func (s *Server) FreeAudit(tb testing.TB) {
	tb.Helper()
	s.moveAudit(tb, s.AuditLog(), http.StatusOK)
}

// moveAudit waits until Vault opened what is now behind the link, which it does
// on SIGHUP.
func (s *Server) moveAudit(tb testing.TB, target string, status int) {
	tb.Helper()
	if !s.options.Audit {
		tb.Fatal("this Vault has no audit device: see Options.Audit")
	}
	if err := s.linkAudit(target); err != nil {
		tb.Fatal(err)
	}
	s.mustSignal(tb, syscall.SIGHUP)
	err := s.process.await(func(ctx context.Context) error {
		answer, err := s.call(ctx, s.rootToken, http.MethodGet, "auth/token/lookup-self", nil)
		if err == nil && answer.Status != status {
			err = fmt.Errorf("an audited call: %d: %s", answer.Status, answer.Body)
		}
		return err
	})
	if err != nil {
		tb.Fatalf("audit to %s: %v", target, err)
	}
}
