package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

// shredder is a gateway.Eraser that remembers what it erased.
type shredder struct {
	world  *world
	erased []execution.Erasure
	err    error // of erasing
}

func (s *shredder) Erase(_ context.Context, which execution.Erasure, before func(execution.Erasure) error) error {
	which.Inputs, which.Materials, which.Results = 1, 2, 3
	if err := before(which); err != nil {
		return err
	}
	s.world.saw("erase")
	s.erased = append(s.erased, which)
	return s.err
}

// An erasure is recorded, with who asked for it and how much it is, before it happens.
func TestErasureIsRecordedFirst(t *testing.T) {
	w := newWorld()
	e := &shredder{world: w}
	s := serve(t, w, func(c *gateway.Config) { c.Eraser = e })
	const id = "ex_01J8ZQ4YJ5T1V2W3X4Y5Z6A7B8"
	a := s.do("POST", "/v1/erasures", "admin/acme", `{"execution":"`+id+`","tenant":"acme"}`)
	if a.StatusCode != http.StatusOK || a.body != `{"execution":"`+id+`","tenant":"acme","inputs":1,"materials":2,"results":3,"record":0}` {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if w.history() != "erased erase" {
		t.Errorf("the order is %q", w.history())
	}
	r := w.recorded()[0]
	if r.Execution != id || r.Principal == nil || r.Principal.Subject == "" || r.RequestID == "" || *r.Erasure != e.erased[0] {
		t.Errorf("the record is %+v", r)
	}

	w.append = func(context.Context, execution.Record) error { return errors.New("disk full") }
	if a := s.do("POST", "/v1/erasures", "admin/acme", `{"tenant":"acme"}`); a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.body, "audit_unavailable") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if len(e.erased) != 1 {
		t.Error("it was erased without a record")
	}
	w.append = func(context.Context, execution.Record) error { return nil }
	e.err = &execution.Error{Kind: execution.KindUnavailable, Code: "erasure_unfinished", Detail: "erase again"}
	if a := s.do("POST", "/v1/erasures", "admin/acme", `{"tenant":"acme"}`); a.StatusCode != http.StatusServiceUnavailable || !strings.Contains(a.body, "erase again") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestErasuresThatAreRefused(t *testing.T) {
	w := newWorld()
	e := &shredder{world: w}
	s := serve(t, w, func(c *gateway.Config) { c.Eraser = e })
	for body, status := range map[string]int{
		`{}`:                  http.StatusBadRequest,
		`[]`:                  http.StatusBadRequest,
		`{"tenants":"acme"}`:  http.StatusBadRequest,
		`{"tenant":7}`:        http.StatusBadRequest,
		`{"subject":"ak_1"}`:  http.StatusBadRequest,
		`{"execution":"ex"}`:  http.StatusBadRequest,
		`{"before":"sunday"}`: http.StatusBadRequest,
		`{"execution":""}`:    http.StatusBadRequest,
	} {
		if a := s.do("POST", "/v1/erasures", "admin/acme", body); a.StatusCode != status {
			t.Errorf("%s: %d %s", body, a.StatusCode, a.body)
		}
	}
	if a := s.do("POST", "/v1/erasures", "admin/acme", `{"tenant":"other"}`); a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "other_tenant") {
		t.Errorf("of another tenant's admin: %d %s", a.StatusCode, a.body)
	}
	if a := s.do("POST", "/v1/erasures", callerToken, `{"tenant":"acme"}`); a.StatusCode != http.StatusForbidden {
		t.Errorf("of a caller: %d %s", a.StatusCode, a.body)
	}
	if len(e.erased) != 0 {
		t.Errorf("erased is %+v", e.erased)
	}
	if a := serve(t, newWorld(), nil).do("POST", "/v1/erasures", "admin/acme", `{"tenant":"acme"}`); a.StatusCode != http.StatusNotFound {
		t.Errorf("where nothing is kept: %d %s", a.StatusCode, a.body)
	}
}
