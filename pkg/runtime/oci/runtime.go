package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Config names a runtime binary and how to call it.
type Config struct {
	// Handler is the name CRI's runtime_handler selects it by.
	Handler string
	// Path is the absolute path of the binary.
	Path string
	// Root is the directory for the runtime's own state, one for each handler
	// so that ids cannot clash with other users of the same binary.
	Root string
	// SystemdCgroup makes the runtime ask systemd for cgroups.
	SystemdCgroup bool
	// HideUnified hides a hybrid machine's cgroup v2 tree from the binary where
	// it needs that. Set it on hybrid machines.
	HideUnified bool
}

// Features is what a runtime binary can do.
type Features struct {
	// Version is the first line of its --version.
	Version string
	// OCIVersion is the newest runtime-spec version it takes.
	OCIVersion string
	// RecursiveReadOnly: it knows the mount option rro.
	RecursiveReadOnly bool
	// IDMap: it can idmap mounts.
	IDMap bool
	// ReadsUserNS: it reads the mappings of a user namespace that it is given
	// the path of, and complains about a spec that has them too.
	ReadsUserNS bool
	// MountOptions it knows, as its features command lists them.
	MountOptions []string
}

// Runtime is one runtime binary. It is immutable and safe for use by many.
type Runtime struct {
	config   Config
	features Features
	// hide is whether every call must run without the cgroup v2 tree.
	hide bool
	// release is whether a created container can be let go through its FIFO,
	// without running the binary: runc's start does nothing else.
	release bool
}

// oldestSpec is what a binary without a features command is taken to accept:
// every 1.0 runtime does.
const oldestSpec = "1.0.2"

// Open asks the binary who it is and what it can do.
func Open(ctx context.Context, c Config) (*Runtime, error) {
	if !filepath.IsAbs(c.Path) {
		return nil, fmt.Errorf("runtime handler %q: path %q is not absolute: %w", c.Handler, c.Path, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	version, err := exec.CommandContext(ctx, c.Path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("runtime handler %q: ask %s for its version: %w", c.Handler, c.Path, err)
	}
	if err := os.MkdirAll(c.Root, 0o700); err != nil {
		return nil, fmt.Errorf("runtime handler %q: %w", c.Handler, err)
	}
	first, _, _ := strings.Cut(string(version), "\n")
	r := &Runtime{config: c, features: Features{Version: first, OCIVersion: oldestSpec}}
	// crun does not support hybrid machines; runc does.
	r.hide = c.HideUnified && strings.HasPrefix(first, "crun")
	r.release = strings.HasPrefix(first, "runc version")
	r.features.ReadsUserNS = r.release
	r.askFeatures(ctx)
	return r, nil
}

// askFeatures runs the features command (runc 1.1, crun 1.8.6). Older binaries
// do not have it and keep the defaults.
func (r *Runtime) askFeatures(ctx context.Context) {
	out, err := exec.CommandContext(ctx, r.config.Path, "features").Output()
	if err != nil {
		r.features.RecursiveReadOnly = knowsRRO(r.features.Version)
		return
	}
	var f features.Features
	if err := json.Unmarshal(out, &f); err != nil {
		return
	}
	if f.OCIVersionMax != "" {
		r.features.OCIVersion = f.OCIVersionMax
	}
	r.features.MountOptions = f.MountOptions
	r.features.RecursiveReadOnly = slices.Contains(f.MountOptions, "rro")
	if f.Linux != nil && f.Linux.MountExtensions != nil && f.Linux.MountExtensions.IDMap != nil && f.Linux.MountExtensions.IDMap.Enabled != nil {
		r.features.IDMap = *f.Linux.MountExtensions.IDMap.Enabled
	}
}

// knowsRRO is for versions of crun that cannot say it themselves.
func knowsRRO(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "crun version %d.%d", &major, &minor)
	return err == nil && (major > 1 || major == 1 && minor >= 8)
}

// Handler is the name the runtime is selected by.
func (r *Runtime) Handler() string { return r.config.Handler }

// Features is what the binary said it can do.
func (r *Runtime) Features() Features { return r.features }

// Path of the binary.
func (r *Runtime) Path() string { return r.config.Path }

// HideUnified reports whether the binary must be run without the cgroup v2
// tree in its sight.
func (r *Runtime) HideUnified() bool { return r.hide }

// CreateCommand is the command line that creates a container. Whoever runs it
// becomes, as a child subreaper, the parent of the container's init.
func (r *Runtime) CreateCommand(id, bundle, pidFile, logFile string) []string {
	return append(r.command(logFile), "create", "--bundle", bundle, "--pid-file", pidFile, id)
}

// command starts a command line with the options all commands take.
func (r *Runtime) command(logFile string) []string {
	argv := []string{r.config.Path, "--root", r.config.Root, "--log", logFile, "--log-format", "json"}
	if r.config.SystemdCgroup {
		argv = append(argv, "--systemd-cgroup")
	}
	return argv
}

// ExecFIFO is the file that exists from a container's creation until its start,
// in runc and in crun.
func (r *Runtime) ExecFIFO(id string) string {
	return filepath.Join(r.stateDir(id), "exec.fifo")
}

func (r *Runtime) stateDir(id string) string { return filepath.Join(r.config.Root, id) }

// Delete removes what the runtime keeps of a container: its state and its
// cgroup. A container that is still alive is killed. One the runtime does not
// know is a success.
func (r *Runtime) Delete(ctx context.Context, id, logFile string) error {
	if _, err := os.Lstat(r.stateDir(id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := r.run(ctx, logFile, "delete", "--force", id); err != nil {
		return err
	}
	// A create that was killed half way leaves a directory the runtime itself
	// does not take for a container.
	return linux.RemoveAll(r.stateDir(id))
}

// Forget removes the runtime's state of a container whose processes are gone
// and whose cgroup the caller removes: what Delete does for such a container,
// without running the binary. The container must have no poststop hooks.
func (r *Runtime) Forget(id string) error { return linux.RemoveAll(r.stateDir(id)) }

// Update changes the resource limits of a container to those in the JSON
// document of a runtime-spec LinuxResources.
func (r *Runtime) Update(ctx context.Context, id, logFile string, resources []byte) (err error) {
	ctx, end := r.span(ctx, "update", id)
	defer func() { end(err) }()
	cmd := r.prepare(ctx, logFile, "update", "--resources", "-", id)
	cmd.Stdin = bytes.NewReader(resources)
	return r.finish(cmd, logFile, "update")
}

// run executes one command and turns its failure into an error that says what
// the runtime said.
func (r *Runtime) run(ctx context.Context, logFile string, args ...string) (err error) {
	ctx, end := r.span(ctx, args[0], args[len(args)-1])
	defer func() { end(err) }()
	return r.finish(r.prepare(ctx, logFile, args...), logFile, args[0])
}

// span is that of one run of the binary for a container.
func (r *Runtime) span(ctx context.Context, verb, id string) (context.Context, func(error)) {
	return progress.Start(ctx, "OCI runtime "+verb, "oci.runtime", r.config.Handler, "container.id", id)
}

func (r *Runtime) prepare(ctx context.Context, logFile string, args ...string) *exec.Cmd {
	argv := append(r.command(logFile), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = Environment(ctx)
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

func (r *Runtime) finish(cmd *exec.Cmd, logFile, verb string) error {
	offset := size(logFile)
	var stderr tail
	cmd.Stderr = &stderr
	if err := r.start(cmd); err != nil {
		return fmt.Errorf("run %s %s: %w", r.config.Path, verb, err)
	}
	if err := cmd.Wait(); err != nil {
		return &Error{Runtime: r.config.Handler, Verb: verb, Message: Explain(logFile, offset, stderr.String()), Err: err}
	}
	return nil
}

// start forks cmd, out of sight of the cgroup v2 tree where that is needed.
func (r *Runtime) start(cmd *exec.Cmd) error {
	if r.hide {
		return linux.WithoutUnified(cmd.Start)
	}
	return cmd.Start()
}

// Environment is all that a runtime command needs, also one that somebody else
// runs: its PATH for hooks and helpers, systemd's bus, and the span it runs below.
// Nothing else of the daemon's own environment goes down.
func Environment(ctx context.Context) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, key := range []string{"DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return append(env, progress.Environment(ctx)...)
}
