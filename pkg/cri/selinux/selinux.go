package selinux

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
	"golang.org/x/sys/unix"
)

// Labels are those of a pod's or container's processes and of its files. No
// process label means that nothing confines the processes.
type Labels struct {
	Process string `json:"process,omitempty"`
	Mount   string `json:"mount,omitempty"`
}

// Options are the parts of a label that a request sets; empty ones are left to
// the policy.
type Options struct{ User, Role, Type, Level string }

// superPrivileged is the type of processes that may do everything, to which the
// labels of files do not matter.
const superPrivileged = "spc_t"

// policy is what is asked of the machine.
type policy interface {
	// allocate returns labels with a level that nobody has, and reserves it.
	allocate() (process, mount string)
	// privileged is the label of files that no confined process may see.
	privileged() string
	reserve(label string) error
	release(label string)
	// check refuses a label that the policy does not know.
	check(label string) error
	fileLabel(path string) (string, error)
	setFileLabel(path, label string) error
	// relabel is setFileLabel of all at and below path; the path itself last.
	relabel(path, label string) error
}

// Host is the machine's SELinux. A nil Host is a machine without: it gives no
// labels and labels nothing.
type Host struct {
	policy policy

	mu   sync.Mutex
	pods map[string]string // process labels of the pods that have one, by id
}

// Detect returns nil where SELinux is off.
func Detect() *Host {
	if !selinux.GetEnabled() {
		return nil
	}
	return newHost(machine{})
}

func newHost(p policy) *Host { return &Host{policy: p, pods: map[string]string{}} }

// Allocate returns the labels of a new pod. Its level stays its own until
// Release. unconfined is for a pod that lives among the host's processes: it
// gets no label that would keep it from them.
func (h *Host) Allocate(pod string, o Options, unconfined bool) (Labels, error) {
	if h == nil {
		return Labels{}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.pods[pod]; ok {
		return Labels{}, fmt.Errorf("pod %s has SELinux labels: %w", pod, errdefs.ErrAlreadyExists)
	}
	if unconfined {
		return Labels{Mount: h.policy.privileged()}, nil
	}
	process, mount := h.policy.allocate()
	if process == "" {
		return Labels{}, nil // a policy without containers
	}
	own := Labels{Process: process, Mount: mount}
	l, err := own.with(o)
	if err == nil {
		err = h.check(l)
	}
	if err == nil && level(l.Process) != level(process) {
		h.policy.release(process)
		return l, h.reserveLocked(pod, l)
	}
	if err != nil {
		h.policy.release(process)
		return Labels{}, err
	}
	h.pods[pod] = l.Process
	return l, nil
}

// Container returns the labels of a container of a pod: the pod's, but for what
// its own options say.
func (h *Host) Container(pod Labels, o Options, unconfined bool) (Labels, error) {
	if h == nil || pod.Process == "" {
		return pod, nil
	}
	l, err := pod.with(o)
	if err == nil {
		err = h.check(l)
	}
	if unconfined {
		l.Process = ""
	}
	return l, err
}

// Reserve keeps the level of a pod that exists from being given to another.
func (h *Host) Reserve(pod string, l Labels) error {
	if h == nil || l.Process == "" {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reserveLocked(pod, l)
}

func (h *Host) reserveLocked(pod string, l Labels) error {
	if !h.hasLocked(level(l.Process)) {
		if err := h.policy.reserve(l.Process); err != nil && !errors.Is(err, selinux.ErrMCSAlreadyExists) {
			return fmt.Errorf("reserve SELinux level of %.200q: %w", l.Process, err)
		}
	}
	h.pods[pod] = l.Process
	return nil
}

// Release gives the level of a pod back, once: a pod that was not removed well
// is removed again, when another may have the level.
func (h *Host) Release(pod string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	process, ok := h.pods[pod]
	delete(h.pods, pod)
	if ok && !h.hasLocked(level(process)) {
		h.policy.release(process)
	}
}

// hasLocked reports whether a pod has the level.
func (h *Host) hasLocked(l string) bool {
	for _, process := range h.pods {
		if level(process) == l {
			return true
		}
	}
	return false
}

// Label labels one file.
func (h *Host) Label(path, mount string) error {
	if h == nil || mount == "" {
		return nil
	}
	return supported(h.policy.setFileLabel(path, mount), path)
}

// Relabel labels all at and below path for a container. It does nothing where
// the path has the label already, as it has when an earlier Relabel has ended,
// or where the label does not matter to the container.
func (h *Host) Relabel(path string, l Labels) error {
	if h == nil || l.Mount == "" || l.Process == "" || part(l.Process, typePart) == superPrivileged {
		return nil
	}
	if is, err := h.policy.fileLabel(path); err == nil && is == l.Mount {
		return nil
	}
	return supported(h.policy.relabel(path, l.Mount), path)
}

// supported is no error where the file system has no labels.
func supported(err error, path string) error {
	if err == nil || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return fmt.Errorf("label %s for SELinux: %w", path, err)
}

func (h *Host) check(l Labels) error {
	for _, s := range []string{l.Process, l.Mount} {
		if err := h.policy.check(s); err != nil {
			return fmt.Errorf("the SELinux policy does not know the label %.200q: %w: %w", s, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// The parts of a label, user:role:type:level; the level may have colons.
const (
	userPart = iota
	rolePart
	typePart
	levelPart
	parts
)

func level(l string) string { return part(l, levelPart) }

func part(l string, i int) string {
	if all := strings.SplitN(l, ":", parts); i < len(all) {
		return all[i]
	}
	return ""
}

// with replaces parts. Files have the same level as processes, and their user,
// but a role and a type of their own.
func (l Labels) with(o Options) (Labels, error) {
	process, err := replace(l.Process, o.User, o.Role, o.Type, o.Level)
	if err != nil {
		return Labels{}, err
	}
	mount, err := replace(l.Mount, o.User, "", "", o.Level)
	return Labels{Process: process, Mount: mount}, err
}

func replace(l string, by ...string) (string, error) {
	all := strings.SplitN(l, ":", parts)
	for i, s := range by {
		switch {
		case s == "":
		case i < len(all):
			all[i] = s
		case i == levelPart && len(all) == levelPart:
			return "", fmt.Errorf("level %.200q: the SELinux policy has no levels: %w", s, errdefs.ErrInvalidArgument)
		default:
			return "", fmt.Errorf("%.200q is no SELinux label: %w", l, errdefs.ErrInvalidArgument)
		}
	}
	return strings.Join(all, ":"), nil
}

// machine asks the kernel and the policy's files.
type machine struct{}

func (machine) allocate() (process, mount string) {
	process, mount, err := label.InitLabels(nil)
	if err != nil {
		return "", "" // without options there is nothing to be wrong
	}
	return process, mount
}

func (machine) privileged() string         { return selinux.PrivContainerMountLabel() }
func (machine) reserve(label string) error { return selinux.ReserveLabelV2(label) }
func (machine) release(label string)       { selinux.ReleaseLabel(label) }
func (machine) check(label string) error   { return selinux.SecurityCheckContext(label) }

func (machine) fileLabel(path string) (string, error) { return selinux.FileLabel(path) }
func (machine) setFileLabel(path, label string) error { return selinux.SetFileLabel(path, label) }

// relabel refuses the directories that the machine itself lives in.
func (machine) relabel(path, mount string) error { return label.Relabel(path, mount, false) }
