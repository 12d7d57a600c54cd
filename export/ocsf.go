package export

import (
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/execgate/execgate/execution"
)

// ocsfVersion is the version of the Open Cybersecurity Schema Framework that events are
// of: https://schema.ocsf.io/1.8.0.
const ocsfVersion = "1.8.0"

// The classes of events, and of which category each is.
const (
	ocsfProcessActivity = 1007
	ocsfAuthentication  = 3002
	ocsfAPIActivity     = 6003
)

// The severities.
const (
	ocsfInformational = 1
	ocsfLow           = 2
	ocsfMedium        = 3
	ocsfHigh          = 4
)

var ocsfSeverities = []string{"Unknown", "Informational", "Low", "Medium", "High"}

// The statuses.
const (
	ocsfUnknown = 0
	ocsfSuccess = 1
	ocsfFailure = 2
)

var ocsfStatuses = []string{"Unknown", "Success", "Failure"}

// The activities of the class API Activity.
const (
	ocsfCreate = 1
	ocsfRead   = 2
	ocsfUpdate = 3
	ocsfDelete = 4
	ocsfOther  = 99
)

var ocsfActivities = map[int]string{ocsfCreate: "Create", ocsfRead: "Read", ocsfUpdate: "Update", ocsfDelete: "Delete", ocsfOther: "Other"}

// ocsfEvent is an event. What a class has not is left out.
type ocsfEvent struct {
	ActivityID   int          `json:"activity_id"`
	ActivityName string       `json:"activity_name"`
	CategoryUID  int          `json:"category_uid"`
	CategoryName string       `json:"category_name"`
	ClassUID     int          `json:"class_uid"`
	ClassName    string       `json:"class_name"`
	TypeUID      int          `json:"type_uid"`
	TypeName     string       `json:"type_name"`
	SeverityID   int          `json:"severity_id"`
	Severity     string       `json:"severity"`
	StatusID     int          `json:"status_id"`
	Status       string       `json:"status"`
	StatusCode   string       `json:"status_code,omitempty"`
	Time         int64        `json:"time"` // ms since 1970
	Duration     *int64       `json:"duration,omitempty"`
	Message      string       `json:"message"`
	Metadata     ocsfMetadata `json:"metadata"`

	Actor       *ocsfActor     `json:"actor,omitempty"`
	API         *ocsfAPI       `json:"api,omitempty"`
	SrcEndpoint *ocsfEndpoint  `json:"src_endpoint,omitempty"`
	DstEndpoint *ocsfEndpoint  `json:"dst_endpoint,omitempty"`
	Resources   []ocsfResource `json:"resources,omitempty"`
	User        *ocsfUser      `json:"user,omitempty"`
	Service     *ocsfService   `json:"service,omitempty"`
	Device      *ocsfDevice    `json:"device,omitempty"`
	Process     *ocsfProcess   `json:"process,omitempty"`
	ExitCode    *int           `json:"exit_code,omitempty"`

	Unmapped exported `json:"unmapped"` // the whole record
}

type ocsfMetadata struct {
	Version        string      `json:"version"`
	Product        ocsfProduct `json:"product"`
	UID            string      `json:"uid"`
	Sequence       uint64      `json:"sequence"`
	EventCode      string      `json:"event_code"`
	CorrelationUID string      `json:"correlation_uid,omitempty"`
	TenantUID      string      `json:"tenant_uid,omitempty"`
	LogName        string      `json:"log_name"`
	LogProvider    string      `json:"log_provider"`
	OriginalTime   string      `json:"original_time"`
}

type ocsfProduct struct {
	Name    string `json:"name"`
	Vendor  string `json:"vendor_name"`
	Version string `json:"version,omitempty"`
}

type ocsfActor struct {
	User    *ocsfUser `json:"user,omitempty"`
	AppName string    `json:"app_name,omitempty"`
}

type ocsfUser struct {
	Name   string      `json:"name,omitempty"`
	UID    string      `json:"uid,omitempty"`
	Domain string      `json:"domain,omitempty"`
	Groups []ocsfGroup `json:"groups,omitempty"`
}

type ocsfGroup struct {
	Name string `json:"name"`
}

type ocsfAPI struct {
	Operation string       `json:"operation"`
	Service   ocsfService  `json:"service"`
	Request   *ocsfRequest `json:"request,omitempty"`
}

type ocsfRequest struct {
	UID string `json:"uid"`
}

type ocsfService struct {
	Name string `json:"name"`
}

type ocsfEndpoint struct {
	Name     string `json:"name,omitempty"`
	UID      string `json:"uid,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	IP       string `json:"ip,omitempty"`
	Port     int    `json:"port,omitempty"`
	SvcName  string `json:"svc_name,omitempty"`
}

type ocsfResource struct {
	UID  string `json:"uid,omitempty"`
	Name string `json:"name,omitempty"`
	Type string `json:"type"`
}

type ocsfDevice struct {
	TypeID   int    `json:"type_id"`
	Type     string `json:"type"`
	Name     string `json:"name"`
	Hostname string `json:"hostname,omitempty"`
}

type ocsfProcess struct {
	UID string `json:"uid"`
}

// productName is this program as receivers know it.
const productName = "execgate"

// event is the record as an event of OCSF.
func (p producer) event(r *execution.Record) ocsfEvent {
	seq := strconv.FormatUint(r.Seq, 10)
	severity := severityOf(r)
	e := ocsfEvent{
		SeverityID: severity, Severity: ocsfSeverities[severity], Time: r.Time.UnixMilli(),
		Metadata: ocsfMetadata{
			Version: ocsfVersion, Product: ocsfProduct{"Execgate", "Execgate", p.version},
			UID: p.log + "/" + seq, Sequence: r.Seq, EventCode: string(r.Type), CorrelationUID: r.Execution, TenantUID: execution.TenantOf(*r),
			LogName: "audit", LogProvider: productName, OriginalTime: r.Time.UTC().Format("2006-01-02T15:04:05.000000000Z07:00"),
		},
		Actor: actorOf(r), Unmapped: exported{p.log, r},
	}
	switch {
	case r.Started != nil:
		p.started(&e, r)
	case r.Ended != nil:
		p.ended(&e, r)
	case r.AuthenticationFailed != nil:
		authenticationFailed(&e, r.AuthenticationFailed)
	default:
		apiActivity(&e, r)
	}
	e.TypeUID = e.ClassUID*100 + e.ActivityID
	e.TypeName = e.ClassName + ": " + e.ActivityName
	e.Status = ocsfStatuses[e.StatusID]
	return e
}

func actorOf(r *execution.Record) *ocsfActor {
	if r.Principal == nil || r.Principal.Subject == "" {
		return &ocsfActor{AppName: productName} // the gateway itself
	}
	user := &ocsfUser{Name: r.Principal.Subject, UID: r.Principal.Subject, Domain: r.Principal.Tenant}
	for _, role := range r.Principal.Roles {
		user.Groups = append(user.Groups, ocsfGroup{string(role)})
	}
	return &ocsfActor{User: user}
}

// processActivity makes e something that a process did: an execution is one, with whatever it
// starts.
func (p producer) processActivity(e *ocsfEvent, r *execution.Record) {
	e.CategoryUID, e.CategoryName, e.ClassUID, e.ClassName = 1, "System Activity", ocsfProcessActivity, "Process Activity"
	host := p.host
	if host == "" {
		host = "unknown"
	}
	e.Device = &ocsfDevice{TypeID: 1, Type: "Server", Name: host, Hostname: p.host}
	e.Process = &ocsfProcess{UID: r.Execution}
	if e.Process.UID == "" {
		e.Process.UID = "unknown"
	}
}

func (p producer) started(e *ocsfEvent, r *execution.Record) {
	p.processActivity(e, r)
	e.ActivityID, e.ActivityName = 1, "Launch"
	e.StatusID, e.StatusCode = ocsfSuccess, string(r.Started.Start)
	e.Message = "execution started: " + string(r.Started.Start)
}

func (p producer) ended(e *ocsfEvent, r *execution.Record) {
	p.processActivity(e, r)
	e.ActivityID, e.ActivityName = 2, "Terminate"
	wall := r.Ended.Usage.WallMS
	e.Duration, e.ExitCode = &wall, r.Ended.ExitCode
	e.StatusID, e.StatusCode = ocsfFailure, string(r.Ended.Outcome)
	if r.Ended.Outcome == execution.OutcomeExited {
		e.StatusID = ocsfSuccess // it ended by itself; how is for exit_code to say
	}
	e.Message = "execution ended: " + string(r.Ended.Outcome)
}

func authenticationFailed(e *ocsfEvent, failed *execution.AuthenticationFailed) {
	e.CategoryUID, e.CategoryName, e.ClassUID, e.ClassName = 3, "Identity & Access Management", ocsfAuthentication, "Authentication"
	e.ActivityID, e.ActivityName = 1, "Logon"
	e.StatusID, e.StatusCode = ocsfFailure, failed.Reason
	e.User, e.Actor = &ocsfUser{Name: "unknown"}, nil
	if failed.KeyID != "" {
		e.User = &ocsfUser{Name: failed.KeyID, UID: failed.KeyID}
	}
	e.Service = &ocsfService{productName}
	e.SrcEndpoint = endpointOf(failed.Remote)
	e.Message = "authentication failed: " + failed.Reason
}

// endpointOf splits an address, with or without a port.
func endpointOf(address string) *ocsfEndpoint {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = address, ""
	}
	n, _ := strconv.ParseUint(port, 10, 16) // without a number there is none
	if ip, err := netip.ParseAddr(host); err == nil {
		return &ocsfEndpoint{IP: ip.String(), Port: int(n)}
	}
	if host == "" {
		host = "unknown"
	}
	return &ocsfEndpoint{Name: host, Port: int(n)}
}

// severityOf is how much a record matters to whoever watches.
func severityOf(r *execution.Record) int {
	switch r.Type {
	case execution.RecordGap, execution.RecordReplayDiffers:
		return ocsfHigh
	case execution.RecordAuthenticationFailed, execution.RecordPolicyRefused, execution.RecordPolicyDropped:
		return ocsfMedium
	}
	switch {
	case r.Ended != nil && slices.Contains([]execution.Outcome{execution.OutcomeEngineFailed, execution.OutcomeUnknownCrash}, r.Ended.Outcome),
		r.Lease != nil && r.Lease.Error != "":
		return ocsfMedium
	case r.Decided != nil && r.Decided.Decision.Effect != execution.EffectAllow,
		r.EgressDecided != nil && r.EgressDecided.Effect != execution.EffectAllow:
		return ocsfLow
	}
	return ocsfInformational
}
