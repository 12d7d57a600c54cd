package execution_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
)

// Invariant 2: the zero Decision denies.
func TestZeroDecisionDenies(t *testing.T) {
	if (execution.Decision{}).Allowed() {
		t.Fatal("the zero Decision allows")
	}
	for _, effect := range []execution.Effect{"", "deny", "require_approval", "ALLOW", "allow "} {
		if (execution.Decision{Effect: effect}).Allowed() {
			t.Errorf("effect %q allows", effect)
		}
	}
}

func TestZeroGrantIsInvalid(t *testing.T) {
	full := execution.Limits{
		TimeoutMS: 1000, MemoryMiB: 64, CPUMillis: 100, CPUShares: 256, PIDs: 8, NoFile: 64,
		TmpMiB: 1, WorkspaceMiB: 1, ShmMiB: 1, OutputKiB: 1, ResultKiB: 1, FilesMiB: 1, FilesCount: 1,
	}
	if err := full.Validate(); err != nil {
		t.Fatalf("a full set of limits: %v", err)
	}
	for _, d := range execution.AllLimits() {
		for _, bad := range []int64{0, -1, d.Max + 1} {
			l := full
			*d.Of(&l) = bad
			if err := l.Validate(); err == nil || !strings.Contains(err.Error(), d.Name) {
				t.Errorf("%s = %d: got error %v, want one that names it", d.Name, bad, err)
			}
		}
	}
}

func TestEveryLimitIsDescribed(t *testing.T) {
	typ := reflect.TypeFor[execution.Limits]()
	var fields, described []string
	for i := range typ.NumField() {
		fields = append(fields, strings.TrimSuffix(typ.Field(i).Tag.Get("json"), ",omitempty"))
	}
	for _, d := range execution.AllLimits() {
		described = append(described, d.Name)
	}
	if !slices.Equal(fields, described) {
		t.Fatalf("fields %v, described %v", fields, described)
	}
}

// Invariant 4, in part: a Secret cannot be printed, logged or marshalled.
func TestSecretDoesNotShow(t *testing.T) {
	const value = "hunter2-hunter2"
	type holder struct {
		S execution.Secret
		P *execution.Secret
	}
	secret := execution.NewSecret(value)
	var out strings.Builder
	for _, v := range []any{secret, &secret, holder{secret, &secret}, []execution.Secret{secret}, map[string]execution.Secret{"k": secret}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb, v)
		}
		if text, err := json.Marshal(v); err == nil {
			t.Errorf("marshalling %T gave %s", v, text)
		}
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "s", secret, "h", holder{secret, &secret})
	}
	fmt.Fprint(&out, fmt.Errorf("wrapped: %v %w", secret, io.EOF))
	if strings.Contains(out.String(), value) || strings.Contains(out.String(), fmt.Sprintf("%x", value)) {
		t.Fatalf("the value shows: %s", out.String())
	}
	if secret.Reveal() != value || !secret.Equal(execution.NewSecret(value)) || secret.Equal(execution.Secret{}) {
		t.Fatal("Reveal or Equal is wrong")
	}
}

func TestIDs(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	seen := map[string]bool{}
	for range 1000 {
		id := execution.NewID(execution.PrefixExecution, at)
		if !execution.ValidID(execution.PrefixExecution, id) || seen[id] {
			t.Fatalf("id %q is malformed or stands twice", id)
		}
		seen[id] = true
	}
	// The time part of a ULID, as the specification's reference decodes it.
	if id := execution.NewID("", time.UnixMilli(1469918176385)); id[:10] != "01ARYZ6S41" {
		t.Errorf("time part %q, want 01ARYZ6S41", id[:10])
	}
	if a, b := execution.NewID("", at), execution.NewID("", at.Add(time.Millisecond)); a >= b {
		t.Errorf("%q does not sort before %q", a, b)
	}
	for _, bad := range []string{"", "ex_", "ex_../../etc/passwd", "ak_" + strings.Repeat("0", 26), "ex_" + strings.Repeat("U", 26), "ex_8" + strings.Repeat("0", 25)} {
		if execution.ValidID(execution.PrefixExecution, bad) {
			t.Errorf("%q is valid", bad)
		}
	}
}

func TestKindOf(t *testing.T) {
	err := fmt.Errorf("run: %w", &execution.Error{Kind: execution.KindDenied, Err: io.EOF})
	if execution.KindOf(err) != execution.KindDenied || execution.KindOf(io.EOF) != execution.KindInternal || !errors.Is(err, io.EOF) {
		t.Fatal("the kind or the cause is lost")
	}
}

func TestRequestSHA256CoversEveryField(t *testing.T) {
	base := execution.Request{Language: "python", Code: "1", Env: map[string]string{"A": "1"}}
	sum := func(r execution.Request) string {
		s, err := r.SHA256()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	changed := base
	changed.Env = map[string]string{"A": "2"}
	if sum(base) == sum(changed) {
		t.Error("the value of a variable does not count")
	}
	changed = base
	changed.Stdin = "x"
	if sum(base) == sum(changed) {
		t.Error("stdin does not count")
	}
}
