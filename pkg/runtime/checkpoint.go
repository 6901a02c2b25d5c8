package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// The names in a directory of a checkpoint.
const (
	checkpointImages = "images"
	checkpointWork   = "work"
	checkpointConfig = "criu.conf"
)

// Checkpoint is what a restore has to know besides the process images.
type Checkpoint struct {
	// Images is the directory with CRIU's images.
	Images string `json:"images"`
	// Stdio is what CRIU calls each of the container's standard streams that
	// leads out of it; "" is one that does not.
	Stdio [3]string `json:"stdio"`
	// TTY says that the container has a terminal.
	TTY bool `json:"tty,omitempty"`
}

// stdioKey is the form in which CRIU names a file that is not in the
// container's mounts: by mount and inode, in hexadecimal digits.
var stdioKey = regexp.MustCompile(`^file\[[0-9a-f]{1,16}:[0-9a-f]{1,16}\]$`)

// Validate checks what came from a file.
func (c Checkpoint) Validate() error {
	for i, key := range c.Stdio {
		if key != "" && !stdioKey.MatchString(key) {
			return fmt.Errorf("stdio[%d] is %.80q: %w", i, key, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// CheckpointTarget is one of the containers of a checkpoint.
type CheckpointTarget struct {
	Container *Container
	// Dir is an empty private directory for the state of its processes.
	Dir string
	// Frozen is called while the processes are stopped, after their state was
	// written: it may take a copy of what they share with others.
	Frozen func(context.Context, Checkpoint) error
}

// CheckpointAll writes the state of the processes of running containers, all
// of which are stopped meanwhile, so that it is that of one moment. They go on
// when it returns, whatever happened.
func (m *Manager) CheckpointAll(ctx context.Context, targets []CheckpointTarget) (err error) {
	targets = slices.Clone(targets)
	// One order for all callers, or two of them would wait for each other.
	slices.SortFunc(targets, func(a, b CheckpointTarget) int { return strings.Compare(a.Container.id, b.Container.id) })
	for _, t := range targets {
		unlock, err := t.Container.lock(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		if err := t.Container.expect(Running); err != nil {
			return err
		}
		if t.Container.Status().Paused {
			return fmt.Errorf("container %s is paused: %w", t.Container.id, errdefs.ErrFailedPrecondition)
		}
		if t.Container.Status().UserNS != nil {
			return fmt.Errorf("container %s has a user namespace, which cannot be restored: %w", t.Container.id, errdefs.ErrNotImplemented)
		}
	}
	for _, t := range targets {
		cgroup := t.Container.Status().Cgroup
		if err := m.config.Cgroups.Freeze(ctx, cgroup); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.config.Cgroups.Thaw(cgroup)) }()
	}
	for _, t := range targets {
		if err := t.Container.checkpoint(ctx, t); err != nil {
			return fmt.Errorf("checkpoint container %s: %w", t.Container.id, err)
		}
	}
	return nil
}

// checkpoint is one container's part of CheckpointAll.
func (c *Container) checkpoint(ctx context.Context, t CheckpointTarget) error {
	s := c.Status()
	runtime, err := c.driver()
	if err != nil {
		return err
	}
	point := Checkpoint{Images: filepath.Join(t.Dir, checkpointImages), TTY: s.TTY}
	if point.Stdio, err = stdioKeys(s.Process); err != nil {
		return err
	}
	files := c.checkpointFiles(t.Dir, point)
	if err := makeCheckpointDirs(files, point.options("external %s\n")); err != nil {
		return err
	}
	if err := runtime.Checkpoint(ctx, c.id, files); err != nil {
		return err
	}
	// CRIU may have let them go; what follows is to be of the same moment.
	if err := c.m.config.Cgroups.Freeze(ctx, s.Cgroup); err != nil {
		return err
	}
	return t.Frozen(ctx, point)
}

// CanCheckpoint reports why the container's OCI runtime cannot checkpoint, as
// errdefs.ErrNotImplemented, or nil.
func (c *Container) CanCheckpoint(ctx context.Context) error {
	runtime, err := c.driver()
	if err != nil {
		return err
	}
	return runtime.CheckCRIU(ctx)
}

func (c *Container) checkpointFiles(dir string, point Checkpoint) oci.Checkpoint {
	return oci.Checkpoint{
		Images: point.Images, Work: filepath.Join(dir, checkpointWork), CRIUConfig: filepath.Join(dir, checkpointConfig),
		LogFile: c.logFile(), TTY: point.TTY,
	}
}

// ghostLimit is the size up to which a deleted file that is still open goes
// into a checkpoint.
const ghostLimit = "ghost-limit 64M\n"

// options are lines of CRIU's configuration, one for each stream that leads
// out of the container.
func (c Checkpoint) options(format string) string {
	var b strings.Builder
	b.WriteString(ghostLimit)
	for _, key := range c.Stdio {
		if key != "" {
			fmt.Fprintf(&b, format, key)
		}
	}
	return b.String()
}

func makeCheckpointDirs(files oci.Checkpoint, config string) error {
	for _, d := range []string{files.Images, files.Work} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("create directory of the checkpoint: %w", err)
		}
	}
	return linux.WriteFileAtomic(files.CRIUConfig, []byte(config), 0o600, linux.SurviveProcess)
}

// stdioKeys asks the kernel how CRIU will name the FIFOs of a process.
func stdioKeys(p linux.Process) (keys [3]string, err error) {
	for fd := range keys {
		name := fmt.Sprintf("/proc/%d/fd/%d", p.PID, fd)
		var st unix.Stat_t
		err := unix.Stat(name, &st)
		if errors.Is(err, unix.ENOENT) {
			continue // it has closed it
		}
		if err != nil {
			return keys, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		if target, err := os.Readlink(name); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO || strings.HasPrefix(target, "pipe:") {
			continue // it is in the container
		}
		mount, err := mountOf(p.PID, fd)
		if err != nil {
			return keys, err
		}
		keys[fd] = fmt.Sprintf("file[%x:%x]", mount, st.Ino)
	}
	if !p.Alive() {
		return keys, fmt.Errorf("process %d has ended: %w", p.PID, errdefs.ErrFailedPrecondition)
	}
	return keys, nil
}

// mountOf is the mount that a descriptor was opened on, proc_pid_fdinfo(5).
func mountOf(pid, fd int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("descriptor %d of process %d has no mount", fd, pid)
}
