package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/runtime/oci"
)

// Exec runs a process in the running container and waits for it; see oci.Exec.
func (c *Container) Exec(ctx context.Context, process *specs.Process, stdout, stderr io.Writer) (code int, err error) {
	if err := c.expect(Running); err != nil {
		return 0, err
	}
	runtime, err := c.driver()
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(c.Dir(), "exec", strconv.FormatUint(c.execs.Add(1), 10))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, fmt.Errorf("create directory of the exec: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return runtime.Exec(ctx, oci.ExecRequest{
		ID:      c.id,
		Process: process,
		Dir:     dir,
		Stdout:  stdout,
		Stderr:  stderr,
	})
}
