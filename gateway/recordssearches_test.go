package gateway_test

import (
	"context"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
)

// busyArchive answers once it is let go.
type busyArchive struct {
	*archive
	began chan struct{}
	let   chan struct{}
}

func (s busyArchive) Find(context.Context, execution.RecordQuery) (execution.RecordPage, error) {
	s.began <- struct{}{}
	<-s.let
	return execution.RecordPage{}, nil
}

// The searches of one tenant take neither memory nor the index from others.
func TestSearchesAreBounded(t *testing.T) {
	const most = 8
	shelf := busyArchive{shelved(3), make(chan struct{}), make(chan struct{})}
	s := serveRecords(t, shelf)
	var under sync.WaitGroup
	search := func(token string) {
		under.Go(func() {
			if a := s.do("GET", "/v1/records", token, ""); a.StatusCode != 200 {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
		<-shelf.began
	}
	for range most {
		search("auditor/acme")
	}
	for _, path := range []string{"/v1/records", "/v1/records/1", "/v1/usage"} {
		if a := s.do("GET", path, "auditor/acme", ""); a.StatusCode != 429 || a.problem(t).Code != "readers_saturated" {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	search("auditor/umbrella")
	close(shelf.let)
	under.Wait()
	under.Go(func() { <-shelf.began })
	if a := s.do("GET", "/v1/records", "auditor/acme", ""); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	under.Wait()
}
