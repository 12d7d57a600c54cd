package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/execgate/execgate/execution"
)

// ProofReport is what CheckProof and CheckExport found.
type ProofReport struct {
	// Origin names the log.
	Origin string `json:"origin"`
	// First and Last are the numbers of the records that are proven, and Records
	// how many there are; without a record Records is 0.
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	Records uint64 `json:"records"`
	Voids   uint64 `json:"voids"` // of the numbers between First and Last
	// Redacted is set where the record's content is not in the proof, only its digest.
	Redacted bool `json:"redacted"`
	// Record is the one that a proof proves; nil of an export.
	Record json.RawMessage `json:"record,omitempty"`
	// ExtendsSize is the size of the earlier checkpoint, 0 without one, and Size
	// that of the checkpoint that the proof leads to.
	ExtendsSize uint64 `json:"extends_size"`
	Size        uint64 `json:"size"`
	// Integrity says that what the proof shows was in the log at the checkpoint.
	Integrity Verdict `json:"integrity"`
}

// CheckProof checks a proof that Prove made, with nothing but a public key that the
// log has or had. The error says that verifier is not a key; what is wrong with the
// proof is in the report.
func CheckProof(data []byte, verifier string) (ProofReport, error) {
	ring, err := newKeyring(verifier)
	if err != nil {
		return ProofReport{}, err
	}
	report := ProofReport{Origin: ring.origin(), Integrity: Verdict{OK: true, Findings: []Finding{}, Notes: []Finding{}}}
	if where, err := report.check(data, ring); err != nil {
		report.Integrity.find(where, 0, "%v", err)
		report.Records, report.Record, report.ExtendsSize = 0, nil, 0
	}
	return report, nil
}

// check returns the part of the proof that is wrong, and why.
func (r *ProofReport) check(data []byte, ring *keyring) (where string, err error) {
	var p Proof
	if err := decodeStrictly(data, &p); err != nil {
		return "the proof", err
	}
	if p.Format != ProofFormat {
		return "format", fmt.Errorf("it is %q, and this program knows %s", p.Format, ProofFormat)
	}
	stated, where, err := openProven(ring, p.Checkpoint, p.KeyRotations)
	if err != nil {
		return where, err
	}
	r.Size = stated.size
	if p.Record == nil && p.Extends == nil {
		return "the proof", errors.New("it proves nothing: there is neither a record nor an earlier checkpoint")
	}
	if p.Extends != nil {
		earlier, err := ring.open([]byte(p.Extends.Checkpoint))
		if err != nil {
			return "extends.checkpoint", err
		}
		if err := checkExtension(p.Extends, earlier, stated); err != nil {
			return "extends", err
		}
		r.ExtendsSize = earlier.size
	}
	if p.Record == nil {
		return "", nil
	}
	if err := checkInclusion(p.Record, stated); err != nil {
		return fmt.Sprintf("record %d", p.Record.Seq), err
	}
	r.First, r.Last, r.Records = p.Record.Seq, p.Record.Seq, 1
	r.Redacted = p.Record.Payload == ""
	if !r.Redacted {
		r.Record = json.RawMessage(p.Record.Payload)
	}
	return "", nil
}

// openProven opens the checkpoint of a proof or export with the keys that it and
// the rotations of the key connect with the one that is trusted.
func openProven(ring *keyring, checkpoint string, rotations []string) (stated signedTree, where string, err error) {
	var known []keyRotation
	for i, text := range append(slices.Clone(rotations), checkpoint) {
		rotation, ok := rotationOf([]byte(text))
		if !ok && i < len(rotations) {
			return signedTree{}, "key_rotations", fmt.Errorf("number %d is not a rotation of the key", i)
		}
		if ok {
			rotation.file = fmt.Sprintf("number %d", i)
			known = append(known, rotation)
		}
	}
	for _, err := range ring.follow(known) {
		return signedTree{}, "key_rotations", err
	}
	stated, err = ring.open([]byte(checkpoint))
	return stated, "checkpoint", err
}

// checkInclusion holds a record against the root that a checkpoint states.
func checkInclusion(r *ProvenRecord, stated signedTree) error {
	if r.Seq >= stated.size {
		return fmt.Errorf("the checkpoint covers %d records, so not this one", stated.size)
	}
	leaf, err := r.leaf()
	if err != nil {
		return err
	}
	if tlog.CheckRecord(r.Path, int64(stated.size), stated.root, int64(r.Seq), leaf) != nil {
		return errors.New("it does not lead to the root that the checkpoint states: the record or its path was altered, or they belong to different records")
	}
	if r.Payload == "" {
		return nil
	}
	var rec execution.Record
	if err := json.Unmarshal([]byte(r.Payload), &rec); err != nil {
		return fmt.Errorf("decode it: %w", err)
	}
	if rec.Seq != r.Seq {
		return fmt.Errorf("it says that it is record %d", rec.Seq)
	}
	return nil
}

// checkExtension holds two checkpoints against each other.
func checkExtension(e *Extension, earlier, later signedTree) error {
	if earlier.size > later.size {
		return fmt.Errorf("the earlier checkpoint covers %d records and the later only %d: the log was cut", earlier.size, later.size)
	}
	if earlier.size == 0 {
		if len(e.Path) > 0 {
			return errors.New("nothing is to be proven of an empty log, and there is a path")
		}
		return nil
	}
	if tlog.CheckTree(e.Path, int64(later.size), later.root, int64(earlier.size), earlier.root) != nil {
		return fmt.Errorf("the log of %d records does not extend that of %d: its past was altered, or the path was", later.size, earlier.size)
	}
	return nil
}

// decodeStrictly decodes one JSON value that has no field which v does not know,
// none twice, and nothing after it, so that no two programs read it differently.
func decodeStrictly(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("decode it: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("decode it: something follows its end")
	}
	return noDuplicates(json.NewDecoder(bytes.NewReader(data)))
}

// noDuplicates reads one value and refuses a field that is there twice, or in
// other letters than encoding/json writes.
func noDuplicates(d *json.Decoder) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			text := name.(string) // the decoder lets nothing else stand there
			if seen[text] || !lower(text) {
				return fmt.Errorf("decode it: the field %q stands there twice, or in capitals", text)
			}
			seen[text] = true
		}
		if err := noDuplicates(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// lower reports whether text is spelled as the fields of a proof are.
func lower(text string) bool {
	return !slices.ContainsFunc([]byte(text), func(b byte) bool { return (b < 'a' || b > 'z') && b != '_' })
}
