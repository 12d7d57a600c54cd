package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// pool is how many sandboxes the gateway with a pool keeps parked, beside
// preloaded ones that have imported pandas.
const (
	pool      = 8
	preloaded = 2
)

// gateways are those measured: without parked sandboxes, with them, and with a
// policy that lets sandboxes stay.
type gateways struct {
	cold, pooled, kept *gateway
	policy             string // folder
}

func startGateways(ctx context.Context, e *engine, binary string) (g *gateways, err error) {
	g = &gateways{}
	defer func() {
		if err != nil {
			g.stop()
		}
	}()
	if g.policy, err = keepingPolicy(); err != nil {
		return g, err
	}
	if g.cold, err = startGateway(ctx, e, binary, 0, nil, warmTargets(0, 0)...); err != nil {
		return g, err
	}
	// What is preloaded is what the pool has a shelf for, so one is parked.
	if g.kept, err = startGateway(ctx, e, binary, 1, []string{"--policy", g.policy}, warmTargets(0, 1)...); err != nil {
		return g, err
	}
	if g.pooled, err = startGateway(ctx, e, binary, pool+preloaded, nil, warmTargets(pool, preloaded)...); err != nil {
		return g, err
	}
	for _, one := range []*gateway{g.cold, g.kept, g.pooled} {
		if _, err = one.settled(ctx); err != nil {
			return g, err
		}
	}
	return g, nil
}

func warmTargets(plain, preloaded int) []string {
	return []string{
		"EXECGATE_EXECUTOR_WARM_TARGET=" + strconv.Itoa(plain), "EXECGATE_EXECUTOR_WARM_MAX=" + strconv.Itoa(plain),
		"EXECGATE_EXECUTOR_WARM_PRELOAD_TARGET=" + strconv.Itoa(preloaded),
	}
}

// keepingPolicy is the shipped policy, but for the tenant default, which may
// have a session for each caller and sandboxes that ran something of its own.
func keepingPolicy() (string, error) {
	folder, err := os.MkdirTemp("", "execgate-bench-policy-")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(folder, os.DirFS("policies")); err != nil {
		return folder, fmt.Errorf("copy the policy (run it from the root of the repository): %w", err)
	}
	path := filepath.Join(folder, "data.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return folder, err
	}
	var data map[string]any
	if err := json.Unmarshal(text, &data); err != nil {
		return folder, fmt.Errorf("%s: %w", path, err)
	}
	tenants, _ := data["tenants"].(map[string]any)
	tenant, ok := tenants["default"].(map[string]any)
	if !ok {
		return folder, fmt.Errorf("%s has no tenant default", path)
	}
	tenant["reuse"] = "principal"
	tenant["session"] = map[string]any{"idle_s": 600, "absolute_s": 3600, "max": most}
	if text, err = json.Marshal(data); err != nil {
		return folder, err
	}
	return folder, os.WriteFile(path, text, 0o600)
}

// openSessions opens what is missing of one session for each caller.
func (g *gateway) openSessions(ctx context.Context, callers int) error {
	for len(g.sessions) < callers {
		var opened struct {
			ID string `json:"id"`
		}
		if err := g.post(ctx, "/v1/sessions", map[string]any{"language": "python"}, &opened); err != nil {
			return err
		}
		g.sessions = append(g.sessions, opened.ID)
	}
	_, err := g.settled(ctx)
	return err
}

// executesInSession returns one execution in the caller's session.
func (g *gateway) executesInSession(code string) func(context.Context, int) (answer, error) {
	return func(ctx context.Context, caller int) (answer, error) {
		return g.execute(ctx, map[string]any{"session": g.sessions[caller], "code": code})
	}
}

func (g *gateways) stop() {
	for _, one := range []*gateway{g.cold, g.pooled, g.kept} {
		if one != nil {
			one.stop()
		}
	}
	os.RemoveAll(g.policy)
}
