package executor

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/execgate/execgate/execution"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(2)
		ctx, cancel := context.WithCancel(t.Context())
		var order []string
		enter := func(name string, ctx context.Context) func() {
			end, err := turns.take(ctx, false)
			if err != nil {
				name += " gave up"
				end = func() {}
			}
			order = append(order, name)
			return end
		}
		a, b := enter("a", ctx), enter("b", ctx)
		var c, d func()
		go func() { c = enter("c", t.Context()) }()
		synctest.Wait()
		go func() { _ = enter("x", ctx) }()
		synctest.Wait()
		go func() { d = enter("d", t.Context()) }()
		synctest.Wait()
		first, err := turns.take(ctx, true)
		if err != nil || len(order) != 2 {
			t.Fatalf("%v, %q", err, order)
		}
		cancel()
		synctest.Wait()
		a() // its place is taken by the first
		a() // once
		synctest.Wait()
		if len(order) != 3 || order[2] != "x gave up" {
			t.Fatalf("%q", order)
		}
		b() // one of the others always goes on
		synctest.Wait()
		if len(order) != 4 || order[3] != "c" {
			t.Fatalf("%q", order)
		}
		first()
		synctest.Wait()
		if len(order) != 5 || order[4] != "d" {
			t.Fatalf("%q", order)
		}
		c()
		d()
		if turns.taken != 0 || turns.first != 0 || len(turns.queue) != 0 {
			t.Errorf("%+v is left", turns)
		}
	})
}

// What is parked for a tenant is nobody else's, and of what is everybody's it has
// its share.
func TestReservedShelves(t *testing.T) {
	limits := execution.Limits{PIDs: 32, TmpMiB: 8, MemoryMiB: 64}
	image := imageState{Image: Image{Name: "python"}}
	e := &Executor{cfg: Config{
		Warm:     []Warm{{Image: "python", Language: "python", Runtime: "runc", Limits: limits, Min: 1, Target: 2, Max: 4}},
		Reserved: map[string]int{"a": 1, "b": 3},
	}}
	p := newPool(e)
	e.pool = p
	wanted := map[string]int{}
	parked := func() *sandbox {
		sb := &sandbox{}
		sb.spec.Deadline = farOff
		return sb
	}
	for _, s := range p.shelves {
		wanted[s.tenant] = s.Target
		s.parked = []*sandbox{parked()}
	}
	if wanted["a"] != 4 || wanted["b"] != 8 || wanted[""] != 2 {
		t.Errorf("%v are kept", wanted)
	}
	if most := MostParked(e.cfg.Warm, e.cfg.Reserved); most != 4+8+16 {
		t.Errorf("at most %d are parked", most)
	}
	claim := func(tenant string) bool {
		job := execution.Job{Language: "python", Owner: execution.Owner{Tenant: tenant}, Grant: execution.Grant{Runtime: "runc", Limits: limits}}
		return p.take(job, image, farOff.Add(-1)) != nil
	}
	for i, step := range []struct {
		tenant string
		had    bool
	}{{"a", true}, {"a", true}, {"a", false}, {"c", false}, {"b", true}, {"b", false}} {
		if had := claim(step.tenant); had != step.had {
			t.Errorf("%d: %s had one: %t, want %t", i, step.tenant, had, step.had)
		}
	}
}

var farOff = time.Now().Add(parkedDeadline)
