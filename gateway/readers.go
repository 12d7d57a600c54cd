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

// readers counts those who read, by tenant.
type readers struct {
	mu sync.Mutex
	of map[string]int
}

func (r *readers) take(tenant string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[tenant] >= maxReaders {
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
		Detail: "as many results and events of this tenant are being read as the gateway allows",
	}
}
