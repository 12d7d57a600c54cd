package audit

import (
	"fmt"
	"strings"
	"unicode"
)

// maxFindings bounds the findings that one verdict lists.
const maxFindings = 100

// Report is what Verify found.
type Report struct {
	// Origin names the log, as its checkpoints do.
	Origin   string `json:"origin"`
	Segments int    `json:"segments"`
	Bytes    int64  `json:"bytes"` // of segments, without the space after their last record

	Records uint64 `json:"records"`
	Decided uint64 `json:"decided"` // decisions that allowed
	Ended   uint64 `json:"ended"`
	Gaps    uint64 `json:"gaps"`
	Voids   uint64 `json:"voids"` // numbers that gaps void

	// Removed is how many numbers retention left behind: the first is the one after.
	Removed uint64 `json:"removed"`

	// TreeSize is the number of sequence numbers that were followed, and Root the
	// tree's root there, in base64.
	TreeSize uint64 `json:"tree_size"`
	Root     string `json:"root"`
	// Covered is the size of the latest checkpoint with a valid signature.
	Covered uint64 `json:"covered"`
	// Witnessed is the size of the latest checkpoint that a witness has; 0 without
	// a witness.
	Witnessed uint64 `json:"witnessed"`
	// Keys are the log's public keys, those that signed rotations of the key connect
	// with the one that is trusted, the oldest first.
	Keys []Key `json:"keys"`

	// Integrity says that what is there is what was written.
	Integrity Verdict `json:"integrity"`
	// Completeness says that nothing is missing: no segment, no end of a
	// decision, and no signature over the last records. Of a log in use it is
	// false while work runs and until the next checkpoint.
	Completeness Verdict `json:"completeness"`
}

// Key is one public key of a log.
type Key struct {
	Key string `json:"key"`
	// Until is the number of records at which the next key took over; 0 of the key
	// that signs now.
	Until uint64 `json:"until"`
}

// Verdict is one answer with its grounds.
type Verdict struct {
	OK bool `json:"ok"`
	// Findings are what speaks against it; at most 100, Omitted counts the rest.
	Findings []Finding `json:"findings"`
	Omitted  int       `json:"omitted"`
	// Notes are worth knowing and speak against nothing, such as a gap.
	Notes []Finding `json:"notes"`
}

// Finding is something that was found at one place.
type Finding struct {
	File    string `json:"file"`
	Offset  int64  `json:"offset"` // bytes
	Problem string `json:"problem"`
}

// String returns the finding on one line. What a forger may have put into names and
// texts does not reach a terminal as a control character.
func (f Finding) String() string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, fmt.Sprintf("%s, offset %d: %s", f.File, f.Offset, f.Problem))
}

func (v *Verdict) find(file string, offset int64, format string, args ...any) {
	v.OK = false
	if len(v.Findings) == maxFindings {
		v.Omitted++
		return
	}
	v.Findings = append(v.Findings, Finding{file, offset, fmt.Sprintf(format, args...)})
}

func (v *Verdict) note(file string, offset int64, format string, args ...any) {
	if len(v.Notes) < maxFindings {
		v.Notes = append(v.Notes, Finding{file, offset, fmt.Sprintf(format, args...)})
	}
}
