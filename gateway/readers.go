package gateway

import (
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// maxReaders is how many requests of one tenant may read remembered results or
// follow events at once. Each may hold a whole result while a slow client takes
// it.
const maxReaders = 64

// maxSearches is how many requests of one tenant may search records at once. Each holds
// a page, and one of the few connections to the index.
const maxSearches = 8

// readers counts those who read, by tenant. The zero readers lets nobody.
type readers struct {
	most int // of one tenant
	mu   sync.Mutex
	of   map[string]int
}

func (r *readers) take(tenant string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[tenant] >= r.most {
		return false
	}
	if r.of == nil {
		r.of = map[string]int{}
	}
	r.of[tenant]++
	return true
}

func (r *readers) give(tenant string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[tenant]--; r.of[tenant] == 0 {
		delete(r.of, tenant)
	}
}

func errTooManyReaders() error {
	return &execution.Error{
		Kind: execution.KindSaturated, Code: "readers_saturated", RetryAfter: time.Second,
		Detail: "as many results, events or records of this tenant are being read as the gateway allows",
	}
}
