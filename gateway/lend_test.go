package gateway_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/execgate/execgate/execution"
)

// What can never be lent is denied before anything is, and the record says so.
func TestWhatCannotBeLentIsDenied(t *testing.T) {
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision { return allow("github") }
	w.unlendable = &execution.Error{Kind: execution.KindDenied, Reasons: []execution.Reason{{Code: "vault_unconfigured", Remediation: "set vault.address"}}}
	_, err := w.service(t).Execute(t.Context(), call())
	if execution.KindOf(err) != execution.KindDenied {
		t.Fatalf("got %v, want a denial", err)
	}
	if want := "resolve decide decided"; w.history() != want {
		t.Errorf("order %q, want %q", w.history(), want)
	}
	d := w.recorded()[0].Decided.Decision
	if d.Effect != execution.EffectDeny || len(d.Reasons) != 1 || d.Reasons[0].Code != "vault_unconfigured" || len(d.Grant.Credentials) != 0 {
		t.Errorf("recorded %+v", d)
	}
}

// The loan outlasts what the execution may take, and the program's own credentials
// reach the job and nothing else.
func TestWhatIsLentReachesTheJobOnly(t *testing.T) {
	const value = "s3cret-of-one-execution"
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision { return allow("github") }
	w.exposed = []execution.Exposed{{
		Credential: execution.Credential{Tool: "github", Inject: execution.InjectEnv, EnvName: "GITHUB"},
		Fields:     map[string]execution.Secret{"token": execution.NewSecret(value)},
	}}
	w.execute = func(_ context.Context, job execution.Job) (execution.Result, error) {
		if len(job.Exposed) != 1 || job.Exposed[0].Fields["token"].Reveal() != value {
			t.Errorf("the job has %+v", job.Exposed)
		}
		for _, piece := range []string{"the token is s3cret-of", "-one-execution."} {
			if err := job.Events(execution.Event{Type: execution.EventStdout, Data: []byte(piece)}); err != nil {
				t.Error(err)
			}
		}
		result := exited(0)
		result.Stdout, result.Value = []byte("the token is "+value+"."), []byte(`{"token":"`+value+`"}`)
		return result, nil
	}
	var told strings.Builder
	c := call()
	c.Events = func(e execution.Event) error { told.Write(e.Data); return nil }
	got, err := w.service(t).Execute(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if want := "the token is [redacted]."; told.String() != want || string(got.Result.Stdout) != want {
		t.Errorf("told %q, returned %q", told.String(), got.Result.Stdout)
	}
	if want := `{"token":"[redacted]"}`; string(got.Result.Value) != want {
		t.Errorf("the result is %s", got.Result.Value)
	}
	ended := w.recorded()[1].Ended
	if ended.StdoutSHA256 != execution.HexSHA256(got.Result.Stdout) {
		t.Error("what is recorded is not the digest of what was returned")
	}
	if w.loan.Lasts.Milliseconds() <= limits().TimeoutMS || w.loan.Execution != got.ID {
		t.Errorf("the loan is %+v", w.loan)
	}
	decided := w.recorded()[0]
	if diff := cmp.Diff(decided.Principal, &w.loan.Principal); diff != "" || w.loan.RequestID != decided.RequestID || w.loan.TraceID != decided.TraceID {
		t.Errorf("lent to %+v, and decided for %+v", w.loan, decided)
	}
}
