package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// ProofFormat is the value of Proof.Format. It changes when an older verifier
// would misread a newer proof.
const ProofFormat = "execgate/audit-proof/1"

// Proof shows, to anybody who has the log's public key, that one record is in the
// log, or that the log extends what it was at an earlier checkpoint, or both.
// Hashes and bytes are in base64.
type Proof struct {
	Format string `json:"format"`
	// Record is what is proven to be in the log; nil where nothing is.
	Record *ProvenRecord `json:"record,omitempty"`
	// Extends is the earlier checkpoint; nil where there is none.
	Extends *Extension `json:"extends,omitempty"`
	// Checkpoint is the signed note (C2SP tlog-checkpoint) that both lead to.
	Checkpoint string `json:"checkpoint"`
	// KeyRotations are the signed notes by which the log rotated its key.
	KeyRotations []string `json:"key_rotations,omitempty"`
}

// ProvenRecord is one leaf of the tree, and the way from it to the root. Its hash
// is SHA-256 over a zero byte and the leaf: the byte 1, FrameType as one byte, Seq
// and Ref as eight bytes each, big endian, and the digest.
type ProvenRecord struct {
	Seq uint64 `json:"seq"`
	// FrameType is 16 for a record, 17 for a decision that allows, 18 for an end,
	// 19 for a gap, 24 for a removal by retention.
	FrameType uint8 `json:"frame_type"`
	// Ref is of an end the number of its decision, of a removal the number that the
	// log begins with after it, else 0.
	Ref uint64 `json:"ref"`
	// Salt and Payload, the record's JSON, are absent where the proof is redacted.
	// The digest is then Digest, else SHA-256 over both.
	Salt    []byte `json:"salt,omitempty"`
	Payload string `json:"payload,omitempty"`
	Digest  []byte `json:"digest,omitempty"`
	// Path is the inclusion proof of RFC 6962, section 2.1.1: the hashes beside the
	// way from the leaf to the root, the lowest first.
	Path []tlog.Hash `json:"path"`
}

// Extension is an earlier state of the log.
type Extension struct {
	// Checkpoint is the signed note of it.
	Checkpoint string `json:"checkpoint"`
	// Path is the consistency proof of RFC 6962, section 2.1.2.
	Path []tlog.Hash `json:"path"`
}

// ProveOptions say what Prove proves: Seq, From or both are given.
type ProveOptions struct {
	// Seq is the number of a record; nil for none.
	Seq *uint64
	// Redacted leaves the record's content out: the proof then shows that a record
	// with this digest is in the log, to whoever has the record elsewhere.
	Redacted bool
	// From is an earlier checkpoint, which the log is proven to extend; nil for none.
	From []byte
	// Checkpoint is the one to prove against; nil for the log's latest.
	Checkpoint []byte
}

// Prove makes a proof from the log in dir, which may be in use or a copy. verifier
// is the log's public key, any that it has had. It reads from the segment on that
// holds what is to be proven, once, and keeps some hashes for each level of the
// tree. The error says what is damaged, missing, or not covered yet.
func Prove(dir, verifier string, o ProveOptions) (*Proof, error) {
	v, err := openView(dir, verifier, o.Checkpoint)
	if err != nil {
		return nil, err
	}
	p := &Proof{Format: ProofFormat, Checkpoint: string(v.signed), KeyRotations: v.rotations}
	size := int64(v.stated.size)
	need, first := nodes{}, v.stated.size
	var inclusion, extension func(tlog.HashReader) error
	var earlier signedTree
	if o.Seq != nil {
		seq := *o.Seq
		if err := v.covers(seq); err != nil {
			return nil, err
		}
		p.Record = &ProvenRecord{Seq: seq}
		inclusion = func(r tlog.HashReader) (err error) {
			p.Record.Path, err = tlog.ProveRecord(size, int64(seq), r)
			return err
		}
		first = seq
		if err := need.need(inclusion); err != nil {
			return nil, err
		}
	}
	if o.From != nil {
		if earlier, err = v.ring.open(o.From); err != nil {
			return nil, fmt.Errorf("the earlier checkpoint: %w", err)
		}
		if earlier.size > v.stated.size {
			return nil, fmt.Errorf("the earlier checkpoint covers %d records and %s only %d: the log was longer than it is, so records are gone", earlier.size, v.stated.file, v.stated.size)
		}
		p.Extends = &Extension{Checkpoint: string(o.From), Path: []tlog.Hash{}}
		if earlier.size > 0 { // every tree extends the empty one
			extension = func(r tlog.HashReader) error {
				path, err := tlog.ProveTree(size, int64(earlier.size), r)
				p.Extends.Path = path
				return err
			}
			first = min(first, earlier.size)
			if err := need.need(extension); err != nil {
				return nil, err
			}
		}
	}
	if p.Record == nil && p.Extends == nil {
		return nil, errors.New("a proof needs a record's number, an earlier checkpoint, or both")
	}
	err = v.follow(first, func(_ *tree, f frame) error {
		if p.Record == nil || f.seq != p.Record.Seq {
			return nil
		}
		return p.Record.take(f, o.Redacted)
	}, need.see)
	if err != nil {
		return nil, err
	}
	for _, prove := range []func(tlog.HashReader) error{inclusion, extension} {
		if prove == nil {
			continue
		}
		if err := prove(need); err != nil {
			return nil, err
		}
	}
	if p.Extends != nil {
		// The earlier checkpoint may be of a fork.
		if err := checkExtension(p.Extends, earlier, v.stated); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// take fills the record in from its frame.
func (r *ProvenRecord) take(f frame, redacted bool) error {
	if f.typ == frameVoid {
		return fmt.Errorf("number %d is void: a write failed before it was acknowledged, and a gap after it says so", f.seq)
	}
	r.FrameType, r.Ref = uint8(f.typ), f.ref()
	if redacted {
		digest := sha256.Sum256(f.salted())
		r.Digest = digest[:]
		return nil
	}
	if !json.Valid(f.payload()) {
		return fmt.Errorf("record %d is not JSON", f.seq)
	}
	r.Salt, r.Payload = bytes.Clone(f.body[8:recordHeaderBytes]), string(f.payload())
	return nil
}

// leaf returns the hash of the record's leaf.
func (r *ProvenRecord) leaf() (tlog.Hash, error) {
	typ := frameType(r.FrameType)
	if !(frame{typ: typ}).isLeaf() {
		return tlog.Hash{}, fmt.Errorf("the frame type %d is not that of a record", r.FrameType)
	}
	switch {
	case r.Payload == "" && r.Salt == nil && len(r.Digest) == sha256.Size:
		return leafHash(typ, r.Seq, r.Ref, [sha256.Size]byte(r.Digest)), nil
	case r.Payload != "" && len(r.Salt) == saltBytes && r.Digest == nil:
		return leafHash(typ, r.Seq, r.Ref, sha256.Sum256(append(bytes.Clone(r.Salt), r.Payload...))), nil
	}
	return tlog.Hash{}, errors.New("it needs a salt of 16 bytes with a payload, or a digest of 32 bytes, and not both")
}

// Encode writes the proof as JSON.
func (p *Proof) Encode(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(p)
}
