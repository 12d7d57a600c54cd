package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// The times that are used where Config says none.
const (
	defaultResolveTimeout = 5 * time.Second
	defaultDialTimeout    = 10 * time.Second
	defaultIdleTimeout    = 10 * time.Minute
	// defaultExplainWait is short: protocols in which the server speaks first do not
	// wait longer for their refusal.
	defaultExplainWait = 3 * time.Second
)

// Config says how a Broker works. Recorder is required.
type Config struct {
	Recorder Recorder
	// Resolver looks names up; nil means the operating system's.
	Resolver Resolver
	// AllowedNetworks are the networks that are not public in which rules with
	// Private may have destinations. What is metadata of a cloud, unspecified,
	// multicast or broadcast is refused whatever stands here.
	AllowedNetworks []netip.Prefix
	// ResolveTimeout bounds the lookup of a name, DialTimeout connecting, with all
	// addresses that are tried; zero means 5 s and 10 s.
	ResolveTimeout, DialTimeout time.Duration
	// IdleTimeout is how long a connection may be without a byte in either
	// direction; zero means 10 minutes.
	IdleTimeout time.Duration
	// RecordBudget is how long one record may take to become durable before what waits
	// for it is refused; zero means 2 s.
	RecordBudget time.Duration
	// Roots are the authorities by which destinations of the mode intercept are
	// verified; nil means the operating system's.
	Roots *x509.CertPool
	// Credentials lends what is set on requests; nil: none are, and a request that
	// one is bound to is refused.
	Credentials Credentials
	// Decider is asked for each request of the mode intercept, after the grant; nil:
	// the grant alone decides.
	Decider Decider
	// Tools are those that programs call by execution.ToolsHost; nil: there are none.
	Tools Tools
	// Logger is told of faults; nil discards.
	Logger *slog.Logger
}

// Broker carries what programs send out of their sandboxes.
type Broker struct {
	resolver                                 Resolver
	allowed                                  []netip.Prefix
	resolveTimeout, dialTimeout, idleTimeout time.Duration
	roots                                    *x509.CertPool
	credentials                              Credentials
	decider                                  Decider
	tools                                    Tools
	plainPort                                int           // of plain HTTP
	explainWait                              time.Duration // for what is to be refused in words

	log     *slog.Logger
	records *records
	counts  counts

	kept *keeper // of calls

	mu       sync.Mutex
	accounts map[string]*account // by execution, from its first connection until End
}

// New returns a Broker, or says what is wrong with the configuration.
func New(c Config) (*Broker, error) {
	if c.Recorder == nil {
		return nil, errors.New("configure egress: Recorder is required: nothing leaves that is not recorded")
	}
	if err := checkNetworks(c.AllowedNetworks); err != nil {
		return nil, fmt.Errorf("configure egress: %w", err)
	}
	if min(c.ResolveTimeout, c.DialTimeout, c.IdleTimeout, c.RecordBudget) < 0 {
		return nil, errors.New("configure egress: a timeout is negative")
	}
	b := &Broker{
		resolver: c.Resolver, allowed: slices.Clone(c.AllowedNetworks), log: c.Logger,
		resolveTimeout: cmp.Or(c.ResolveTimeout, defaultResolveTimeout),
		dialTimeout:    cmp.Or(c.DialTimeout, defaultDialTimeout),
		idleTimeout:    cmp.Or(c.IdleTimeout, defaultIdleTimeout),
		roots:          c.Roots, credentials: c.Credentials, decider: c.Decider, tools: c.Tools,
		plainPort: 80, explainWait: defaultExplainWait,
		counts: newCounts(), accounts: map[string]*account{}, kept: newKeeper(),
	}
	if b.resolver == nil {
		b.resolver = &net.Resolver{}
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.records = &records{recorder: c.Recorder, log: b.log, budget: cmp.Or(c.RecordBudget, defaultRecordBudget)}
	return b, nil
}

// destination is where a connection wants to go.
type destination struct {
	host string // in its one form; where it has none as it may be shown
	port int
	rule execution.NetworkRule // the zero rule where none opens it
}

// Carry carries one connection that the program of job opened to the name and port
// of to, until it ends; it owns conn and closes it. The job is not changed meanwhile: it
// is large, and the stacks of all that carry something for it stay as long as they do. authority is what Authority made
// for the sandbox; nil where it has none: then TLS is not intercepted, and a refusal is
// a conn that is closed without a byte. With one, what can be told in HTTP is.
// ctx is the execution's: when it ends so does the connection, and a call after that
// does nothing. Any number of calls may be under way at once.
//
// Half a connection is ended by conn's CloseWrite; a conn that has none is closed
// whole once the destination has sent its last byte.
func (b *Broker) Carry(ctx context.Context, job *execution.Job, authority *tls.Certificate, to execution.Destination, conn net.Conn) {
	defer conn.Close()
	a := b.account(ctx, job)
	if a == nil {
		return
	}
	b.counts.active.Add(1)
	defer b.counts.active.Add(-1)

	host, rule, code := decide(job.Grant.Network, to)
	d := destination{host, to.Port, rule}
	if host == execution.ToolsHost && code == "" {
		code = b.closed(job, d)
	}
	switch {
	case host == "":
		d.host = printable(to.Host)
		b.refuse(ctx, job, a, d, question{}, code)
	case code != "":
		b.explain(ctx, job, a, d, authority, code, conn)
	case rule.Mode == execution.NetworkIntercept:
		b.intercept(ctx, job, a, d, authority, conn)
	case rule.Mode == execution.NetworkTunnel:
		b.tunnel(ctx, job, a, d, authority, conn)
	default:
		b.forwardTo(ctx, job, a, d, conn)
	}
}

// Find reports whether any rule of the job is for a name that its program looks up. Where
// none is, that is a refusal like that of a connection, to port 0.
func (b *Broker) Find(ctx context.Context, job *execution.Job, name string) bool {
	a := b.account(ctx, job)
	if a == nil {
		return false
	}
	host, err := normaliseHost(name)
	if err == nil && slices.ContainsFunc(job.Grant.Network.Rules, func(r execution.NetworkRule) bool { return r.Names(host) }) {
		return true
	}
	b.refuse(ctx, job, a, destination{host: cmp.Or(host, printable(name))}, question{}, hostCode(err))
	return false
}

// refuse counts the refusal of a connection, and records it.
func (b *Broker) refuse(ctx context.Context, job *execution.Job, a *account, d destination, q question, code string) {
	b.counts.end(execution.EffectDeny, counted(code))
	b.recordRefusal(ctx, job, a, d, q, code)
}

// recordRefusal records a refusal, while there are not too many.
func (b *Broker) recordRefusal(ctx context.Context, job *execution.Job, a *account, d destination, q question, code string) {
	if record := a.refuse(code); record != "" {
		b.records.denied(ctx, job, d, q, record)
		return
	}
	b.counts.unrecorded.Add(1)
}

// account returns that of the execution; nil where the execution has ended, so
// that none is made which nobody would end.
func (b *Broker) account(ctx context.Context, job *execution.Job) *account {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	a, ok := b.accounts[job.ID]
	if !ok {
		a = newAccount(job.Grant.Network.Budget)
		b.accounts[job.ID] = a
	}
	return a
}

// parentOf is the account of the execution whose program calls job's tool; nil where
// there is none.
func (b *Broker) parentOf(job *execution.Job) *account {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accounts[job.Parent]
}

// Usage is what an execution has sent out and taken in.
type Usage struct {
	Requests   int64 // connections, or requests, that the budget allowed, also those that came to nothing
	Bytes      int64 // both ways
	Unrecorded int64 // refusals that were counted and not recorded
}

// End returns what the execution has used and forgets it. It is called once for
// every execution, after the ctx of its connections has ended and Carry has
// returned for each.
func (b *Broker) End(executionID string) Usage {
	b.mu.Lock()
	a := b.accounts[executionID]
	delete(b.accounts, executionID)
	b.mu.Unlock()
	b.kept.drop(func(c *kept) bool { return c.of.parent == executionID }) // nobody has them again
	if a == nil {
		return Usage{}
	}
	used := a.usage()
	if used.Unrecorded > 0 {
		b.log.Warn("refusals of egress were too many to record", "execution", executionID, "count", used.Unrecorded)
	}
	return used
}

// Close closes the connections that are kept for further calls, and has none kept from
// now on. What is carried goes on.
func (b *Broker) Close() { b.kept.close() }

// Ready returns nil unless a record of egress could not be written lately.
func (b *Broker) Ready(context.Context) error { return b.records.ready() }
