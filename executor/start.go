package executor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// start is the job in the agent's words, as the sandbox's next program.
func (c *conversation) start(image imageState) (wire.Start, error) {
	sb, job, l := c.sb, c.job, c.job.Grant.Limits
	sb.round++
	own := map[string]string{}
	maps.Copy(own, job.Env)
	variables, secrets, err := exposed(job.Exposed)
	if err != nil {
		return wire.Start{}, err
	}
	maps.Copy(own, variables)
	network, err := networkOf(job.Grant.Network)
	if err != nil {
		return wire.Start{}, err
	}
	if network != nil {
		if err := c.e.certify(sb); err != nil {
			return wire.Start{}, err
		}
		for _, name := range trustVariables {
			own[name] = wire.TrustPath
		}
		network.Hidden = c.e.cfg.HideNames
	}
	own["EXECGATE_EXECUTION"], own["EXECGATE_RESULT"] = job.ID, wire.ResultPath

	start := wire.Start{
		Round: sb.round, Keep: sb.keep, Process: wire.Process{Argv: job.Command, PIDs: sb.spec.Grant.Limits.PIDs},
		ResultBytes: l.ResultKiB << 10, FilesBytes: l.FilesMiB << 20, FilesCount: l.FilesCount,
		Network: network, Secrets: secrets,
	}
	if job.Language != "" {
		language := image.Languages[job.Language]
		text, err := jobText(language, job, own, sb.stays)
		if err != nil {
			return start, err
		}
		start.Job, start.Process.Argv = &text, language.Command
	}
	if sb.stays || sb.forks {
		// What it starts with outlasts the job, whose variables come with it.
		start.Process.Stays, own = sb.stays, sb.startVariables(image.Languages[job.Language])
	}
	start.Process.Env = environment(own)
	return start, nil
}

// jobText is what the driver reads. One that takes the code as it is finds the
// input among the program's own variables; if it stays, it gets them one by one,
// each ended by a NUL, then an empty one, and then the code.
func jobText(language Language, job execution.Job, own map[string]string, stays bool) (string, error) {
	if language.Text {
		own["INPUT_DATA"] = cmp.Or(string(job.Input), "null")
		if !stays {
			return job.Code, nil
		}
		var records strings.Builder
		for _, name := range slices.Sorted(maps.Keys(own)) {
			records.WriteString(name + "=" + own[name] + "\x00")
		}
		return records.String() + "\x00" + job.Code + "\x00", nil
	}
	text, err := json.Marshal(wire.Driver{Code: job.Code, Input: job.Input, Env: own, Result: wire.ResultPath, Session: stays})
	if err != nil {
		return "", fmt.Errorf("encode the job: %w", err)
	}
	return string(text) + "\n", nil
}

// environment is the whole environment of a program, with its own variables.
func environment(own map[string]string) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": wire.Workspace, "LANG": "C.UTF-8", "TMPDIR": "/tmp", "USER": "sandbox",
		"EXECGATE_RESULT": wire.ResultPath,
	}
	maps.Copy(env, own)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}
