package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
	"github.com/execgate/execgate/store"
)

// What is recorded while the gateway is stopped is held against its witness and told to
// it, as by the gateway; without that witness nothing is done.
func TestAtRestTheWitnessIsTold(t *testing.T) {
	folder, log, stop := newLog(t)
	witness := filepath.Join(t.TempDir(), "witness")
	cfg := defaultConfig()
	cfg.Audit.WitnessFile = witness
	must(t, recordConfig(t.Context(), cfg, &state{dir: folder}, log))
	db, err := store.Open(t.Context(), filepath.Join(folder, inputsFile))
	must(t, err)
	kept, err := store.NewInputs(store.InputsConfig{Store: db, KeyFile: filepath.Join(folder, inputsKey)})
	must(t, err)
	const id = "ex_01J8ZQ4YJ5T1V2W3X4Y5Z6A7B8"
	must(t, kept.Hold(t.Context(), store.Held{Input: &store.Input{Execution: id, Tenant: "acme", Subject: "ak_1", Time: time.Now(), Asked: []byte("{}"), Answered: []byte("{}")}}))
	must(t, db.Close())
	stop()
	key, err := os.ReadFile(filepath.Join(folder, "keys", "audit.pub"))
	must(t, err)
	erase := []string{"audit", "erase", "--execution", id, "--state", folder}
	show := []string{"audit", "show-full", id, "--state", folder}
	rotate := []string{"audit", "rotate-key", "--state", folder}
	run := func(args ...string) (code int, out, errs string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		code = Main(t.Context(), args, nil, &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	recorded := func() (records, witnessed int) {
		t.Helper()
		report, err := audit.Verify(filepath.Join(folder, "audit"), string(key))
		if err != nil || !report.Integrity.OK {
			t.Fatalf("%+v %v", report, err)
		}
		text, _ := os.ReadFile(witness)
		return int(report.Records), sizeOf(string(text))
	}
	before, _ := recorded()
	refused := func(code int, says string) {
		t.Helper()
		for _, args := range [][]string{erase, show, rotate} {
			if got, out, errs := run(args...); got != code || out != "" || !strings.Contains(errs, says) {
				t.Errorf("%v: exit code %d, %s%s", args, got, out, errs)
			}
		}
	}
	refused(exitUsage, "another audit.witness_file")
	t.Setenv("EXECGATE_AUDIT_WITNESS_FILE", witness+"2")
	refused(exitUsage, "another audit.witness_file")
	if now, _ := recorded(); now != before {
		t.Errorf("%d records, and there were %d", now, before)
	}
	early := filepath.Join(t.TempDir(), "early")
	if out, err := exec.Command("cp", "-a", folder, early).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("EXECGATE_AUDIT_WITNESS_FILE", witness)
	for i, args := range [][]string{show, erase} {
		if code, _, errs := run(args...); code != 0 {
			t.Fatalf("%v: exit code %d, %s", args, code, errs)
		}
		if now, witnessed := recorded(); now != before+i+1 || witnessed != now {
			t.Errorf("%v: of %d records the witness has %d", args, now, witnessed)
		}
	}
	// Rolled back to before, with what was erased: the witness knows.
	must(t, os.RemoveAll(folder))
	must(t, os.Rename(early, folder))
	refused(exitFailed, "rolled back")
	if now, witnessed := recorded(); now != before || witnessed != before+2 {
		t.Errorf("%d records, and the witness has %d", now, witnessed)
	}
}

// Offline too an erasure voids what awaits approval, with a record of its own.
func TestErasureAtRestVoidsApprovals(t *testing.T) {
	folder, _, stop := newLog(t)
	stop()
	inputsDB, err := store.Open(t.Context(), filepath.Join(folder, inputsFile))
	must(t, err)
	_, err = store.NewInputs(store.InputsConfig{Store: inputsDB, KeyFile: filepath.Join(folder, inputsKey)})
	must(t, err)
	must(t, inputsDB.Close())
	db, err := store.Open(t.Context(), filepath.Join(folder, "store.db"))
	must(t, err)
	executions, err := store.NewExecutions(db, 0)
	must(t, err)
	approvals, err := newApprovals(defaultConfig().Approvals, db, &state{dir: folder})
	must(t, err)
	now := time.Now()
	for _, tenant := range []string{"acme", "umbrella"} {
		_, err := executions.Claim(t.Context(), store.Execution{ID: "ex_" + tenant, Tenant: tenant, Subject: "ak_1", Expires: now.Add(time.Hour)})
		must(t, err)
		must(t, approvals.Add(t.Context(), gateway.StoredApproval{
			ID: "ap_" + tenant, Execution: "ex_" + tenant, Tenant: tenant, Subject: "ak_1", State: execution.ApprovalPending,
			About: []byte(`{"binding":{"subject":"ak_1"},"roles":["approver"]}`), Request: []byte("{}"), Created: now, Expires: now.Add(time.Hour),
		}, []byte("{}")))
	}
	must(t, db.Close())
	var out, errs bytes.Buffer
	if code := Main(t.Context(), []string{"audit", "erase", "--tenant", "acme", "--state", folder}, nil, &out, &errs); code != 0 || !strings.Contains(out.String(), "0 results, 1 approvals") {
		t.Fatalf("exit code %d, %s%s", code, out.String(), errs.String())
	}
	var types []execution.RecordType
	for r, err := range audit.Read(filepath.Join(folder, "audit")) {
		must(t, err)
		if types = append(types, r.Type); r.Type == execution.RecordApprovalVoided {
			if a := r.Approval; a.ID != "ap_acme" || a.Why != "erased" || r.Execution != "ex_acme" || r.Principal.Subject != "local" || a.Binding.Subject != "ak_1" || a.Roles[0] != "approver" {
				t.Errorf("%+v", r)
			}
		}
	}
	if !slices.Equal(types, []execution.RecordType{execution.RecordErased, execution.RecordApprovalVoided}) {
		t.Errorf("records %v", types)
	}
	db, err = store.Open(t.Context(), filepath.Join(folder, "store.db"))
	must(t, err)
	defer db.Close()
	approvals, err = newApprovals(defaultConfig().Approvals, db, &state{dir: folder})
	must(t, err)
	for tenant, want := range map[string]execution.ApprovalState{"acme": execution.ApprovalVoided, "umbrella": execution.ApprovalPending} {
		if a, err := approvals.Load(t.Context(), "ap_"+tenant); err != nil || a.State != want {
			t.Errorf("%s: %+v %v", tenant, a, err)
		}
	}
	executions, err = store.NewExecutions(db, 0)
	must(t, err)
	if e, err := executions.Load(t.Context(), "ex_acme"); err != nil || e.State != string(gateway.StateDenied) || !bytes.Contains(e.Body, []byte(`"approval_voided"`)) {
		t.Errorf("%+v %v", e, err)
	}
}
