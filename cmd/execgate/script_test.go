package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the scripts in testdata/script: the command line as its user
// sees it. Beyond the language of testscript they have these commands:
//
//	[!] execgate ARG...   runs the program; ! where it must fail
//	exit N                the exit code of what execgate ran last
//	out-of-time ARG...    runs the program with a longer and longer timeout until something is printed
//	needs-engine          the rest needs a container engine
//	serve ARG...          starts a gateway and points EXECGATE_URL and EXECGATE_API_KEY at it
//	shutdown              stops it as an operator does
//	get STATUS PATH       asks it until it answers so; the body is stdout
//	revoke KEY            revokes a key by its text
//	keep NAME             makes what was printed last a variable
//	flip FILE OFFSET      changes one byte
//	record FILE           appends records, JSON objects one after the other, to the log of STATE
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			for _, entry := range os.Environ() { // what TestMain sets, and where the engine is
				if strings.HasPrefix(entry, envPrefix) || strings.HasPrefix(entry, "DOCKER_") {
					env.Vars = append(env.Vars, entry)
				}
			}
			env.Setenv("STATE", filepath.Join(env.WorkDir, "state"))
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "xdg"))
			env.Setenv("EXECGATE_AUDIT_SEGMENT_MIB", "1")
			env.Values[scriptKey{}] = &script{t: env.T().(testing.TB)}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"execgate": scriptExecgate, "exit": scriptExit, "out-of-time": scriptOutOfTime, "needs-engine": scriptNeedsEngine,
			"serve": scriptServe, "shutdown": scriptShutdown, "get": scriptGet,
			"revoke": scriptRevoke, "keep": scriptKeep, "flip": scriptFlip, "record": scriptRecord,
		},
	})
}

// script is what the commands of one script share.
type script struct {
	t       testing.TB
	code    int
	gateway *gatewayUnderTest
}

type scriptKey struct{}

// scriptOf returns the script of a command that has n arguments, or any number
// where n is negative.
func scriptOf(ts *testscript.TestScript, args []string, n int) *script {
	if n >= 0 && len(args) != n {
		ts.Fatalf("%d arguments, and not %d", n, len(args))
	}
	return ts.Value(scriptKey{}).(*script)
}

func scriptExecgate(ts *testscript.TestScript, neg bool, args []string) {
	s := scriptOf(ts, args, -1)
	err := ts.Exec("execgate", args...)
	s.code = 0
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		s.code = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if (err != nil) != neg {
		ts.Fatalf("exit code %d", s.code)
	}
}

func scriptExit(ts *testscript.TestScript, _ bool, args []string) {
	s := scriptOf(ts, args, 1)
	if want, err := strconv.Atoi(args[0]); err != nil || s.code != want {
		ts.Fatalf("exit code %d", s.code)
	}
}

func scriptOutOfTime(ts *testscript.TestScript, _ bool, args []string) {
	for ms := 300; ; ms *= 4 {
		scriptExecgate(ts, true, slices.Concat(args[:2], []string{"--limit", fmt.Sprintf("timeout_ms=%d", ms)}, args[2:]))
		if ts.ReadFile("stdout") != "" || ms > 15_000 {
			return
		}
	}
}

func scriptNeedsEngine(ts *testscript.TestScript, _ bool, args []string) {
	needsEngine(scriptOf(ts, args, 0).t)
}

func scriptServe(ts *testscript.TestScript, _ bool, args []string) {
	s := scriptOf(ts, args, -1)
	needsEngine(s.t)
	if s.gateway == nil {
		s.gateway = newGateway(s.t, ts.Getenv("STATE"), nil)
		ts.Defer(s.gateway.remove) // while its folder is there
	}
	s.gateway.args = args
	s.gateway.start()
	eventually(s.t, "the gateway answers", func() bool {
		_, err := s.gateway.try("GET", "/readyz", "")
		return err == nil
	})
	ts.Setenv(envURL, s.gateway.url)
	ts.Setenv(envKey, s.gateway.key())
}

func scriptShutdown(ts *testscript.TestScript, _ bool, args []string) {
	if code := scriptOf(ts, args, 0).gateway.stop(); code != 0 {
		ts.Fatalf("the gateway's exit code is %d", code)
	}
}

func scriptGet(ts *testscript.TestScript, _ bool, args []string) {
	s := scriptOf(ts, args, 2)
	var r reply
	// A check of readiness has its time, which a busy machine may take.
	eventually(s.t, "the answer is "+args[0], func() bool {
		r = s.gateway.request("GET", args[1], "")
		return strconv.Itoa(r.status) == args[0]
	})
	_, err := ts.Stdout().Write(r.body)
	ts.Check(err)
}

func scriptRevoke(ts *testscript.TestScript, neg bool, args []string) {
	scriptOf(ts, args, 1)
	id, _, _ := strings.Cut(args[0], ".")
	scriptExecgate(ts, neg, []string{"keys", "revoke", id})
}

func scriptKeep(ts *testscript.TestScript, _ bool, args []string) {
	scriptOf(ts, args, 1)
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func scriptFlip(ts *testscript.TestScript, _ bool, args []string) {
	scriptOf(ts, args, 2)
	offset, err := strconv.Atoi(args[1])
	ts.Check(err)
	content := []byte(ts.ReadFile(args[0]))
	content[offset] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), content, 0o600))
}

func scriptRecord(ts *testscript.TestScript, _ bool, args []string) {
	scriptOf(ts, args, 1)
	state := ts.Getenv("STATE")
	log, err := audit.New(audit.Config{Dir: filepath.Join(state, "audit"), KeyDir: filepath.Join(state, "keys"), SegmentBytes: 1 << 20, Budget: time.Minute})
	ts.Check(err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	for d := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0]))); ; {
		var record execution.Record
		if err := d.Decode(&record); err == io.EOF {
			break
		} else {
			ts.Check(err)
		}
		_, err := log.Append(ctx, record)
		ts.Check(err)
	}
	stop()
	ts.Check(errors.Join(<-ended, log.Close()))
}
