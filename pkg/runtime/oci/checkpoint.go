package oci

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Checkpoint says where CRIU puts what, and what it needs to know. All paths
// are absolute.
type Checkpoint struct {
	// Images is the directory of the process images, Work that of logs.
	Images, Work string
	// CRIUConfig is a file of options for CRIU that the runtime has no flags
	// for. It is read once, through CRIU's environment: as the runtime's own
	// annotation for such a file it would be read twice, which the options that
	// hand over descriptors do not survive.
	CRIUConfig string
	// LogFile takes the runtime's own messages.
	LogFile string
	// TTY says that the container has a terminal.
	TTY bool
}

// criuLog is the name of CRIU's log in Checkpoint.Work, by verb.
func (c Checkpoint) criuLog(verb string) string {
	if verb == "checkpoint" {
		return filepath.Join(c.Work, "dump.log")
	}
	return filepath.Join(c.Work, "restore.log")
}

// flags are those that the runtime's checkpoint and restore have in common.
func (c Checkpoint) flags() []string {
	flags := []string{
		"--image-path", c.Images, "--work-path", c.Work,
		// Connections and locks are part of a process's state; a container
		// without them would see errors out of nowhere.
		"--tcp-established", "--file-locks",
		// The cgroup belongs to us, whatever it was called before.
		"--manage-cgroups-mode", "ignore",
	}
	if c.TTY {
		flags = append(flags, "--shell-job")
	}
	return flags
}

// Checkpoint writes the state of a running container's processes and lets them
// go on.
func (r *Runtime) Checkpoint(ctx context.Context, id string, c Checkpoint) error {
	args := append([]string{"checkpoint", "--leave-running"}, c.flags()...)
	cmd := r.prepare(ctx, c.LogFile, append(args, id)...)
	cmd.Env = CRIUEnvironment(ctx, c.CRIUConfig)
	if err := r.finish(cmd, c.LogFile, "checkpoint"); err != nil {
		return fmt.Errorf("%w%s", err, c.Explain("checkpoint"))
	}
	return nil
}

// RestoreCommand is the command line that makes a container of its images and
// lets it run. Whoever runs it, with CRIUEnvironment, becomes as a child
// subreaper the parent of the container's init.
func (r *Runtime) RestoreCommand(id, bundle, pidFile string, c Checkpoint) []string {
	argv := append(r.command(c.LogFile), "restore", "--detach", "--bundle", bundle, "--pid-file", pidFile)
	return append(append(argv, c.flags()...), id)
}

// CRIUEnvironment is the environment of a runtime that will run CRIU.
func CRIUEnvironment(ctx context.Context, config string) []string {
	return append(Environment(ctx), "CRIU_CONFIG_FILE="+config)
}

// maxCRIUErrors is how many of CRIU's complaints go into an error.
const maxCRIUErrors = 3

// Explain says what CRIU complained of in a failed checkpoint or restore, as
// the end of an error message.
func (c Checkpoint) Explain(verb string) string {
	f, err := os.Open(c.criuLog(verb))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // it was only read
	var complaints []string
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(complaints) < maxCRIUErrors {
		if _, text, ok := strings.Cut(lines.Text(), "Error ("); ok {
			complaints = append(complaints, "("+strings.TrimSpace(text))
		}
	}
	if len(complaints) == 0 {
		return ""
	}
	return ": CRIU: " + strings.Join(complaints, "; ")
}

// criuCheckTime bounds the check of a host's CRIU.
const criuCheckTime = 20 * time.Second

// CheckCRIU reports, as errdefs.ErrNotImplemented, why containers cannot be
// checkpointed on this machine with this runtime. Nil means that nothing is
// known to be in the way. It runs CRIU.
func (r *Runtime) CheckCRIU(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, criuCheckTime)
	defer cancel()
	path := ""
	for _, e := range Environment(ctx) {
		if dirs, ok := strings.CutPrefix(e, "PATH="); ok {
			path = findProgram("criu", filepath.SplitList(dirs))
		}
	}
	if path == "" {
		return fmt.Errorf("CRIU is not on this machine (Debian: package criu): %w", errdefs.ErrNotImplemented)
	}
	out, err := exec.CommandContext(ctx, path, "check").CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s check: %w: %s: %w", path, err, lines[0], errdefs.ErrNotImplemented)
	}
	help, err := exec.CommandContext(ctx, r.config.Path, "checkpoint", "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(help), "manage-cgroups-mode") {
		return fmt.Errorf("runtime handler %q cannot checkpoint: %w", r.config.Handler, errors.Join(err, errdefs.ErrNotImplemented))
	}
	return nil
}

// findProgram is exec.LookPath with directories of our choice.
func findProgram(name string, dirs []string) string {
	for _, d := range dirs {
		p := filepath.Join(d, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}
