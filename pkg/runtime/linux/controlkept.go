package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// KeptControls are control files of a cgroup with what they said at a moment.
type KeptControls []keptControl

type keptControl struct{ file, value string }

// KeepControls reads control files of a cgroup by their names, such as
// cpuset.cpus. Those that are not there are left out.
func (c *Cgroups) KeepControls(cgroup string, names []string) (KeptControls, error) {
	if cgroup == "" {
		return nil, nil
	}
	var kept KeptControls
	for _, name := range names {
		controller, _, ok := strings.Cut(name, ".")
		if !ok || strings.ContainsAny(name, "/\x00") || !c.unified && c.trees[controller] == "" {
			continue // no name of a control file, or nobody has set it
		}
		file := filepath.Join(c.dir(controller, cgroup), name)
		value, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read limits of cgroup %s: %w", cgroup, err)
		}
		kept = append(kept, keptControl{file, string(value)})
	}
	return kept, nil
}

// EffectiveCpuset is what processors and memory nodes a cgroup of version 2 has,
// be it by the cpuset of one above it. With version 1, where each cgroup has a
// cpuset of its own, they are empty.
func (c *Cgroups) EffectiveCpuset(cgroup string) (cpus, mems string, err error) {
	if !c.unified || cgroup == "" {
		return "", "", nil
	}
	if cpus, err = c.nearest(cgroup, "cpuset.cpus.effective"); err == nil {
		mems, err = c.nearest(cgroup, "cpuset.mems.effective")
	}
	return cpus, mems, err
}

// nearest reads a control file of a cgroup, or of the nearest one above it that
// has the file: a controller need not be there in all of them.
func (c *Cgroups) nearest(cgroup, name string) (string, error) {
	for cgroup = path.Clean("/" + cgroup); ; cgroup = path.Dir(cgroup) {
		value, err := os.ReadFile(filepath.Join(c.dir("", cgroup), name))
		if err == nil {
			return strings.TrimSpace(string(value)), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("read cpuset: %w", err)
		}
		if cgroup == "/" {
			return "", nil // the kernel has no such controller
		}
	}
}

// Restore writes back what has changed since. It tries every file.
func (k KeptControls) Restore() error {
	var errs []error
	for _, kept := range k {
		now, err := os.ReadFile(kept.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // with the cgroup
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read limits: %w", err))
			continue
		}
		for _, line := range undoing(kept.value, string(now)) {
			if err := writeControl(kept.file, line); err != nil {
				errs = append(errs, fmt.Errorf("restore limits: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// undoing is what has to be written, one after another, to a control file that
// says now for it to say before again. A file with a line for each device (io.max)
// takes one line at a time, and forgets a device whose limits are "max".
func undoing(before, now string) []string {
	if before == now {
		return nil
	}
	if !strings.Contains(before+now, ":") {
		// An empty cpuset says "that of the parent"; nothing at all would be no
		// write.
		return []string{strings.TrimRight(before, "\n") + "\n"}
	}
	old := map[string]bool{}
	var lines []string
	for line := range strings.Lines(before) {
		device, _, _ := strings.Cut(line, " ")
		old[device] = true
		lines = append(lines, line)
	}
	for line := range strings.Lines(now) {
		fields := strings.Fields(line)
		if len(fields) < 2 || old[fields[0]] {
			continue
		}
		for i, field := range fields[1:] {
			fields[i+1] = "default"
			if key, _, ok := strings.Cut(field, "="); ok {
				fields[i+1] = key + "=max"
			}
		}
		lines = append(lines, strings.Join(fields, " ")+"\n")
	}
	return lines
}
