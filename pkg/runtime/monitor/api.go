package monitor

import (
	"errors"
	"fmt"
	"time"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Errors of calls to the monitor. Match them with errors.Is.
var (
	// ErrMonitorLost means that the monitor died, or the connection broke,
	// while the call was under way. What the call asked for may or may not
	// have happened. The call can be repeated; after a Create, ask List first:
	// a container that is not in it was not created, although the OCI runtime
	// may have left state of its own that needs a forced delete.
	ErrMonitorLost = errors.New("connection to the monitor lost")
	// ErrNotFound means that the monitor has no container with that id.
	ErrNotFound = errors.New("container not known to the monitor")
	// ErrExists means that a container with that id exists already.
	ErrExists = errors.New("container exists in the monitor")
	// ErrInvalid means that the request makes no sense.
	ErrInvalid = errors.New("invalid request to the monitor")
	// ErrState means that the container is not in a state for the call, for
	// example Forget of one that runs or ReopenLog of one that has exited.
	ErrState = errors.New("container is in the wrong state")
	// ErrSlow ends an attach whose client did not read the container's output
	// in time.
	ErrSlow = errors.New("client does not read the container's output in time")
	// ErrClosed means that the Supervisor was closed.
	ErrClosed = errors.New("monitor supervisor closed")
)

// DefaultMaxLineSize is how much of one line goes into one log entry when
// CreateRequest.MaxLineSize is 0, as kubelet and containerd have it.
const DefaultMaxLineSize = 16384

// Limits of a CreateRequest.
const (
	maxMaxLineSize     = 1 << 20
	defaultTimeout     = 2 * time.Minute
	maxErrorTail       = 4096
	lostCode           = 255
	signalExitCodeBase = 128
)

// CreateRequest asks for one container.
type CreateRequest struct {
	// ID is the container's id: letters, digits, '.', '_' and '-'.
	ID string `json:"id"`
	// Dir is the container's state directory, mode 0700, which exists. The
	// monitor's files in it are listed in the package documentation.
	Dir string `json:"dir"`
	// Argv is the whole command line of the OCI runtime, with "create" and
	// with --pid-file PidFile; Argv[0] is an absolute path. With TTY the
	// monitor puts --console-socket behind the word "create" or "restore".
	Argv []string `json:"argv"`
	// PidFile is where the runtime writes the pid of the container's init.
	PidFile string `json:"pidFile"`
	// Env is the environment of the runtime, not of the container.
	Env []string `json:"env,omitempty"`
	// WorkDir is the working directory of the runtime; "" means Dir.
	WorkDir string `json:"workDir,omitempty"`
	// HideUnifiedCgroup runs the runtime in a mount namespace of its own
	// without /sys/fs/cgroup/unified, which crun before 1.9 needs on hosts
	// with cgroups of both versions.
	HideUnifiedCgroup bool `json:"hideUnifiedCgroup,omitempty"`
	// Stdin gives the container a pipe as stdin, else it is /dev/null.
	Stdin bool `json:"stdin,omitempty"`
	// StdinOnce closes stdin when the first attached client goes.
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// TTY gives the container a pseudo-terminal, whose output is logged as
	// stdout.
	TTY bool `json:"tty,omitempty"`
	// LogPath is the CRI log file; its directory exists. "" drops the output.
	LogPath string `json:"logPath,omitempty"`
	// MaxLineSize splits longer lines into partial entries; 0 means
	// DefaultMaxLineSize.
	MaxLineSize int `json:"maxLineSize,omitempty"`
	// RuntimeLog is the file given to the runtime as --log, if any; its end
	// becomes part of the error of a failed create.
	RuntimeLog string `json:"runtimeLog,omitempty"`
	// Timeout bounds the run of the OCI runtime; 0 means two minutes.
	Timeout time.Duration `json:"timeout,omitempty"`
	// KillCgroupOnExit kills whatever is left in the container's cgroup when
	// its init has exited: for containers that share a PID namespace, where
	// the kernel does not do it.
	KillCgroupOnExit bool `json:"killCgroupOnExit,omitempty"`
}

// CreateResult is a created container: its init waits to be started.
type CreateResult struct {
	Process linux.Process `json:"process"`
	Cgroup  Cgroup        `json:"cgroup"`
}

// Cgroup holds the directories of the control groups a container was created
// in, as absolute paths.
type Cgroup struct {
	// Unified is the directory in the version 2 hierarchy, "" if there is none.
	Unified string `json:"unified,omitempty"`
	// V1 maps each version 1 controller to its directory.
	V1 map[string]string `json:"v1,omitempty"`
}

// CreateError is a failed run of the OCI runtime. Nothing of the container is
// left in the monitor; the runtime may have left state of its own.
type CreateError struct {
	// Reason says how the runtime ended: "exit status 1", "timeout", …
	Reason string `json:"reason"`
	// Output is the end of what the runtime wrote to stderr and to its log,
	// at most 4 KiB of valid UTF-8.
	Output string `json:"output,omitempty"`
	// NotFound means that the runtime's binary does not exist.
	NotFound bool `json:"notFound,omitempty"`
}

// Error implements error.
func (e *CreateError) Error() string {
	if e.Output == "" {
		return "run OCI runtime create: " + e.Reason
	}
	return fmt.Sprintf("run OCI runtime create: %s: %s", e.Reason, e.Output)
}

// Event tells of a container. It is delivered at least once.
type Event struct {
	ID string `json:"id"`
	// Process is the init it is about: an id may have had others before.
	Process linux.Process `json:"process,omitzero"`
	Exit    *Exit         `json:"exit,omitempty"`
}

// Exit is how a container ended. It exists only after the log is complete.
type Exit struct {
	// Code is the exit code; 128 + Signal where a signal ended it and 255
	// where it is lost.
	Code int `json:"code"`
	// Signal is the number of the signal that ended it, or 0.
	Signal int `json:"signal,omitempty"`
	// OOMKilled says that the kernel's out-of-memory killer has killed a
	// process of the container's cgroup.
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	FinishedAt time.Time `json:"finishedAt"`
	// Lost says that nobody could tell how it ended.
	Lost bool `json:"lost,omitempty"`
	// LogError is the newest error of writing the log, if any output is
	// missing in it, and LogBytesDropped is how much.
	LogError        string `json:"logError,omitempty"`
	LogBytesDropped int64  `json:"logBytesDropped,omitempty"`
}

// ContainerState is what the monitor knows of one container.
type ContainerState struct {
	ID      string        `json:"id"`
	Dir     string        `json:"dir"`
	Process linux.Process `json:"process"`
	Cgroup  Cgroup        `json:"cgroup"`
	LogPath string        `json:"logPath,omitempty"`
	TTY     bool          `json:"tty,omitempty"`
	// StdinOpen says that the container's stdin has not been closed yet.
	StdinOpen bool `json:"stdinOpen,omitempty"`
	// Exit is nil while the container lives or its log is being completed.
	Exit *Exit `json:"exit,omitempty"`
}
