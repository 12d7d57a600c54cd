package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// Inspection is what an image is, and what becomes of it in a sandbox.
type Inspection struct {
	Reference    string    `json:"reference"`
	Digest       string    `json:"digest"` // what policy sees under data.images
	ID           string    `json:"id"`     // what the engine runs
	Architecture string    `json:"architecture"`
	Bytes        int64     `json:"bytes"`
	Findings     []Finding `json:"findings"`
}

// Finding is one thing about an image that matters to a sandbox of it.
type Finding struct {
	Subject string  `json:"subject"`
	Found   string  `json:"found"`
	Verdict Verdict `json:"verdict"`
	Note    string  `json:"note,omitempty"` // of an unfit one: what to do
}

// Verdict is what a finding comes to.
type Verdict string

// The verdicts on a finding.
const (
	VerdictFit     Verdict = "fit"
	VerdictIgnored Verdict = "ignored" // the image says it, and sandboxes have it otherwise
	VerdictUnfit   Verdict = "unfit"   // no sandbox of this image would do
)

// Fit reports whether the image may be granted.
func (i Inspection) Fit() bool {
	return !slices.ContainsFunc(i.Findings, func(f Finding) bool { return f.Verdict == VerdictUnfit })
}

// Trial is what a sandbox of an image is tried with.
type Trial struct {
	Runtime string // the engine's name of an OCI runtime
	Limits  execution.Limits
	Command []string // must end with exit code 0; empty: only what needs nothing of the image is run
}

// Present returns the digests of those images that the engine has, by name. It
// asks less of the engine than Digests does, which prepares it for sandboxes.
// Its error is of KindUnavailable.
func (e *Executor) Present(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if err := e.engines.ping(ctx); err != nil {
		return nil, unavailable(err)
	}
	found, err := resolveImages(ctx, e.engines.cli, e.cfg.Images)
	if err != nil {
		return nil, unavailable(err)
	}
	digests := map[string]string{}
	for name, image := range found {
		digests[name] = image.digest
	}
	return digests, nil
}

// Inspect looks at the image called name, and where nothing speaks against it
// runs sandboxes of it: a plain one, one with each of its languages, and one
// with the trial's command. Nothing is fetched: an image that the engine does
// not have is an error of KindNotFound. Run must be running.
func (e *Executor) Inspect(ctx context.Context, name string, t Trial) (Inspection, error) {
	at := slices.IndexFunc(e.cfg.Images, func(i Image) bool { return i.Name == name })
	if at < 0 {
		return Inspection{}, fmt.Errorf("inspect image: there is no %q in the list", name)
	}
	candidate := e.cfg.Images[at]
	report, err := e.examine(ctx, candidate)
	if err != nil || !report.Fit() {
		return report, err
	}
	for _, probe := range candidate.probes(t) {
		finding := e.try(ctx, probe, execution.Grant{Image: report.Digest, Runtime: t.Runtime, Limits: t.Limits})
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
		report.Findings = append(report.Findings, finding)
		if finding.Verdict == VerdictUnfit {
			// Where the engine is gone, it is not the image's doing.
			if err := e.engines.ping(ctx); err != nil {
				return report, unavailable(err)
			}
			break
		}
	}
	return report, nil
}

// examine reads what the image says about itself.
func (e *Executor) examine(ctx context.Context, candidate Image) (Inspection, error) {
	if err := e.engines.ping(ctx); err != nil {
		return Inspection{}, unavailable(err)
	}
	known, err := resolveImages(ctx, e.engines.cli, []Image{candidate})
	if err != nil {
		return Inspection{}, unavailable(err)
	}
	state, ok := known[candidate.Name]
	if !ok {
		return Inspection{}, &execution.Error{
			Kind:   execution.KindNotFound,
			Detail: fmt.Sprintf("The engine has no image %s: build it, or fetch it by `docker pull`; nothing is fetched here.", candidate.Reference),
		}
	}
	found, err := e.engines.cli.ImageInspect(ctx, state.facts.ID)
	if err != nil {
		return Inspection{}, unavailable(fmt.Errorf("inspect image %s: %w", candidate.Reference, err))
	}
	info, err := e.engines.cli.Info(ctx)
	if err != nil {
		return Inspection{}, unavailable(fmt.Errorf("ask the engine about itself: %w", err))
	}
	return Inspection{
		Reference: candidate.Reference, Digest: state.digest, ID: found.ID, Architecture: found.Architecture, Bytes: found.Size,
		Findings: slices.Concat(platform(found.Os, found.Architecture, info.Architecture), volumeFindings(state.facts.Volumes), ignored(found)),
	}, nil
}

// platform says whether the engine's machine runs the image's programs.
func platform(system, architecture, engine string) []Finding {
	f := Finding{Subject: "platform", Found: system + "/" + architecture, Verdict: VerdictFit}
	machine, known := elfMachines[architecture]
	if system != "linux" || !known || machine != elfMachines[engine] {
		f.Verdict = VerdictUnfit
		f.Note = fmt.Sprintf("the engine runs linux on %s: build the image for that", engine)
	}
	return []Finding{f}
}

// volumeFindings says of each VOLUME what covers it.
func volumeFindings(volumes []string) (list []Finding) {
	for _, v := range volumes {
		f := Finding{Subject: "VOLUME", Found: v, Verdict: VerdictIgnored, Note: "an empty mount that cannot be written covers it"}
		if _, err := volumeMasks([]string{v}); err != nil {
			f.Verdict, f.Note = VerdictUnfit, err.Error()
		} else if slices.Contains([]string{"/tmp", "/dev/shm", wire.Workspace}, path.Clean(v)) {
			f.Note = "a fresh mount in every sandbox"
		}
		list = append(list, f)
	}
	if len(volumes) > maxVolumes {
		_, err := volumeMasks(volumes)
		list = append(list, Finding{Subject: "VOLUME", Found: fmt.Sprint(len(volumes)), Verdict: VerdictUnfit, Note: err.Error() + ": build it with fewer"})
	}
	return list
}

// ignored lists what an image says about itself and sandboxes have otherwise.
// Values of variables are left out: they may be secrets.
func ignored(found image.InspectResponse) (list []Finding) {
	c := found.Config
	if c == nil {
		return nil
	}
	add := func(subject, value, note string) {
		if value != "" {
			list = append(list, Finding{subject, value, VerdictIgnored, note})
		}
	}
	add("USER", c.User, "a user of the sandbox's own")
	add("WORKDIR", strings.TrimPrefix(c.WorkingDir, wire.Workspace), wire.Workspace)
	add("ENTRYPOINT", strings.Join(c.Entrypoint, " "), "the request's command, or the driver")
	add("CMD", strings.Join(c.Cmd, " "), "the request's command, or the driver")
	var variables []string
	for _, variable := range c.Env {
		name, _, _ := strings.Cut(variable, "=")
		variables = append(variables, name)
	}
	add("ENV", strings.Join(variables, " "), "unset; a request sets what policy allows")
	add("LABEL", strings.Join(slices.Sorted(maps.Keys(c.Labels)), " "), "emptied")
	if c.Healthcheck != nil {
		add("HEALTHCHECK", strings.Join(c.Healthcheck.Test, " "), "none")
	}
	add("STOPSIGNAL", c.StopSignal, "SIGKILL")
	return list
}

// probe is one program that a sandbox of an image is tried with.
type probe struct {
	job      execution.Job
	exitCode int // that it must end with
	finding  Finding
}

// probes go from what every image can do to what only this one can.
func (i Image) probes(t Trial) []probe {
	// A program that no image has needs nothing of this one: the sandbox starts,
	// its controls are compared, and the agent says, as a shell does, that there
	// is no such program.
	list := []probe{{
		execution.Job{Command: []string{wire.AgentFolder + "/nothing"}}, exitNotFound,
		Finding{Subject: "sandbox", Found: t.Runtime, Note: "starts, and every control is in force"},
	}}
	for _, language := range slices.Sorted(maps.Keys(i.Languages)) {
		// The empty program is one in every language.
		list = append(list, probe{execution.Job{Language: language}, 0, Finding{Subject: "language", Found: language, Note: "its driver runs"}})
	}
	if len(t.Command) > 0 {
		list = append(list, probe{execution.Job{Command: t.Command}, 0, Finding{Subject: "command", Found: strings.Join(t.Command, " "), Note: "exit code 0"}})
	}
	return list
}

// try runs one program.
func (e *Executor) try(ctx context.Context, p probe, g execution.Grant) Finding {
	p.job.ID, p.job.Grant = execution.NewID("check_", time.Now()), g
	f := p.finding
	f.Verdict = VerdictFit
	result, err := e.Execute(ctx, p.job)
	switch {
	case err != nil:
		f.Verdict, f.Note = VerdictUnfit, cause(err)
	case result.Outcome != execution.OutcomeExited || result.ExitCode == nil || *result.ExitCode != p.exitCode:
		f.Verdict, f.Note = VerdictUnfit, howItEnded(result)
	}
	return f
}

// exitNotFound is the exit code of a program that is not there, as a shell and
// the agent give it.
const exitNotFound = 127

// maxSaid bounds what is shown of a program's last words, in bytes.
const maxSaid = 300

// howItEnded is a result in a line: its outcome, and what the program said last.
func howItEnded(r execution.Result) string {
	text := string(r.Outcome)
	if r.ExitCode != nil {
		text = fmt.Sprintf("exit code %d", *r.ExitCode)
	}
	lines := strings.Split(strings.TrimSpace(string(r.Stderr)), "\n")
	if said := lines[len(lines)-1]; said != "" {
		text += ": " + strings.ToValidUTF8(said[:min(len(said), maxSaid)], "�")
	}
	return text
}

// cause is what an error is about, without the advice for callers of the API.
func cause(err error) string {
	if e, ok := errors.AsType[*execution.Error](err); ok && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}
