package policy

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/execgate/execgate/execution"
)

// The cases that every policy denies, whatever an organisation grants: each is one
// ordinary question with one thing changed (a JSON merge patch, RFC 7396). They
// find the policies that are open by default: a rule that forbids what it knows and
// lets pass what is missing or new to it.
//
//go:embed must_deny.json
var mustDenyJSON []byte

// mustDeny is what must_deny.json holds.
type mustDeny struct {
	Question map[string]any `json:"question"`
	Cases    []struct {
		ID     string         `json:"id"`
		Change map[string]any `json:"change"`
		// Granted cases ask for something that no grant may hold. The policy may say
		// allow and leave it out of what it grants; the others it has to deny itself.
		Granted bool `json:"granted,omitempty"`
	} `json:"cases"`
}

// MustDenyReport is what a policy answers to the cases that every policy denies.
type MustDenyReport struct {
	// Allowed are the ids of the cases that it allows, or sends for approval. One is
	// enough to refuse the policy.
	Allowed []string `json:"allowed"`
	// Tenant is whose ordinary question the cases depart from. Empty: the policy
	// denies that of every tenant tried, so that its denials of the cases prove little.
	Tenant string `json:"tenant,omitempty"`
}

// Err is nil where nothing is allowed, and a *BundleError otherwise.
func (r MustDenyReport) Err() error {
	var problems []string
	for _, id := range r.Allowed {
		problems = append(problems, fmt.Sprintf("it allows what no policy may, the case %s of policy/must_deny.json: "+
			"allow only where each field is there and is granted, instead of denying what is known to be wrong", id))
	}
	if problems == nil {
		return nil
	}
	return &BundleError{Problems: problems}
}

func readMustDeny() (mustDeny, error) {
	var corpus mustDeny
	if err := json.Unmarshal(mustDenyJSON, &corpus); err != nil {
		return mustDeny{}, fmt.Errorf("must_deny.json: %w", err)
	}
	return corpus, nil
}

// OrdinaryQuestion is the input document of an ordinary execution of the tenant
// default, which asks for nothing but its code to be run.
func OrdinaryQuestion() ([]byte, error) {
	corpus, err := readMustDeny()
	if err != nil {
		return nil, err
	}
	return json.Marshal(corpus.Question)
}

// Ask asks a policy about an input document. An error means that there is no answer.
type Ask func(ctx context.Context, input []byte) (Answer, error)

// maxTenantsTried bounds the search for a tenant whose ordinary question is allowed.
const maxTenantsTried = 16

// MustDeny asks a policy the questions that every policy denies. The files are those
// of the policy, whose data name its tenants as the shipped policy's do (data.tenants);
// images are what it reads as data.images, and obligations are Config.Obligations.
func MustDeny(ctx context.Context, files Files, images map[string]string, obligations []string, ask Ask) (MustDenyReport, error) {
	corpus, err := readMustDeny()
	if err != nil {
		return MustDenyReport{}, err
	}
	allows := func(question map[string]any, enforced bool) (bool, error) {
		return allows(ctx, ask, question, obligations, enforced)
	}
	report := MustDenyReport{Allowed: []string{}}
	question := corpus.Question
	for _, tenant := range tenantsOf(files) {
		ordinary := ordinaryOf(corpus.Question, tenant, images)
		if tenant == "default" {
			question = ordinary
		}
		allowed, err := allows(ordinary, true)
		if err != nil {
			return MustDenyReport{}, err
		}
		if allowed {
			question, report.Tenant = ordinary, tenant
			break
		}
	}
	for _, c := range corpus.Cases {
		allowed, err := allows(patched(question, c.Change), c.Granted)
		if err != nil {
			return MustDenyReport{}, err
		}
		if allowed {
			report.Allowed = append(report.Allowed, c.ID)
		}
	}
	return report, nil
}

// allows reports whether a question is not denied: by the answer alone, or by what the
// gateway makes of it.
func allows(ctx context.Context, ask Ask, question map[string]any, obligations []string, enforced bool) (bool, error) {
	text, err := json.Marshal(question)
	if err != nil {
		return false, err
	}
	answer, err := ask(ctx, text)
	if err != nil {
		return false, err
	}
	if answer.Failure != nil {
		return false, nil
	}
	document, failed := decodeAnswer(answer)
	if failed != nil || document.effect == execution.EffectDeny {
		return false, nil
	}
	if !enforced {
		return true, nil
	}
	in, _, err := readInput(text)
	if err != nil {
		return false, err
	}
	return enforce(document, in, "", obligations).Effect != execution.EffectDeny, nil
}

// ordinaryOf is the ordinary question as a tenant's caller asks it, of the image that
// its name stands for now.
func ordinaryOf(question map[string]any, tenant string, images map[string]string) map[string]any {
	change := map[string]any{"principal": map[string]any{"tenant": tenant}}
	if digest := images["python"]; digest != "" {
		change["action"] = map[string]any{"image": map[string]any{"digest": digest}}
	}
	return patched(question, change)
}

// tenantsOf are the tenants that a policy's data name, default first: the members of
// data.tenants, wherever these stand.
func tenantsOf(files Files) []string {
	found := make(map[string]bool)
	for name, text := range files {
		folders := strings.Split(path.Dir(name), "/")
		switch {
		case path.Base(name) != "data.json":
		case folders[0] == "tenants" && len(folders) > 1:
			found[folders[1]] = true
		case folders[0] == "tenants":
			addMembers(found, text)
		case folders[0] == ".":
			var data struct {
				Tenants json.RawMessage `json:"tenants"`
			}
			_ = json.Unmarshal(text, &data) // data of another form name none
			addMembers(found, data.Tenants)
		}
	}
	delete(found, "default")
	names := slices.Sorted(maps.Keys(found))
	return append([]string{"default"}, names[:min(len(names), maxTenantsTried-1)]...)
}

func addMembers(found map[string]bool, text []byte) {
	var members map[string]json.RawMessage
	_ = json.Unmarshal(text, &members)
	for name := range members {
		found[name] = true
	}
}

// patched applies a merge patch: null removes.
func patched(document, change map[string]any) map[string]any {
	result := maps.Clone(document)
	if result == nil {
		result = make(map[string]any)
	}
	for key, value := range change {
		inner, isObject := value.(map[string]any)
		switch {
		case value == nil:
			delete(result, key)
		case isObject:
			old, _ := result[key].(map[string]any)
			result[key] = patched(old, inner)
		default:
			result[key] = value
		}
	}
	return result
}
