package runtime

import (
	"time"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// State of a container, see the package comment.
type State int

// The states, in the order a container goes through them; Renew brings it from
// the last back to Created.
const (
	Creating State = iota
	Created
	Running
	Exited
)

func (s State) String() string {
	return [...]string{"creating", "created", "running", "exited"}[s]
}

// Reasons why a container has exited, as CRI clients know them.
const (
	ReasonCompleted  = "Completed"
	ReasonError      = "Error"
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError"
	// ReasonNodeReboot: the machine went down under the container.
	ReasonNodeReboot = "NodeReboot"
	// ReasonExitCodeLost: the container ended while nobody could see how.
	ReasonExitCodeLost = "ExitCodeLost"
	// ReasonRecordBroken: the container's record cannot be read; it can only be
	// removed.
	ReasonRecordBroken = "RecordBroken"
)

// Exit codes for ends that have none of their own.
const (
	exitCodeUnknown    = 255
	exitCodeStartError = 128
	exitCodeKilled     = 137
)

// Params says what container to make. It does not change afterwards, except
// Request.
type Params struct {
	ID string `json:"id"`
	// Group is the sandbox the container belongs to.
	Group string `json:"group"`
	// Infra marks the init of a shared pid namespace: not a container anybody
	// asked for.
	Infra bool `json:"infra,omitempty"`
	// Name and Attempt are unique in a group, together.
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt"`
	// Handler names the OCI runtime; never empty.
	Handler string `json:"handler"`
	// ImageID is what Rootfs makes the root file system from. Empty: the spec
	// names a directory that is somebody else's.
	ImageID string `json:"imageID,omitempty"`
	// Cgroup is the container's cgroup, from the root of the trees.
	Cgroup string `json:"cgroup"`
	// UserNS is the user namespace of the container; nil is the host's.
	UserNS *linux.UserNS `json:"userNS,omitempty"`
	// MountLabel is the SELinux label of the root file system, if any.
	MountLabel string `json:"mountLabel,omitempty"`
	// Owner is who the container belongs to where that is no client of the CRI,
	// as its sandbox has it.
	Owner string `json:"owner,omitempty"`
	// LogPath is absolute, or empty for a container without a log.
	LogPath string `json:"logPath,omitempty"`

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Request is kept for the caller, who alone knows what is in it.
	Request []byte `json:"request,omitempty"`
}

// Status is one immutable snapshot of a container.
type Status struct {
	Params
	State State `json:"state"`
	// Starting is written before the process is let go, so that recovery knows
	// to look whether it was.
	Starting bool          `json:"starting,omitempty"`
	Process  linux.Process `json:"process"`

	CreatedAt  time.Time `json:"createdAt"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
	ExitCode   int       `json:"exitCode"`
	Reason     string    `json:"reason,omitempty"`
	Message    string    `json:"message,omitempty"`

	StopSignal string `json:"stopSignal,omitempty"`
	// SharedPID: the container's pid namespace outlives its first process.
	SharedPID bool `json:"sharedPID,omitempty"`
	TTY       bool `json:"tty,omitempty"`
	// Stdin: the container was created with a stdin that clients can write to.
	Stdin bool `json:"stdin,omitempty"`
	// InitExecutable is what Process executed before it was let go.
	InitExecutable string `json:"initExecutable,omitempty"`
	// Hooks: the OCI spec has hooks.
	Hooks bool `json:"hooks,omitempty"`
	// Paused: its processes are stopped where they are, see Pause.
	Paused bool `json:"paused,omitempty"`
	// Renewing: a Renew is under way, or was interrupted.
	Renewing bool `json:"renewing,omitempty"`
	// Restarts counts how often the container was renewed, see Renew.
	Restarts uint32 `json:"restarts,omitempty"`
	// Restore is set for a container that is made of a checkpoint.
	Restore *Restore `json:"restore,omitempty"`

	life *life
}

// Exited is closed once what the snapshot shows alive has exited.
func (s *Status) Exited() <-chan struct{} { return s.life.gone }

// exit fills in how a container ended.
func (s *Status) exit(code int, reason, message string, at time.Time) {
	s.State, s.Starting, s.Paused = Exited, false, false
	s.ExitCode, s.Reason, s.Message, s.FinishedAt = code, reason, message, at
}
