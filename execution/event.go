package execution

// EventType says what an Event tells.
type EventType string

// The events of a running program, in the words of the API's stream.
const (
	EventStarted  EventType = "started"
	EventStdout   EventType = "stdout"
	EventStderr   EventType = "stderr"
	EventArtifact EventType = "artifact"
)

// Event is something a program did, told while it runs.
type Event struct {
	Type EventType
	// Data is what the program wrote, as bytes: of EventStdout and EventStderr.
	// A character may be split between two events.
	Data     []byte
	Artifact *Artifact // of EventArtifact
}
