package executor_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor"
)

// Clients need no setting to reach a name whose TLS ends at the gateway. One that
// trusts nothing but the image's roots does not reach it.
func TestClientsTrustTheirSandboxsAuthority(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, carriedBy(&intercepting{}), withNode)
	underEach(t, func(t *testing.T, runtime string) {
		r := runOn(t, e, "python", under(runtime, python(urllibGets+`
import requests, ssl, urllib.error
print(requests.get('https://granted.example/a').text)
roots = '/etc/ssl/certs/ca-certificates.crt'
try: print(urllib.request.urlopen('https://granted.example/a', context=ssl.create_default_context(cafile=roots)).read())
except urllib.error.URLError as e: print(e.reason.verify_message)
try: print(requests.get('https://granted.example/a', verify=roots).text)
except requests.exceptions.SSLError: print('refused')
trusted = open(os.environ['SSL_CERT_FILE']).read()
print(trusted.startswith(open(roots).read()), trusted.count('BEGIN CERTIFICATE') - open(roots).read().count('BEGIN CERTIFICATE'), 'PRIVATE' in trusted)
print([name for name in os.environ if 'proxy' in name.lower()])
`)))
		if out := exitedWell(t, r); out != answered+"\n"+answered+"\nself-signed certificate in certificate chain\nrefused\nTrue 1 False\n[]" {
			t.Errorf("python: %s", describe(r))
		}
		const strict = `try { console.log(await get({ ca: require('tls').rootCertificates })); } catch (error) { console.log(error.code); }`
		for how, job := range map[string]execution.Job{
			"as a language": {Language: "javascript", Code: nodeGets + strict + nodeEnds},
			"as a command":  command("/usr/bin/node", "-e", nodeGets+strict+nodeEnds),
		} {
			r = runOn(t, e, "node", under(runtime, job))
			if out := exitedWell(t, r); out != answered+"\n"+answered+"\nSELF_SIGNED_CERT_IN_CHAIN" {
				t.Errorf("node %s: %s", how, describe(r))
			}
		}
	})
}

// A sandbox is not reached with the authority of another.
func TestEverySandboxHasAnAuthorityOfItsOwn(t *testing.T) {
	t.Parallel()
	egress := &intercepting{}
	e := newExecutor(t, carriedBy(egress), warm(1))
	untilParked(t, e, 1)
	seen := map[string]bool{}
	for i, change := range []func(*execution.Grant){
		func(g *execution.Grant) { g.Limits.MemoryMiB = 128 }, // a parked one
		func(g *execution.Grant) { g.Limits.TmpMiB = 1 },
		reusedByItsOwner,
		func(g *execution.Grant) { g.Reuse, g.Limits.MemoryMiB = execution.ReusePrincipal, 128 },
	} {
		job := python(urllibGets)
		job.ID = fmt.Sprintf("ex_own_%d", i)
		r := runOn(t, e, "python", job, change)
		if out := exitedWell(t, r); out != answered || r.Usage.Warm != (i == 0) {
			t.Errorf("%d: %s", i, describe(r))
		}
		key := egress.authorityOf(t, job.ID).PrivateKey.(*ecdsa.PrivateKey)
		if public := fmt.Sprint(key.X); seen[public] {
			t.Errorf("%d: the authority is another sandbox's", i)
		} else {
			seen[public] = true
		}
	}

	stranger := newExecutor(t, carriedBy(&intercepting{other: true}))
	r := runOn(t, stranger, "python", python(urllibGets))
	if r.Outcome != execution.OutcomeExited || *r.ExitCode != 1 || !strings.Contains(string(r.Stderr), "CERTIFICATE_VERIFY_FAILED") {
		t.Errorf("another sandbox's authority: %s", describe(r))
	}
}

// variables is what every program of this test prints: those that say what to trust.
const variables = `
import os
print(sorted(name for name in os.environ if name.endswith(('_CERT_FILE', '_BUNDLE', '_CAINFO', '_CERTS'))), os.path.exists('/tmp/.execgate-trust.pem'))
`

// A program without a network finds nothing of this in its environment, and one that
// has one finds what the executor says and not the caller.
func TestVariablesOfTrust(t *testing.T) {
	t.Parallel()
	const all = "['CURL_CA_BUNDLE', 'GIT_SSL_CAINFO', 'NODE_EXTRA_CA_CERTS', 'REQUESTS_CA_BUNDLE', 'SSL_CERT_FILE']"
	cold, ahead := newExecutor(t, carriedBy(&intercepting{})), newExecutor(t, carriedBy(&intercepting{}), warm(1))
	nothing := func(g *execution.Grant) { g.Network = execution.Network{} }
	for name, c := range map[string]struct {
		job    execution.Job
		change []func(*execution.Grant)
		warm   bool
		want   string
	}{
		"cold":                   {python(variables), []func(*execution.Grant){nothing}, false, "[] False"},
		"cold, with a network":   {python(variables), nil, false, all + " True"},
		"warm":                   {python(variables), []func(*execution.Grant){nothing}, true, "[] True"},
		"warm, with a network":   {python(variables), nil, true, all + " True"},
		"reused":                 {python(variables), []func(*execution.Grant){nothing, reusedByItsOwner}, false, "[] False"},
		"reused, with a network": {python(variables), []func(*execution.Grant){reusedByItsOwner}, false, all + " True"},
		"a command":              {command("/usr/bin/python3", "-c", variables), []func(*execution.Grant){nothing}, false, "[] False"},
		"a command, with one":    {command("/usr/bin/python3", "-c", variables), nil, false, all + " True"},
	} {
		t.Run(name, func(t *testing.T) {
			r := execution.Result{}
			if c.warm {
				r = adjusted(t, ahead, func() execution.Result { return runOn(t, ahead, "python", c.job, c.change...) })
			} else {
				r = runOn(t, cold, "python", c.job, c.change...)
			}
			if out := exitedWell(t, r); out != c.want || r.Usage.Warm != c.warm {
				t.Errorf("want %s: %s", c.want, describe(r))
			}
		})
	}

	job := execution.Job{Language: "bash", Code: `echo $SSL_CERT_FILE $NODE_EXTRA_CA_CERTS`}
	job.Env = map[string]string{"SSL_CERT_FILE": "/workspace/mine.pem", "NODE_EXTRA_CA_CERTS": "/workspace/mine.pem"}
	r := runOn(t, cold, "python", job)
	if out := exitedWell(t, r); out != "/tmp/.execgate-trust.pem /tmp/.execgate-trust.pem" {
		t.Errorf("the caller's: %s", describe(r))
	}
}

// What is trusted is there for each program of a sandbox that is reused, none can
// take it from the next, and what is parked in between has it at its start.
func TestTrustOfASandboxThatIsReused(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, carriedBy(&intercepting{}), withNode)
	underEach(t, func(t *testing.T, runtime string) {
		for i := range 3 {
			r := runOn(t, e, "python", under(runtime, python(urllibGets+`
path = os.environ['SSL_CERT_FILE']
for attempt in (
    lambda: os.unlink(path), lambda: os.rename(path, '/tmp/other'), lambda: open(path, 'a'), lambda: os.chmod(path, 0o666),
    lambda: os.rename('/dev/null', path), lambda: os.truncate(path, 0),
):
    try: attempt()
    except OSError: continue
    raise SystemExit('it can be changed')
open('/tmp/left', 'w')
`)), reusedByItsOwner)
			if out := exitedWell(t, r); out != answered || r.Usage.Warm != (i > 0) {
				t.Errorf("python, %d: %s", i, describe(r))
			}
			bash := execution.Job{Language: "bash", Code: "ls -A /tmp; touch /tmp/left\npython3 - <<'PY'" + urllibGets + "PY\n"}
			r = runOn(t, e, "python", under(runtime, bash), reusedByItsOwner)
			if out := exitedWell(t, r); out != ".execgate-trust.pem\n"+answered || r.Usage.Warm != (i > 0) {
				t.Errorf("bash, %d: %s", i, describe(r))
			}
			r = runOn(t, e, "node", under(runtime, execution.Job{Language: "javascript", Code: nodeGets + nodeEnds}), reusedByItsOwner)
			if out := exitedWell(t, r); out != answered+"\n"+answered || r.Usage.Warm != (i > 0) {
				t.Errorf("node, %d: %s", i, describe(r))
			}
		}
	})
}

// A program of a session may take from the next what it shares with it, and that
// finds what it is to trust all the same.
func TestTrustInASession(t *testing.T) {
	t.Parallel()
	egress := &intercepting{}
	e := newExecutor(t, carriedBy(egress), withNode, warm(1))
	untilParked(t, e, 1)
	for _, c := range []struct{ image, language, get, want string }{
		{"python", "python", urllibGets, answered},
		{"node", "javascript", nodeGets + nodeEnds, answered + "\n" + answered},
		{"python", "bash", "python3 - <<'PY'" + urllibGets + "PY\n", answered},
	} {
		t.Run(c.language, func(t *testing.T) {
			image := resolve(t, e, c.image)
			s := execution.Session{ID: execution.NewID(execution.PrefixSession, time.Now()), Owner: somebody, Language: c.language}
			s.Grant = execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted()}
			s.Grant.Limits.MemoryMiB = 256
			s.Grant.Session = execution.SessionGrant{IdleS: 60, AbsoluteS: 600, Max: 4}
			if err := e.OpenSession(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			defer e.CloseSession(context.Background(), s.ID)
			var first *tls.Certificate
			type harm struct{ what, code string }
			for _, h := range map[string][]harm{ // after the first there is what the others harm
				"python": {
					{"none", ""}, {"removed", "import os\nos.unlink('/tmp/.execgate-trust.pem')"},
					{"emptied", "import os\nos.chmod('/tmp/.execgate-trust.pem', 0o644); open('/tmp/.execgate-trust.pem', 'w')"},
					{"a folder", "import os\nos.unlink('/tmp/.execgate-trust.pem'); os.makedirs('/tmp/.execgate-trust.pem/a/b')"},
					{"a link", "import os\nos.unlink('/tmp/.execgate-trust.pem'); os.symlink('/workspace/kept', '/tmp/.execgate-trust.pem')"},
				},
				"javascript": {{"none", ""}, {"removed", "require('fs').rmSync('/tmp/.execgate-trust.pem')"}, {"killed", "process.kill(process.pid, 'SIGKILL')"}},
				"bash":       {{"none", ""}, {"removed", "rm -f /tmp/.execgate-trust.pem"}},
			}[c.language] {
				without := execution.Job{ID: execution.NewID("ex_", time.Now()), Owner: s.Owner, Session: s.ID, Language: c.language, Grant: s.Grant, Code: h.code}
				if r, err := e.Execute(t.Context(), without); err != nil {
					t.Fatal(err)
				} else if h.what != "killed" {
					exitedWell(t, r)
				}
				with := without
				with.ID, with.Code, with.Grant.Network = execution.NewID("ex_", time.Now()), c.get, granting
				r, err := e.Execute(t.Context(), with)
				if err != nil {
					t.Fatal(err)
				}
				if out := exitedWell(t, r); out != c.want {
					t.Errorf("%s: %s", h.what, describe(r))
				}
				authority := egress.authorityOf(t, with.ID)
				if first == nil {
					first = authority
				}
				if authority != first {
					t.Errorf("%s: the session has another authority than before", h.what)
				}
			}
		})
	}
}

// A driver of node that is parked trusts the authority though it was not known yet
// what would be granted.
func TestParkedNodeTrustsItsSandboxsAuthority(t *testing.T) {
	t.Parallel()
	e := newExecutor(t, carriedBy(&intercepting{}), withNode, func(c *executor.Config) {
		limits := granted()
		limits.MemoryMiB = 256
		c.Warm = []executor.Warm{{Image: "node", Language: "javascript", Runtime: "runc", Limits: limits, Target: 1, Max: 1}}
	})
	untilParked(t, e, 1)
	r := runOn(t, e, "node", execution.Job{Language: "javascript", Code: nodeGets + nodeEnds})
	if out := exitedWell(t, r); out != answered+"\n"+answered || !r.Usage.Warm {
		t.Errorf("%s", describe(r))
	}
}

// Where no authority can be made nothing runs that would need it, and the rest does.
func TestNoAuthority(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() (*tls.Certificate, error){
		"an error": func() (*tls.Certificate, error) { return nil, errors.New("no randomness") },
		"none":     func() (*tls.Certificate, error) { return nil, nil },
		"empty":    func() (*tls.Certificate, error) { return &tls.Certificate{}, nil },
		"no key":   func() (*tls.Certificate, error) { return &tls.Certificate{Certificate: [][]byte{{0x30, 0}}}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			egress := &intercepting{fail: fail}
			e := newExecutor(t, carriedBy(egress))
			image := resolve(t, e, "python")
			for _, reuse := range []execution.Reuse{"", execution.ReusePrincipal} {
				job := python("open('/tmp/ran', 'w')")
				job.ID, job.Owner = execution.NewID("ex_", time.Now()), somebody
				job.Grant = execution.Grant{Image: image.Digest, Runtime: "runc", Limits: granted(), Network: granting, Reuse: reuse}
				if r, err := e.Execute(t.Context(), job); execution.KindOf(err) != execution.KindUnavailable {
					t.Errorf("reuse %q: error %v, %s", reuse, err, describe(r))
				}
			}
			exitedWell(t, run(t, e, python("")))
			if egress.made != 2 {
				t.Errorf("%d were asked for", egress.made)
			}
		})
	}
}
