package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/execgate/execgate/execution"
)

// Ceilings are what no policy can grant more of. They come from the operator's
// configuration, and only narrow. The zero Ceilings narrow nothing.
type Ceilings struct {
	Ceiling
	// Tenants are further ceilings of single tenants, by name.
	Tenants map[string]Ceiling `json:"tenants,omitempty"`
}

// Ceiling bounds what can be granted. A field that is not set bounds nothing; a
// list that is set and empty leaves nothing.
type Ceiling struct {
	// Limits are the most of each limit; zero is no bound. A request for more is
	// clamped, as it is at the policy's own limits.
	Limits execution.Limits `json:"limits,omitzero"`
	// Images are the names of the images that may be granted.
	Images []string `json:"images,omitzero"`
	// Runtimes are the runtimes that may be granted.
	Runtimes []string `json:"runtimes,omitzero"`
	// Tools are the tools that may be called, and whose credentials may be granted.
	Tools []string `json:"tools,omitzero"`
	// NoSessions, NoReuse and NoNetwork take away what they name.
	NoSessions bool `json:"no_sessions,omitempty"`
	NoReuse    bool `json:"no_reuse,omitempty"`
	NoNetwork  bool `json:"no_network,omitempty"`
}

// ParseCeilings reads ceilings as JSON. A field that is not known or stands twice
// is an error: a bound that is misspelt would be none.
func ParseCeilings(text []byte) (Ceilings, error) {
	plain, err := strictJSON(text)
	if err != nil {
		return Ceilings{}, err
	}
	if _, ok := plain.(map[string]any); !ok {
		return Ceilings{}, errors.New("it is not an object")
	}
	var c Ceilings
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Ceilings{}, err
	}
	canonical, err := json.Marshal(c)
	if err != nil {
		return Ceilings{}, err
	}
	if read, err := strictJSON(canonical); err != nil || !reflect.DeepEqual(read, plain) {
		// encoding/json takes other cases of a name, and null for anything.
		return Ceilings{}, errors.New("a field is written in another case, is null, or is zero: leave out what is not bounded")
	}
	return c, c.Validate()
}

// Validate reports what of the ceilings makes no sense: a limit in which nothing
// could run would deny everything.
func (c Ceilings) Validate() error {
	if err := c.Ceiling.validate(); err != nil {
		return err
	}
	for tenant, ceiling := range c.Tenants {
		if err := ceiling.validate(); err != nil {
			return fmt.Errorf("tenant %q: %w", tenant, err)
		}
	}
	return nil
}

func (c Ceiling) validate() error {
	for _, limit := range execution.AllLimits() {
		if v := *limit.Of(&c.Limits); v != 0 && (v < limit.Min || v > limit.Max) {
			return fmt.Errorf("limits.%s is %d: it must be from %d to %d, or left out", limit.Name, v, limit.Min, limit.Max)
		}
	}
	return nil
}

// Revision names the ceilings in records: "sha256:" and 64 hex digits.
func (c Ceilings) Revision() (string, error) {
	compiled, err := newCeilings(c)
	if err != nil {
		return "", err
	}
	return compiled.revision, nil
}

// ceilings are Ceilings in force.
type ceilings struct {
	Ceilings
	revision string
}

func newCeilings(c Ceilings) (*ceilings, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	canonical, err := json.Marshal(c) // maps are sorted
	if err != nil {
		return nil, err
	}
	return &ceilings{Ceilings: c, revision: "sha256:" + execution.HexSHA256(canonical)}, nil
}

// narrow takes from d what is above the ceilings.
func (c *ceilings) narrow(d *document, in *input) {
	c.Ceiling.narrow(d, in)
	if own, ok := c.Tenants[in.Principal.Tenant]; ok {
		own.narrow(d, in)
	}
}

func (c Ceiling) narrow(d *document, in *input) {
	if in.isEgress() {
		c.narrowEgress(d)
		return
	}
	if in.isAuditRead() {
		return // there is no quantity in it
	}
	for _, limit := range execution.AllLimits() {
		most, bound := *limit.Of(&c.Limits), limit.Of(&d.limits)
		if most != 0 { // a limit that policy left out stays out, and denies
			*bound = min(*bound, most)
		}
	}
	if c.Images != nil && !slices.Contains(c.Images, in.Action.Image.Name) {
		d.digests = nil
	}
	if c.Runtimes != nil && !slices.Contains(c.Runtimes, d.runtime) {
		d.refuse(execution.Reason{
			Code: codeRuntimeNotGranted, Rule: ruleCeilings,
			Message:     fmt.Sprintf("The runtime %.100q is not one that this gateway may grant.", d.runtime),
			Remediation: "The operator has to add it to policy.ceilings.runtimes, or the policy has to grant another.",
		})
	}
	if own := c.Tools; own != nil {
		d.credentials = slices.DeleteFunc(slices.Clone(d.credentials), func(c execution.Credential) bool {
			return !slices.Contains(own, c.Tool)
		})
	}
	if c.Tools != nil && in.Action.Kind == string(execution.ActionToolCall) && !slices.Contains(c.Tools, in.Action.Tool) {
		d.refuse(execution.Reason{
			Code: codeToolNotGranted, Rule: ruleCeilings,
			Message:     fmt.Sprintf("The tool %.100q is not one that this gateway may grant.", in.Action.Tool),
			Remediation: "The operator has to add it to policy.ceilings.tools.",
		})
	}
	if c.NoSessions {
		d.session = nil
	}
	if c.NoReuse {
		d.reuse = reuseNever
	}
	if c.NoNetwork {
		d.network = network{}
	}
}

// narrowEgress refuses what goes out where nothing may.
func (c Ceiling) narrowEgress(d *document) {
	if c.NoNetwork {
		d.refuse(execution.Reason{
			Code: codeNetworkNotGranted, Rule: ruleCeilings,
			Message:     "Nothing may leave the sandboxes of this gateway.",
			Remediation: "The operator has to take no_network out of policy.ceilings.",
		})
	}
}

// refuse makes a denial of d, or adds to one.
func (d *document) refuse(r execution.Reason) {
	if d.effect != execution.EffectDeny {
		d.effect, d.reasons = execution.EffectDeny, nil
	}
	d.reasons = append(slices.Clip(d.reasons), r)
}
