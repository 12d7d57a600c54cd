package export

import (
	"cmp"
	"net"

	"github.com/execgate/execgate/execution"
)

// apiActivity makes e a call of the gateway's interface, or something that it did for one.
// A record of a type that this does not know is one too, with the type as its operation.
func apiActivity(e *ocsfEvent, r *execution.Record) {
	e.CategoryUID, e.CategoryName, e.ClassUID, e.ClassName = 6, "Application Activity", ocsfAPIActivity, "API Activity"
	e.API = &ocsfAPI{Operation: string(r.Type), Service: ocsfService{productName}}
	if r.RequestID != "" {
		e.API.Request = &ocsfRequest{r.RequestID}
	}
	// Where a call came from is not in its records.
	e.SrcEndpoint = &ocsfEndpoint{Name: "unknown"}
	if r.Principal == nil {
		e.SrcEndpoint = &ocsfEndpoint{SvcName: productName}
	}
	e.ActivityID, e.StatusID = ocsfOther, ocsfSuccess
	e.Message = string(r.Type)
	switch {
	case r.Decided != nil:
		decided(e, r.Decided)
	case r.Session != nil:
		session(e, r.Session)
	case r.EgressDecided != nil:
		egressDecided(e, r)
	case r.EgressEnded != nil:
		egressEnded(e, r)
	case r.Key != nil:
		e.ActivityID = ocsfCreate
		if r.Type == execution.RecordKeyRevoked {
			e.ActivityID = ocsfDelete
		}
		e.resource("api_key", r.Key.ID)
	case r.Policy != nil:
		e.ActivityID = ocsfUpdate
		switch r.Type {
		case execution.RecordPolicyRefused:
			e.StatusID = ocsfFailure
		case execution.RecordPolicyDropped:
			e.ActivityID = ocsfDelete
		}
		e.resource("policy", cmp.Or(r.Policy.Digest, r.Policy.Revision, r.Policy.Source))
	case r.Approval != nil:
		e.ActivityID = ocsfUpdate
		if r.Type == execution.RecordApprovalRequested {
			e.ActivityID = ocsfCreate
		}
		e.resource("approval", r.Approval.ID)
	case r.Lease != nil:
		e.ActivityID = ocsfCreate
		if r.Type == execution.RecordLeaseRevoked {
			e.ActivityID = ocsfDelete
		}
		if r.Lease.Error != "" {
			e.StatusID, e.StatusCode = ocsfFailure, r.Lease.Error
		}
		e.resource("credential", cmp.Or(r.Lease.ID, r.Lease.Tool))
	case r.Flip != nil:
		e.StatusID = ocsfUnknown
		e.resource("policy", r.Flip.Candidate)
	case r.Config != nil:
		e.ActivityID = ocsfUpdate
		e.resource("configuration", r.Config.Digest)
	case r.Erasure != nil:
		e.ActivityID = ocsfDelete
		e.resource("kept_material", cmp.Or(r.Erasure.Execution, r.Erasure.Subject, r.Erasure.Tenant))
	case r.Gap != nil:
		e.StatusID = ocsfFailure
		e.resource("audit_log", r.Gap.File)
	}
	e.ActivityName = ocsfActivities[e.ActivityID]
}

// resource adds what the event is about.
func (e *ocsfEvent) resource(kind, id string) {
	if id != "" {
		e.Resources = append(e.Resources, ocsfResource{UID: id, Type: kind})
	}
}

func decided(e *ocsfEvent, d *execution.Decided) {
	action := string(cmp.Or(d.Action, execution.ActionExecute))
	e.API.Operation, e.ActivityID = action, ocsfCreate
	effect := cmp.Or(d.Decision.Effect, execution.EffectDeny)
	e.Message = action + ": " + string(effect)
	switch effect {
	case execution.EffectAllow:
	case execution.EffectRequireApproval:
		e.StatusID = ocsfUnknown
	default:
		e.StatusID = ocsfFailure
	}
	if len(d.Decision.Reasons) > 0 {
		e.StatusCode = d.Decision.Reasons[0].Code
	}
	e.resource("image", d.Image)
	e.resource("tool", d.Tool)
	e.resource("session", d.Session)
}

func session(e *ocsfEvent, s *execution.SessionChange) {
	e.API.Operation = "session." + string(s.What)
	e.Message = "session " + string(s.What)
	e.StatusCode = string(s.Reason)
	switch s.What {
	case execution.SessionOpened:
		e.ActivityID = ocsfCreate
	case execution.SessionClosed:
		e.ActivityID = ocsfDelete
	case execution.SessionPut:
		e.ActivityID = ocsfUpdate
	case execution.SessionGot:
		e.ActivityID = ocsfRead
	}
	e.resource("session", s.ID)
	if s.File != nil {
		e.Resources = append(e.Resources, ocsfResource{UID: s.File.SHA256, Name: s.File.Path, Type: "file"})
	}
}

func egressDecided(e *ocsfEvent, r *execution.Record) {
	d := r.EgressDecided
	e.fromSandbox(r)
	e.DstEndpoint = &ocsfEndpoint{Hostname: d.Host, Port: d.Port}
	if d.Host == "" {
		e.DstEndpoint.Name = "unknown"
	}
	if host, _, err := net.SplitHostPort(d.Address); err == nil {
		e.DstEndpoint.IP = host
	}
	e.Message = "egress: " + string(cmp.Or(d.Effect, execution.EffectDeny))
	e.StatusCode = d.Code
	if d.Effect != execution.EffectAllow {
		e.StatusID = ocsfFailure
	}
	e.resource("credential", d.Binding)
}

func egressEnded(e *ocsfEvent, r *execution.Record) {
	e.fromSandbox(r)
	wall := r.EgressEnded.WallMS
	e.Duration, e.StatusCode = &wall, r.EgressEnded.Error
	if r.EgressEnded.Error != "" {
		e.StatusID = ocsfFailure
	}
}

// fromSandbox says that a program in a sandbox is where it came from.
func (e *ocsfEvent) fromSandbox(r *execution.Record) {
	e.SrcEndpoint = &ocsfEndpoint{Name: "sandbox", UID: r.Execution}
}
