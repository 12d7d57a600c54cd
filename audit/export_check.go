package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"
)

// maxExportLine bounds a line of an export: a record has 1 MiB at most.
const maxExportLine = 2 * maxBodyBytes

// CheckExport checks what Export wrote, with nothing but a public key that the log
// has or had. It keeps one line in memory. The error says that verifier is not a
// key or that r could not be read; what is wrong with the export is in the report,
// each finding with its line.
func CheckExport(r io.Reader, verifier string) (ProofReport, error) {
	ring, err := newKeyring(verifier)
	if err != nil {
		return ProofReport{}, err
	}
	c := &exportCheck{
		lines: bufio.NewReaderSize(r, 1<<16), ring: ring,
		report: ProofReport{Origin: ring.origin(), Integrity: Verdict{OK: true, Findings: []Finding{}, Notes: []Finding{}}},
	}
	if err := c.run(); err != nil {
		return ProofReport{}, err
	}
	if !c.report.Integrity.OK {
		c.report.Records, c.report.Voids = 0, 0
	}
	return c.report, nil
}

// exportCheck is one run of CheckExport.
type exportCheck struct {
	lines  *bufio.Reader
	line   int   // number of the last line that was read
	offset int64 // where it begins
	next   int64
	ring   *keyring
	report ProofReport
	tree   tree // of the leaves that the lines state
}

func (c *exportCheck) find(format string, args ...any) {
	c.report.Integrity.find(fmt.Sprintf("line %d", c.line), c.offset, format, args...)
}

// read returns the next line without its end, and io.EOF after the last. A line
// that is cut short is one.
func (c *exportCheck) read() ([]byte, error) {
	var line []byte
	for {
		part, err := c.lines.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxExportLine {
			return nil, fmt.Errorf("line %d is longer than any record", c.line+1)
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == io.EOF && len(line) == 0 {
			return nil, io.EOF
		}
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read the export: %w", err)
		}
		c.line++
		c.offset, c.next = c.next, c.next+int64(len(line))
		return bytes.TrimSuffix(line, []byte("\n")), nil
	}
}

// run reads the whole export. Its error is of reading.
func (c *exportCheck) run() error {
	data, err := c.read()
	if err != nil && err != io.EOF {
		return err
	}
	var head exportHead
	stated, err := c.head(data, &head)
	if err != nil {
		c.find("%v", err)
		return nil
	}
	c.report.First, c.report.Last, c.report.Size = head.From, head.To, stated.size
	for seq := head.From; seq <= head.To; seq++ {
		data, err := c.read()
		if err == io.EOF {
			c.line++
			c.find("the export ends before record %d, and its first line says that it goes to record %d: it was cut", seq, head.To)
			return nil
		}
		if err != nil {
			return err
		}
		if !c.number(seq, data) {
			return nil
		}
	}
	data, err = c.read()
	if err == io.EOF {
		c.line++
		c.find("the last line, with the rest of the proof, is missing: the export was cut")
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.foot(data, stated); err != nil {
		c.find("%v", err)
		return nil
	}
	if _, err = c.read(); err == nil {
		c.find("something follows the last line")
		return nil
	}
	if err != io.EOF {
		return err
	}
	if c.tree.root() != stated.root {
		c.line, c.offset = 1, 0
		c.find("records %d to %d do not lead to the root that the checkpoint states: a record and its leaf were altered, or the proof is of other records", head.From, head.To)
	}
	return nil
}

// head opens the first line.
func (c *exportCheck) head(data []byte, head *exportHead) (stated signedTree, err error) {
	if err := decodeStrictly(data, head); err != nil {
		return stated, err
	}
	if head.Format != ExportFormat {
		return stated, fmt.Errorf("the format is %q, and this program knows %s", head.Format, ExportFormat)
	}
	stated, where, err := openProven(c.ring, head.Checkpoint, head.KeyRotations)
	if err != nil {
		return stated, fmt.Errorf("%s: %w", where, err)
	}
	if head.From > head.To || head.To >= stated.size {
		return stated, fmt.Errorf("the checkpoint covers %d records, and the export says that it is of records %d to %d", stated.size, head.From, head.To)
	}
	c.tree, err = head.leftTree()
	return stated, err
}

// number checks the line of one number against the leaf that it states, and
// reports whether it makes sense to go on. That the leaf is right shows at the end.
func (c *exportCheck) number(seq uint64, data []byte) bool {
	var line exportLine
	if err := json.Unmarshal(data, &line); err != nil {
		c.find("record %d should stand here: decode it: %v", seq, err)
		return false
	}
	if line.Seq != seq {
		c.find("record %d stands where record %d should: a line is missing, or they are in another order", line.Seq, seq)
		return false
	}
	if !bytes.Equal(line.append(nil), data) {
		c.find("record %d is not written as an export writes it: it was altered", seq)
		return false
	}
	var leaf tlog.Hash
	switch typ := frameType(line.FrameType); {
	case typ == frameVoid && line.Record == nil:
		leaf = hashFrame(frame{typ: frameVoid, seq: seq})
		c.report.Voids++
	case (frame{typ: typ}).isLeaf() && line.Record != nil && len(line.Salt) == saltBytes:
		leaf = leafHash(typ, seq, line.Ref, sha256.Sum256(append(line.Salt, line.Record...)))
		c.report.Records++
	default:
		c.find("record %d has the frame type %d, or lacks its salt or itself", seq, line.FrameType)
		return false
	}
	if leaf != line.Leaf {
		c.find("record %d is not what its leaf says: it was altered", seq)
	}
	c.tree.add(line.Leaf)
	return true
}

// foot adds what comes after the last record.
func (c *exportCheck) foot(data []byte, stated signedTree) error {
	var foot exportFoot
	if err := decodeStrictly(data, &foot); err != nil {
		return fmt.Errorf("the last line, with the rest of the proof, should stand here: %w", err)
	}
	levels := subtreesBetween(c.tree.size, stated.size)
	if len(levels) != len(foot.Right) {
		return errors.New("the proof has another number of hashes than the checkpoint needs")
	}
	for i, level := range levels {
		c.tree.addSubtree(level, foot.Right[i])
	}
	return nil
}
