package executor

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/execgate/execgate/execution"
)

// Config is what an Executor needs to know. Fields without a stated default are
// required.
type Config struct {
	// Gateway is the id of the gateway that owns the sandboxes: every container
	// carries it, and the reaper touches no other gateway's before its deadline.
	Gateway string
	// Host is the engine's address, such as unix:///var/run/docker.sock. Empty
	// means what DOCKER_HOST and its companions say, and then the default socket.
	Host string
	// Agent is the path of the agent binary for the engine's architecture.
	Agent string
	// Images are those that may be named.
	Images []Image
	// UIDs are the users that sandboxes are given, one each. Two gateways on one
	// engine may share a range. Zero: 210000, 1024 of them.
	UIDs UIDRange
	// StopGrace is how long a program has between the stop signal and the kill.
	// Zero: 500 ms.
	StopGrace time.Duration
	// StartTimeout bounds creating and starting a sandbox. Zero: 30 s.
	StartTimeout time.Duration
	// ReusedMax is how many sandboxes are kept for further jobs of their owners
	// at most, where policy grants that. Zero: 8.
	ReusedMax int
	// Warm are the sandboxes to keep parked; none where it is empty.
	Warm []Warm
	// Reserved are the slots by tenant that only it may use: what it runs is kept
	// from noticing the others (priority.go).
	Reserved map[string]int
	// Egress carries what programs send out. Nil: nothing is carried, and what is
	// granted a network is refused.
	Egress Egress
	// HideNames has programs find no name that Egress does not; otherwise each name
	// has an address, where a connection is refused in words.
	HideNames bool
	Logger    *slog.Logger
}

// Warm says which sandboxes are kept parked: up, verified, their interpreter
// waiting for a job.
type Warm struct {
	Image, Language string // names, as in Images
	Runtime         string // the engine's name of an OCI runtime
	// Preload are modules that the interpreter imports ahead of its job. A
	// shelf with modules serves programs that name one of them, so that others
	// keep their memory.
	Preload []string
	// Limits are those that a sandbox is built with. A job with other memory or
	// CPU has them adjusted; one with another shape starts cold, and where that
	// goes on the shelf takes on its shape.
	Limits execution.Limits
	// Target is how many are kept; under demand up to Max, and no more than Min
	// where nobody has asked for one in a long time.
	Min, Target, Max int
}

// Image is an image by the name policy grants.
type Image struct {
	Name      string
	Reference string // what the engine knows it by
	// Languages are those whose driver the image holds, by name.
	Languages map[string]Language
}

// Language is how an image runs source text.
type Language struct {
	Command []string // starts the driver, which reads its job from descriptor 3
	// Text says that the job is the code as it is, with the input in the
	// variable INPUT_DATA; otherwise it is a wire.Driver as JSON.
	Text bool
	// Session says that its driver can stay for a session: one job after
	// another, each with the names that those before it bound.
	Session bool
	// Fork says that it can be parked as a process that forks, a copy for each
	// program.
	Fork bool
}

// UIDRange is a range of user ids, which are also used as group ids.
type UIDRange struct{ First, Count int }

// maxUID is past the last of Config.UIDs: a sandbox that is reused has
// wire.UserCount users for each, and ids have 32 bits, the last of which means
// none.
const maxUID = 1<<20 - 1

// Defaults of Config.
const (
	defaultFirstUID     = 210_000
	defaultUIDCount     = 1024
	defaultStopGrace    = 500 * time.Millisecond
	defaultStartTimeout = 30 * time.Second
	defaultReusedMax    = 8
)

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Gateway == "" || c.Gateway == noGateway {
		errs = append(errs, errors.New("the gateway's id is missing"))
	}
	if c.Agent == "" {
		errs = append(errs, errors.New("the path of the agent is missing"))
	}
	if len(c.Images) == 0 {
		errs = append(errs, errors.New("there are no images"))
	}
	if c.Logger == nil {
		errs = append(errs, errors.New("the logger is missing"))
	}
	if c.UIDs == (UIDRange{}) {
		c.UIDs = UIDRange{defaultFirstUID, defaultUIDCount}
	}
	if c.UIDs.First+c.UIDs.Count > maxUID {
		errs = append(errs, fmt.Errorf("the users %d to %d are too high: the last must be below %d", c.UIDs.First, c.UIDs.First+c.UIDs.Count-1, maxUID))
	}
	if c.UIDs.First < 1000 || c.UIDs.Count < 1 {
		errs = append(errs, fmt.Errorf("the users %d to %d are not for sandboxes: the first must be 1000 or more", c.UIDs.First, c.UIDs.First+c.UIDs.Count-1))
	}
	if c.StopGrace == 0 {
		c.StopGrace = defaultStopGrace
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = defaultStartTimeout
	}
	if c.ReusedMax == 0 {
		c.ReusedMax = defaultReusedMax
	}
	for i, w := range c.Warm {
		if w.Min < 0 || w.Target < w.Min || w.Max < w.Target {
			errs = append(errs, fmt.Errorf("warm[%d]: the least is %d, the target %d and the most %d", i, w.Min, w.Target, w.Max))
		}
		if err := w.Limits.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("warm[%d]: %w", i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("executor: %w", err)
	}
	return c, nil
}
