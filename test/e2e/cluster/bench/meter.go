package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cri-node/cri-node/test/e2e/cluster/cage"
	"github.com/cri-node/cri-node/test/e2e/invariant"
	"github.com/cri-node/cri-node/test/e2e/usage"
)

// meter is a cgroup that counts the processor time of a runtime and of all that it
// starts, such as an OCI runtime, for as long as that is not moved into a pod's.
type meter struct {
	// file has the time, unit of which is one of version 1 or 2.
	file string
	unit time.Duration
}

// newMeter moves the processes into a cgroup, in the hierarchy that counts.
func newMeter(cgroup string, processes []usage.Process) (meter, error) {
	roots, err := invariant.CgroupMounts()
	if err != nil {
		return meter{}, err
	}
	if err := cage.MakeCgroup(cgroup); err != nil {
		return meter{}, err
	}
	for _, root := range roots {
		dir := filepath.Join(root, cgroup)
		m := meter{file: filepath.Join(dir, "cpuacct.usage"), unit: time.Nanosecond}
		if _, err := os.Stat(m.file); errors.Is(err, fs.ErrNotExist) && len(roots) == 1 {
			m = meter{file: filepath.Join(dir, "cpu.stat"), unit: time.Microsecond}
		} else if err != nil {
			continue
		}
		for _, p := range processes {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(p.PID)), 0o644); err != nil {
				return meter{}, fmt.Errorf("move process into cgroup: %w", err)
			}
		}
		return m, nil
	}
	return meter{}, errors.New("no hierarchy of cgroups counts processor time")
}

// read is the processor time so far.
func (m meter) read() (time.Duration, error) {
	data, err := os.ReadFile(m.file)
	if err != nil {
		return 0, err
	}
	// Version 2 begins with the line "usage_usec 1".
	first, _, _ := strings.Cut(strings.TrimPrefix(string(data), "usage_usec "), "\n")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse %s: %w", m.file, err)
	}
	return time.Duration(n) * m.unit, nil
}

// poll calls done, each time the interval is over, until it says so or an error.
func poll(ctx context.Context, interval time.Duration, done func(context.Context) (bool, error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if ok, err := done(ctx); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// until waits for a moment.
func until(ctx context.Context, moment time.Time) error {
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
