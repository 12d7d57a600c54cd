package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/store"
)

// until waits for a condition.
func (u *inputsUnderTest) until(what string, holds func() bool) {
	u.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		late := time.Since(began) > 3*time.Minute
		if holds() {
			return
		}
		if late {
			u.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// after waits until it is later, as times are kept.
func (u *inputsUnderTest) after(at time.Time) {
	u.t.Helper()
	u.until("the clock goes on", func() bool { return time.Now().UnixMilli() > at.UnixMilli() })
}

// What was decided before an erasure and comes to be written after it is erased, with the
// policies of its tenant; what is decided afterwards is kept.
func TestErasureReachesWhatIsOnItsWay(t *testing.T) {
	for name, which := range map[string]store.Selection{
		"execution":     {Execution: "ex_1"},
		"tenant":        {Tenant: "narrow"},
		"subject":       {Tenant: "narrow", Subject: "ak_1"},
		"before":        {Before: always.Until},
		"tenant before": {Tenant: "narrow", Before: always.Until},
	} {
		t.Run(name, func(t *testing.T) {
			u := newInputs(t, nil)
			early, held, other := sampleInput(1, "narrow"), sampleInput(1, "narrow"), sampleInput(2, "acme")
			held.Seq++
			request, output := sampleMaterial(1, "narrow", store.PartRequest), sampleMaterial(1, "narrow", store.PartOutput)
			u.after(output.Time) // made last
			if erased, err := u.Erase(t.Context(), which, nothing); err != nil || erased != (store.Erased{}) {
				t.Fatalf("%+v, %v", erased, err)
			}
			u.Keep(early)
			u.Keep(other)
			u.flush()
			if err := u.hold(store.Held{Input: &held, Materials: []store.Material{request}}); err != nil {
				t.Fatal(err)
			}
			if err := u.hold(store.Held{Materials: []store.Material{output}}); err != nil {
				t.Fatal(err)
			}
			erased := store.CodeInputErased
			if inputs, materials, codes := u.kept("ex_1"); inputs != nil || materials != nil || !cmp.Equal(codes, []string{erased, erased, erased}) {
				t.Errorf("%v, %v, %v", inputs, materials, codes)
			}
			if inputs, _, _ := u.kept("ex_2"); (len(inputs) == 0) != (which.Execution == "" && which.Tenant == "") {
				t.Errorf("of another tenant there are %v", inputs)
			}
			if _, err := u.Document(t.Context(), store.DocumentBundle, "sha256:own", "narrow"); err == nil {
				t.Error("the tenant's policy is kept")
			}
			u.Keep(sampleInput(3, "narrow"))
			u.flush()
			if inputs, _, codes := u.kept("ex_3"); len(inputs) != 1 || codes != nil {
				t.Errorf("of what is decided afterwards there are %v, %v", inputs, codes)
			}
		})
	}
}

// What comes while something is erased, and is told to a writer that has to wait for that,
// does not escape.
func TestErasureReachesWhatComesMeanwhile(t *testing.T) {
	u := newInputs(t, nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	in := sampleInput(1, "acme")
	u.after(in.Time)
	_, err := u.Erase(t.Context(), store.Selection{Tenant: "acme"}, func(store.Erased) error {
		go func() { ended <- u.Run(ctx) }()
		u.Keep(in)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if inputs, _, codes := u.kept("ex_1"); inputs != nil || !cmp.Equal(codes, []string{store.CodeInputErased}) {
		t.Errorf("%v, %v", inputs, codes)
	}
	if found := u.grep([]byte("the plain")); found != nil {
		t.Errorf("in the files: %v", found)
	}
}

// An erasure counts all that it erases, also what the writer was about to write.
func TestErasureCountsWhatIsAboutToBeWritten(t *testing.T) {
	u := newInputs(t, nil)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- u.Run(ctx) }()
	for n := range 300 {
		in := sampleInput(n, "narrow")
		u.Keep(in)
		erased, err := u.Erase(t.Context(), store.Selection{Execution: in.Execution}, nothing)
		if err != nil || erased.Inputs != 1 {
			t.Errorf("%s: %+v, %v", in.Execution, erased, err)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
