package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

const (
	selfCheck    = "gateway"       // the name of the service's own check
	probeTimeout = 5 * time.Second // of all checks, which run side by side
	// probeFresh is how long one report answers everybody. /readyz is public, and
	// its checks reach the engine and the disk: strangers must not set their pace.
	probeFresh = time.Second
)

// check is the state of one thing the gateway needs.
type check struct {
	Name   string `json:"name"`
	Ready  bool   `json:"ready"`
	Detail string `json:"detail,omitempty"` // why not, or a Warning
}

// Warning is an error of a Prober that works, and has something to say to whoever
// watches.
type Warning string

// Error implements error.
func (w Warning) Error() string { return string(w) }

// probes runs the checks.
type probes struct {
	probers map[string]Prober
	log     *slog.Logger

	mu     sync.Mutex // also held while the checks run: one run at a time
	at     time.Time
	checks []check
}

func newProbes(probers map[string]Prober, log *slog.Logger) *probes {
	return &probes{probers: probers, log: log}
}

// report returns the checks, sorted by name.
func (p *probes) report(ctx context.Context) []check {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.at.IsZero() && time.Since(p.at) < probeFresh {
		return p.checks
	}
	// The report is for everybody, so it does not end with the one who asked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	names := slices.Sorted(maps.Keys(p.probers))
	checks := make([]check, len(names))
	var group sync.WaitGroup
	for i, name := range names {
		group.Go(func() { checks[i] = p.probe(ctx, name) })
	}
	group.Wait()
	p.at, p.checks = time.Now(), checks
	return checks
}

func (p *probes) probe(ctx context.Context, name string) (c check) {
	defer func() {
		if v := recover(); v != nil {
			p.log.ErrorContext(ctx, "panic", "doing", "check "+name, "panic", v)
			c = check{Name: name, Detail: "the check failed"}
		}
	}()
	err := p.probers[name].Ready(ctx)
	if err == nil {
		return check{Name: name, Ready: true}
	}
	if warning, ok := errors.AsType[Warning](err); ok {
		p.log.WarnContext(ctx, "ready with a warning", "check", name, "warning", string(warning))
		return check{Name: name, Ready: true, Detail: string(warning)}
	}
	p.log.WarnContext(ctx, "not ready", "check", name, "error", err)
	c = check{Name: name, Detail: "the check failed"}
	if e, ok := errors.AsType[*execution.Error](err); ok {
		c.Detail = cmp.Or(e.Detail, c.Detail)
	}
	return c
}

// health says that the process answers, and nothing about what it depends on.
func (g *Gateway) health(x *exchange) error {
	x.write(http.StatusOK, "application/json", []byte(`{"status":"ok"}`))
	return nil
}

// readiness says whether the gateway should be given work, and if not, why.
func (g *Gateway) readiness(x *exchange) error {
	checks := g.probes.report(x.ctx())
	if slices.ContainsFunc(checks, func(c check) bool { return !c.Ready }) {
		x.err = &execution.Error{Kind: execution.KindUnavailable, Code: "unready", Detail: "not everything the gateway needs is working"}
		p := problemOf(x.err, x.requestID, "")
		p.Checks = checks
		x.writeProblem(p)
		return nil
	}
	body, err := json.Marshal(struct {
		Status string  `json:"status"`
		Checks []check `json:"checks"`
	}{"ready", checks})
	if err != nil {
		return internal("encode readiness", err)
	}
	x.write(http.StatusOK, "application/json", body)
	return nil
}

// metrics lets Metrics answer. What it shows is of all tenants, so it is for the
// auditors of those who run the gateway.
func (g *Gateway) metrics(x *exchange) error {
	if x.principal.Tenant != operatorTenant {
		return &execution.Error{
			Kind: execution.KindDenied, Code: "other_tenant",
			Detail: "metrics are of all tenants: use a key of the tenant " + operatorTenant,
		}
	}
	if g.config.Metrics == nil {
		return &execution.Error{Kind: execution.KindNotFound, Detail: "this gateway has no metrics"}
	}
	g.config.Metrics.ServeHTTP(x.gin.Writer, x.gin.Request)
	return nil
}
