package audit

import (
	"bytes"
	"fmt"

	"github.com/execgate/execgate/execution"
)

// rotatedText begins the JSON of a record that rotates the key, after its number.
var rotatedText = fmt.Appendf(nil, `,"type":"%s",`, execution.RecordAuditKeyRotated)

// number is shown every number of the log.
func (v *verification) number(f frame) error {
	// The type stands after the number, which has 20 digits at most.
	if f.typ == frameRecord && bytes.Contains(f.payload()[:min(len(f.payload()), len(jsonPrefix)+20+len(rotatedText))], rotatedText) {
		if rec, err := recordOf(f); err == nil && rec.AuditKey != nil {
			v.rotated = append(v.rotated, rotatedKey{f.seq, *rec.AuditKey})
		}
	}
	return nil
}

// rotatedKey is a record that rotates the key.
type rotatedKey struct {
	seq uint64
	execution.AuditKeyRotation
}

// keysRotated holds the records that rotate the key against the checkpoints that
// do.
func (v *verification) keysRotated() {
	recorded := map[uint64]execution.AuditKeyRotation{}
	for _, r := range v.rotated {
		recorded[r.seq] = r.AuditKeyRotation
		old := v.ring.find(r.Old)
		if old == nil || old.next != r.New || old.until != r.seq+1 {
			v.report.Completeness.find(rotatedName(r.seq+1), 0, "record %d rotates the log's key, and the checkpoint in which both keys sign that is missing", r.seq)
		}
	}
	for _, key := range v.ring.keys {
		if key.next == "" || key.until == 0 || key.until > v.replay.tree.size || key.until <= v.begins {
			continue
		}
		if recorded[key.until-1] != (execution.AuditKeyRotation{Old: key.text, New: key.next}) {
			v.report.Integrity.find(rotatedName(key.until), 0, "the log's key was rotated at %d records, and record %d does not say so", key.until, key.until-1)
		}
	}
}
