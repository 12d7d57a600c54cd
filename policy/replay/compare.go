package replay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/execgate/execgate/execution"
)

// Class is how a decision differs from another about the same input. A pair of
// decisions may be of several.
type Class string

// The classes.
const (
	Same Class = "same" // apart from the revisions
	// What became of the effect.
	DenyToAllow     Class = "deny_to_allow"
	DenyToApproval  Class = "deny_to_approval"
	ApprovalToAllow Class = "approval_to_allow"
	AllowToApproval Class = "allow_to_approval"
	AllowToDeny     Class = "allow_to_deny"
	ApprovalToDeny  Class = "approval_to_deny"
	// What became of the grant, where both have one. Something that is asked for
	// less is loosened too: a control that need not be enforced, a sandbox that may
	// be used again, a session that may last longer, requests that policy is not asked about.
	LimitsLoosened      Class = "limits_loosened"
	LimitsTightened     Class = "limits_tightened"
	DestinationsWidened Class = "destinations_widened"
	CredentialsWidened  Class = "credentials_widened"
	ObligationsDropped  Class = "obligations_dropped"
	// Other is what is none of these: another reason, another runtime.
	Other Class = "other"
)

// Classes lists every class.
func Classes() []Class {
	return []Class{
		Same, DenyToAllow, DenyToApproval, ApprovalToAllow, AllowToApproval, AllowToDeny, ApprovalToDeny,
		LimitsLoosened, LimitsTightened, DestinationsWidened, CredentialsWidened, ObligationsDropped, Other,
	}
}

// Widening are the classes by which something is allowed that was not.
func Widening() []Class {
	return []Class{
		DenyToAllow, DenyToApproval, ApprovalToAllow, LimitsLoosened, DestinationsWidened, CredentialsWidened, ObligationsDropped,
	}
}

// decision is what is compared of an execution.Decision. It is read from JSON,
// because what was recorded may be of another version.
type decision struct {
	Effect  execution.Effect   `json:"effect"`
	Reasons []execution.Reason `json:"reasons"`
	Grant   struct {
		Limits           map[string]int64  `json:"limits"`
		OptionalControls []string          `json:"optional_controls"`
		Credentials      []json.RawMessage `json:"credentials"`
		Session          map[string]int64  `json:"session"`
		Reuse            execution.Reuse   `json:"reuse"`
		Network          struct {
			Rules  []json.RawMessage `json:"rules"`
			Budget map[string]int64  `json:"budget"`
			Decide string            `json:"decide"`
		} `json:"network"`
	} `json:"grant"`
	Obligations []json.RawMessage `json:"obligations"`
}

// Compare says how the decision is differs from was, both as JSON; the revisions
// that they name are not looked at.
func Compare(was, is []byte) ([]Class, error) {
	same, err := sameButRevisions(was, is)
	if err != nil {
		return nil, err
	}
	if same {
		return []Class{Same}, nil
	}
	var before, after decision
	for text, into := range map[*decision][]byte{&before: was, &after: is} {
		if err := json.Unmarshal(into, text); err != nil {
			return nil, fmt.Errorf("read decision: %w", err)
		}
	}
	classes := before.to(&after)
	if len(classes) == 0 {
		classes = []Class{Other}
	}
	return classes, nil
}

// sameButRevisions compares all members of two decisions but those that name
// policies.
func sameButRevisions(was, is []byte) (bool, error) {
	var before, after map[string]json.RawMessage
	for text, into := range map[*map[string]json.RawMessage][]byte{&before: was, &after: is} {
		if err := json.Unmarshal(into, text); err != nil {
			return false, fmt.Errorf("read decision: %w", err)
		}
		delete(*text, "revision")
		delete(*text, "layers")
	}
	if len(before) != len(after) {
		return false, nil
	}
	for name, value := range before {
		if other, ok := after[name]; !ok || !bytes.Equal(value, other) {
			return false, nil
		}
	}
	return true, nil
}

func (d *decision) to(is *decision) (classes []Class) {
	if d.Effect != is.Effect {
		classes = append(classes, effectClass(d.Effect, is.Effect))
	}
	if d.denies() || is.denies() {
		return classes // there is no grant to compare with
	}
	was, now := &d.Grant, &is.Grant
	looser, tighter := compareNumbers(was.Limits, now.Limits)
	for _, pair := range [][2]map[string]int64{{was.Session, now.Session}, {was.Network.Budget, now.Network.Budget}} {
		l, t := compareNumbers(pair[0], pair[1])
		looser, tighter = looser || l, tighter || t
	}
	looser = looser || more(was.OptionalControls, now.OptionalControls) || was.Reuse != now.Reuse && now.Reuse == execution.ReusePrincipal ||
		asksMore(was.Network.Decide, now.Network.Decide)
	tighter = tighter || more(now.OptionalControls, was.OptionalControls) || was.Reuse != now.Reuse && was.Reuse == execution.ReusePrincipal ||
		asksMore(now.Network.Decide, was.Network.Decide)
	for _, found := range []struct {
		is    bool
		class Class
	}{
		{looser, LimitsLoosened},
		{tighter, LimitsTightened},
		{more(texts(was.Network.Rules), texts(now.Network.Rules)), DestinationsWidened},
		{more(texts(was.Credentials), texts(now.Credentials)), CredentialsWidened},
		{more(texts(is.Obligations), texts(d.Obligations)), ObligationsDropped},
	} {
		if found.is {
			classes = append(classes, found.class)
		}
	}
	return classes
}

// asksMore reports whether policy is asked about each request by one grant and not by
// the other.
func asksMore(by, other string) bool {
	return by == string(execution.DecideRequest) && other != string(execution.DecideRequest)
}

// denies holds also for an effect that is not known.
func (d *decision) denies() bool {
	return d.Effect != execution.EffectAllow && d.Effect != execution.EffectRequireApproval
}

func effectClass(was, is execution.Effect) Class {
	switch [2]execution.Effect{was, is} {
	case [2]execution.Effect{execution.EffectDeny, execution.EffectAllow}:
		return DenyToAllow
	case [2]execution.Effect{execution.EffectDeny, execution.EffectRequireApproval}:
		return DenyToApproval
	case [2]execution.Effect{execution.EffectRequireApproval, execution.EffectAllow}:
		return ApprovalToAllow
	case [2]execution.Effect{execution.EffectAllow, execution.EffectRequireApproval}:
		return AllowToApproval
	case [2]execution.Effect{execution.EffectAllow, execution.EffectDeny}:
		return AllowToDeny
	case [2]execution.Effect{execution.EffectRequireApproval, execution.EffectDeny}:
		return ApprovalToDeny
	}
	return Other
}

// compareNumbers reports whether any number rose, and whether any fell. One that
// is missing on one side is no bound there, or not granted: it did both.
func compareNumbers(was, is map[string]int64) (rose, fell bool) {
	for name, n := range is {
		before, ok := was[name]
		rose = rose || !ok || n > before
		fell = fell || !ok || n < before
	}
	for name := range was {
		if _, ok := is[name]; !ok {
			rose, fell = true, true
		}
	}
	return rose, fell
}

// more reports whether is has something that was has not.
func more(was, is []string) bool {
	return slices.ContainsFunc(is, func(s string) bool { return !slices.Contains(was, s) })
}

func texts(list []json.RawMessage) []string {
	all := make([]string, len(list))
	for i, text := range list {
		all[i] = string(text)
	}
	return all
}

// rules are the ids of the rules that gave the reasons, each once, in order.
func rules(reasons []execution.Reason) []string {
	var ids []string
	for _, r := range reasons {
		if id := orCode(r); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

func orCode(r execution.Reason) string {
	if r.Rule == "" {
		return r.Code
	}
	return r.Rule
}
