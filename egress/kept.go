package egress

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// The bounds of connections that are kept for further calls.
const (
	mostKept         = 64 // of all
	mostKeptOfTenant = 8
	keptIdle         = 30 * time.Second // without a call
	keptAge          = 5 * time.Minute  // since it was made: what was verified then is verified again
)

// use is whose a connection is, and for what. Only an equal one has it again: a
// connection may remember, on the destination's side, who was on it and what was sent.
type use struct {
	owner execution.Owner
	// parent is the execution whose program calls the tool; empty: the principal does. So
	// what one program sends never comes before, or after, what another does.
	parent  string
	tool    string
	to      string // the host, which its certificate was verified for
	address netip.AddrPort
	private bool
	// credential is a digest of what is set on the request, and how: a connection that the
	// destination takes for authenticated is used by who authenticates in the same way.
	credential [sha256.Size]byte
}

// keeper keeps connections of calls that are over, for calls of the same use. One that is
// taken is the call's alone until it is given back. A keeper does not look names up, and
// checks no address: who takes a connection has done that, for the address in its use.
type keeper struct {
	idle, age          time.Duration
	most, mostOfTenant int
	key                []byte // of digests, so that none of them says anything of a credential

	mu   sync.Mutex
	kept []*kept // the one that was given back last is last
	over bool
}

// kept is a connection that waits.
type kept struct {
	of    use
	up    *upstream // to one address
	timer *time.Timer
}

func newKeeper() *keeper {
	k := &keeper{idle: keptIdle, age: keptAge, most: mostKept, mostOfTenant: mostKeptOfTenant, key: make([]byte, sha256.Size)}
	_, _ = rand.Read(k.key) // it never fails
	return k
}

// digest names what is set on a request, by the binding.
func (k *keeper) digest(bind execution.Binding, fields map[string]execution.Secret) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, k.key)
	write := func(text string) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(text))) // a hash takes everything
		_, _ = h.Write([]byte(text))
	}
	write(bind.Mode)
	write(bind.Name)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		write(name)
		write(fields[name].Reveal())
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// take returns a connection of that use; nil where there is none.
func (k *keeper) take(of use) *upstream {
	var over closing
	defer func() { over.close() }()
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := len(k.kept) - 1; i >= 0; i-- {
		if c := k.kept[i]; c.of == of && c.timer.Stop() {
			k.kept = slices.Delete(k.kept, i, i+1)
			if c.up.open.any() {
				return c.up
			}
			over = append(over, c.up) // the destination has closed it
		}
	}
	return nil
}

// give keeps a connection, or closes it where it is old, or there are too many: then the
// one that has waited longest, of the same tenant where that has its share, goes first.
func (k *keeper) give(of use, up *upstream) {
	if time.Since(up.made) >= k.age || !up.open.any() {
		up.close()
		return
	}
	var over closing
	defer func() { over.close() }()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		over = closing{up}
		return
	}
	c := &kept{of: of, up: up}
	c.timer = time.AfterFunc(k.idle, func() { k.drop(func(other *kept) bool { return other == c }) })
	k.kept = append(k.kept, c)
	ours := func(other *kept) bool { return other.of.owner.Tenant == of.owner.Tenant }
	switch n := count(k.kept, ours); {
	case n > k.mostOfTenant:
		over = closing{k.remove(slices.IndexFunc(k.kept, ours))}
	case len(k.kept) > k.most:
		over = closing{k.remove(0)}
	}
}

func count(all []*kept, is func(*kept) bool) (n int) {
	for _, c := range all {
		if is(c) {
			n++
		}
	}
	return n
}

// remove takes the connection at i out, which has to be closed. It is called with k locked.
func (k *keeper) remove(i int) *upstream {
	c := k.kept[i]
	k.kept = slices.Delete(k.kept, i, i+1)
	c.timer.Stop()
	return c.up
}

// closing are connections that are closed once nobody waits for the keeper: TLS says
// goodbye, for which a destination may keep it waiting.
type closing []*upstream

func (c closing) close() {
	for _, up := range c {
		up.close()
	}
}

// drop closes those that are so.
func (k *keeper) drop(is func(*kept) bool) {
	var over closing
	k.mu.Lock()
	for i := len(k.kept) - 1; i >= 0; i-- {
		if is(k.kept[i]) {
			over = append(over, k.remove(i))
		}
	}
	k.mu.Unlock()
	over.close()
}

// close closes all, and whatever is given back later.
func (k *keeper) close() {
	k.mu.Lock()
	k.over = true
	k.mu.Unlock()
	k.drop(func(*kept) bool { return true })
}

// prefer puts those addresses first to which there is a connection that may do for the
// use: what is set on the request is not known before the address is recorded.
func (k *keeper) prefer(of use, addresses []netip.Addr, port uint16) []netip.Addr {
	k.mu.Lock()
	defer k.mu.Unlock()
	without := func(u use) use { u.credential = [sha256.Size]byte{}; return u }
	has := func(addr netip.Addr) bool {
		of.address = netip.AddrPortFrom(addr, port)
		return slices.ContainsFunc(k.kept, func(c *kept) bool { return without(c.of) == without(of) })
	}
	addresses = slices.Clone(addresses)
	slices.SortStableFunc(addresses, func(a, b netip.Addr) int {
		switch inA, inB := has(a), has(b); {
		case inA && !inB:
			return -1
		case inB && !inA:
			return 1
		}
		return 0
	})
	return addresses
}

func (k *keeper) len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.kept)
}

// use is what a connection for this exchange is for.
func (x *exchange) use(address netip.AddrPort) use {
	return use{
		owner: x.job.Owner, parent: x.job.Parent, tool: x.job.Tool, to: x.to.host,
		address: address, private: x.to.rule.Private, credential: x.credential,
	}
}

// through returns what the exchange is carried by, to an address that is checked, and
// what is to be called once it is over. A program's requests go over its connection's own.
func (x *exchange) through(to *upstream, address netip.AddrPort) (*upstream, func()) {
	if x.job.Call == nil {
		return to, func() {}
	}
	k, of := x.broker.kept, x.use(address)
	up := k.take(of)
	if up == nil {
		up = &upstream{broker: x.broker, host: to.host, addresses: to.addresses, made: time.Now()}
	} else {
		x.broker.counts.reused.Add(1)
	}
	return up, func() {
		if x.code == "" && x.keeps {
			k.give(of, up)
		} else {
			up.close()
		}
	}
}

// lasting reports whether a credential is the same for whoever is lent it. A connection
// that has carried one of an execution's own must end with that: before it is revoked.
func lasting(c execution.Credential) bool {
	return c.Engine == execution.EngineKV || c.Engine == execution.EngineKV2
}

// sticky are the schemes by which a connection is authenticated, and no single request
// (RFC 4559, and NTLM).
var sticky = []string{"Negotiate", "NTLM", "Kerberos"}

// sticks reports whether a request, or its answer, is of such a scheme.
func sticks(out, answer http.Header) bool {
	of := func(h http.Header, name string) bool {
		for _, value := range h.Values(name) {
			for part := range strings.SplitSeq(value, ",") {
				scheme, _, _ := strings.Cut(strings.TrimSpace(part), " ")
				if slices.ContainsFunc(sticky, func(s string) bool { return strings.EqualFold(s, scheme) }) {
					return true
				}
			}
		}
		return false
	}
	return of(out, "Authorization") || of(answer, "Www-Authenticate") || of(answer, "Proxy-Authenticate") || hasForm(answer, "Persistent-Auth")
}
