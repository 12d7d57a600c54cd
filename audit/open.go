package audit

import (
	"github.com/execgate/execgate/execution"
)

// Open is an execution whose decision allowed it and which has no end.
type Open struct {
	// Execution is its id.
	Execution string
	// DecidedSeq is the number of its decided record, for Ended.DecidedSeq.
	DecidedSeq uint64
	// Principal is who asked; nil where the decided record names nobody.
	Principal *execution.Principal
	// RequestID and TraceID are those of the decided record.
	RequestID, TraceID string
}

func openOf(rec execution.Record) Open {
	return Open{
		Execution: rec.Execution, DecidedSeq: rec.Seq, Principal: rec.Principal,
		RequestID: rec.RequestID, TraceID: rec.TraceID,
	}
}

// The parts of the bound on an ended record's size, in bytes of JSON: the fixed
// fields, an artifact and a lease, within the bounds of execution.Ended. An end
// that is larger all the same takes from the space that is not reserved.
const (
	reserveEnd      = 2048
	reserveArtifact = execution.MaxRecordPath + 128
	reserveLease    = execution.MaxRecordTool + execution.MaxRecordLeaseID + 128
)

// reserveFor returns how much space to keep for the end of an execution that
// was granted g. It is bounded where it is used.
func reserveFor(g execution.Grant) int64 {
	files := max(0, min(g.Limits.FilesCount, execution.MaxRecordArtifacts))
	leases := int64(min(len(g.Credentials), execution.MaxRecordLeases))
	return int64(batchHeaderBytes) + openBytes + reserveEnd + files*reserveArtifact + leases*reserveLease
}
