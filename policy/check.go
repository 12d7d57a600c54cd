package policy

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Finding is one thing that its author should change in a bundle.
type Finding struct {
	Code    string `json:"code"` // one of the Find… constants
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"` // from 1; 0 where it is about the whole
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// The codes of findings. A bundle that has one of the first three cannot be put in
// force.
const (
	FindBroken         = "broken"          // it is not read, or does not compile
	FindMustDeny       = "must-deny"       // it allows what every policy denies
	FindNoDecision     = "no-decision"     // the rules give no answer that the gateway takes
	FindOpenDefault    = "open-default"    // what no rule decides is allowed
	FindOpenNegation   = "open-negation"   // an allow that needs something not to be known
	FindOpenInequality = "open-inequality" // everything but what is named passes
	FindOpenHead       = "open-head"       // a denial that does not hold where its own words are missing
	FindOpenPattern    = "open-pattern"    // a part of a text that stands for the whole
	FindNoMetadata     = "no-metadata"     // a denial that does not explain itself
	FindSameID         = "same-id"         // two rules that records cannot tell apart
	FindUnformatted    = "unformatted"
	FindNoTests        = "no-tests"
	FindUntried        = "untried" // the cases that every policy denies prove little
)

// CheckReport is what Check finds.
type CheckReport struct {
	// Digest names the files, as records and the gateway's API do.
	Digest   string    `json:"digest"`
	Findings []Finding `json:"findings"` // by file and line
}

// Check looks at a bundle as its author would want it looked at before anybody
// else does: whether the gateway would take it (all but its own tests, which are
// Test's, and signatures), and for what makes policies open by default, hard to
// explain or hard to change. The images are what the bundle reads as data.images;
// nil stands for the image python alone. Obligations are Config.Obligations.
func Check(ctx context.Context, folder fs.FS, images map[string]string, obligations []string) (CheckReport, error) {
	report := CheckReport{Findings: []Finding{}}
	files, err := ReadFiles(folder)
	if err != nil {
		return report.broken(err)
	}
	report.Digest = files.Digest()
	if images == nil {
		images = map[string]string{"python": "sha256:" + strings.Repeat("0", 63) + "1"}
	}
	loaded, err := load(Bundle{Files: files, Images: images})
	if err != nil {
		return report.broken(err)
	}
	modules, err := loaded.parse(func(string) bool { return true })
	if err != nil {
		return report.broken(err)
	}
	report.Findings = lint(modules, files)
	p, err := prepare(ctx, loaded)
	if err != nil {
		return report.broken(err)
	}
	if err := report.addMustDeny(ctx, p, files, images, obligations); err != nil {
		return CheckReport{}, err
	}
	report.sort()
	return report, nil
}

// broken adds what keeps a bundle from being compiled. Other errors are returned.
func (r CheckReport) broken(err error) (CheckReport, error) {
	bundle, ok := errors.AsType[*BundleError](err)
	if !ok {
		return CheckReport{}, err
	}
	for _, problem := range bundle.Problems {
		r.Findings = append(r.Findings, findingOf(problem))
	}
	r.sort()
	return r, nil
}

// located is the form of a problem that has a place.
var located = regexp.MustCompile(`(?s)^([^\s:]+):(\d+): (?:rego_\w+: )?(.*)$`)

// findingOf is a problem as a finding.
func findingOf(problem string) Finding {
	f := Finding{Code: FindBroken, Message: problem}
	if parts := located.FindStringSubmatch(problem); parts != nil {
		f.File, f.Message = parts[1], parts[3]
		f.Line, _ = strconv.Atoi(parts[2])
	}
	f.Remedy = remedyOf(f.Message)
	return f
}

// remedies say what to do about what the compiler says, by a part of its words.
var remedies = []struct{ says, remedy string }{
	{"undefined ref: input", "the input has no such field: docs/policy-input.md lists those that there are"},
	{"undefined function", "docs/policy.md lists the builtins that a policy has"},
	{"is unsafe", "give the variable a value in the rule's body, or declare it there with `some`"},
	{"unused", "remove it, or use it"},
	{"match error", "the two sides can never be equal: compare values of one type (docs/policy-input.md has the types of the input)"},
	{"arity mismatch", "count the arguments against https://www.openpolicyagent.org/docs/policy-reference"},
	{"var cannot be used for rule name", "write `if` before a rule's body, and `contains` in the head of a rule that collects"},
	{"`if` keyword is required", "write `if` before the rule's body"},
	{"unexpected", "the text around this place is not Rego: look for a bracket, a comma or a keyword that is missing"},
	{"no rule defines", "add a rule named decision to the package execgate"},
	{"conflict", "two rules define one value: join them, or give one of them another name"},
}

func remedyOf(message string) string {
	for _, r := range remedies {
		if strings.Contains(message, r.says) {
			return r.remedy
		}
	}
	return "change it so that the gateway can read and compile it; docs/policy.md says what a bundle may have"
}

// addMustDeny asks the policy what every policy denies, in this process: its author
// runs it.
func (r *CheckReport) addMustDeny(ctx context.Context, p *policy, files Files, images map[string]string, obligations []string) error {
	denials, err := MustDeny(ctx, files, images, obligations, func(ctx context.Context, input []byte) (Answer, error) {
		answer, err := p.answerJSON(ctx, input, nil)
		if err == nil && answer.Failure != nil && answer.Cause != "" {
			r.add(FindNoDecision, "the answer to one of the questions that every policy is asked is an error: "+answer.Cause,
				"the request is denied, but without a reason that helps: make the rule hold, or not hold, for every input")
		}
		return answer, err
	})
	if err != nil {
		return err
	}
	for _, id := range denials.Allowed {
		r.add(FindMustDeny, "it allows the case "+id+", which no policy may",
			"allow only where each field is there and is granted, instead of denying what is known to be wrong; docs/policy.md describes the case")
	}
	if denials.Tenant == "" {
		r.add(FindUntried, "the ordinary question is denied for every tenant that was tried, so that the denials of what every policy denies prove little",
			"name the tenants in data.tenants, as the shipped policy does, or see with `execgate policy eval` why an ordinary execution is denied")
	}
	return nil
}

// add adds a finding about the whole, once.
func (r *CheckReport) add(code, message, remedy string) {
	f := Finding{Code: code, Message: message, Remedy: remedy}
	if !slices.Contains(r.Findings, f) {
		r.Findings = append(r.Findings, f)
	}
}

func (r *CheckReport) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Code, b.Code))
	})
}
