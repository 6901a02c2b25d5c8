package cri

import (
	"context"
	"fmt"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cri/spec"
	"github.com/cri-node/cri-node/pkg/progress"
	"github.com/cri-node/cri-node/pkg/runtime"
)

// maxExecOutput bounds what both streams of one ExecSync return together:
// clients refuse an answer of more than 16 MiB, and an unbounded one has cost
// other daemons their memory (CVE-2022-1708, CVE-2022-31030).
const maxExecOutput = 16<<20 - 64<<10

// ExecSync runs a command in a container and returns its output and exit code.
// When the timeout is over, the command and everything it started is dead
// before the call returns.
func (s *Server) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if err := spec.ValidateExecSync(r); err != nil {
		return nil, err
	}
	c, err := s.findContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	init, err := c.InitProcess()
	if err != nil {
		return nil, err
	}
	process, err := spec.Process(init, r.GetCmd(), spec.WithoutTerminal)
	if err != nil {
		return nil, err
	}
	if timeout := seconds(r.GetTimeout()); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("command %q timed out after %v: %w", r.GetCmd(), timeout, context.DeadlineExceeded))
		defer cancel()
	}
	ctx = progress.Enter(ctx, "command")
	budget := &outputBudget{left: maxExecOutput}
	stdout, stderr := &boundedOutput{budget: budget}, &boundedOutput{budget: budget}
	begin := time.Now()
	code, err := c.Exec(ctx, process, runtime.Streams{Stdout: stdout, Stderr: stderr})
	if err != nil {
		return nil, fmt.Errorf("execute %q in container %s (%v): %w", r.GetCmd(), c.ID(), time.Since(begin).Round(time.Millisecond), err)
	}
	return &runtimeapi.ExecSyncResponse{Stdout: stdout.b, Stderr: stderr.b, ExitCode: int32(code)}, nil
}

// outputBudget is shared by the streams of one command.
type outputBudget struct {
	mu   sync.Mutex
	left int
}

func (o *outputBudget) take(want int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	got := min(want, o.left)
	o.left -= got
	return got
}

// boundedOutput keeps what its budget allows and drops the rest, so that the
// command never waits for a reader.
type boundedOutput struct {
	budget *outputBudget
	b      []byte
}

// bigOutput is where an output is taken to be one without end: from there on
// it has all the room it may ever need, of which only what is written costs
// memory. Growing step by step would leave as much behind as garbage.
const bigOutput = 256 << 10

func (o *boundedOutput) Write(p []byte) (int, error) {
	n := o.budget.take(len(p))
	if need := len(o.b) + n; need > cap(o.b) && need > bigOutput {
		o.b = append(make([]byte, 0, maxExecOutput), o.b...)
	}
	o.b = append(o.b, p[:n]...)
	return len(p), nil
}
