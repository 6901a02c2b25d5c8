package node

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// Top lists the processes of a container as ps(1) of the machine shows them.
func (s *containers) Top(ctx context.Context, r *nodev1.TopRequest) (*nodev1.TopResponse, error) {
	t, err := s.find(r.GetContainer())
	if err != nil {
		return nil, err
	}
	if t.c.Status().State != runtime.Running {
		return nil, refused("container %q does not run", s.title(t))
	}
	pids, err := t.c.PIDs()
	if err != nil {
		return nil, err
	}
	args := r.GetPsArgs()
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := ps(ctx, args)
	if err != nil {
		return nil, err
	}
	return choose(out, pids)
}

// ps runs ps(1) of the machine. Its arguments are none of a shell's.
func ps(ctx context.Context, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, "ps", args...) //nolint:gosec // options of ps, which changes nothing
	var failed bytes.Buffer
	cmd.Stderr = &failed
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", refused("the machine has no ps(1), which top shows the processes with: install it (Debian: procps)")
	case err != nil:
		return "", invalid("ps_args: ps %s: %s", strings.Join(args, " "), strings.TrimSpace(failed.String()))
	}
	return string(out), nil
}

// choose keeps the lines of some processes. The last column may have spaces.
func choose(out string, pids []int) (*nodev1.TopResponse, error) {
	lines := strings.Split(strings.TrimRight(printable(out), "\n"), "\n")
	titles := strings.Fields(lines[0])
	column := slices.Index(titles, "PID")
	if column < 0 {
		return nil, invalid("ps_args: what ps prints must have a column PID")
	}
	response := &nodev1.TopResponse{Titles: titles}
	for _, line := range lines[1:] {
		fields := fields(line, len(titles))
		if len(fields) <= column {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			response.Processes = append(response.Processes, &nodev1.TopResponse_Process{Columns: fields})
		}
	}
	return response, nil
}

// fields splits a line at spaces into n fields at most.
func fields(line string, n int) []string {
	var list []string
	for rest := strings.TrimLeft(line, " "); rest != ""; {
		if len(list) == n-1 {
			return append(list, rest)
		}
		field, after, _ := strings.Cut(rest, " ")
		list = append(list, field)
		rest = strings.TrimLeft(after, " ")
	}
	return list
}
