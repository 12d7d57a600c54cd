package policy

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/execgate/execgate/execution"
)

// Terms are what the gateway's configuration adds to the policies that decide.
type Terms struct {
	// Obligations are Config.Obligations.
	Obligations []string `json:"obligations"`
	// Ceilings are those in force; nil where there are none.
	Ceilings *Ceilings `json:"ceilings,omitempty"`
}

// encode returns the terms as JSON, and their revision.
func (t Terms) encode() (text []byte, revision string, err error) {
	if t.Obligations == nil {
		t.Obligations = []string{}
	}
	text, err = json.Marshal(t) // maps are sorted
	return text, "sha256:" + execution.HexSHA256(text), err
}

// ReadTerms reads the terms of a document, which must have that revision.
func ReadTerms(text []byte, revision string) (Terms, error) {
	var t Terms
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return Terms{}, fmt.Errorf("read terms %s: %w", revision, err)
	}
	if is := "sha256:" + execution.HexSHA256(text); is != revision {
		return Terms{}, fmt.Errorf("read terms %s: they have the digest %s", revision, is)
	}
	return t, nil
}
