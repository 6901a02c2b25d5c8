package compose

import (
	"context"
	"fmt"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// hooks runs post_start in a new container.
func (c *convergence) hooks(ctx context.Context, s *types.ServiceConfig, id string) error {
	for i, h := range s.PostStart {
		open := &nodev1.ExecOpen{
			Container: id, Command: h.Command, Env: equals(h.Environment), Workdir: h.WorkingDir, User: h.User, Privileged: h.Privileged,
		}
		exit, err := execute(ctx, c.node, open)
		if err != nil {
			return fmt.Errorf("service %s: post_start[%d]: %w", s.Name, i, err)
		}
		if exit.GetCode() != 0 {
			return fmt.Errorf("service %s: post_start[%d] exited with code %d %s", s.Name, i, exit.GetCode(), exit.GetError())
		}
	}
	return nil
}

// execute runs a command in a container and drops what it prints.
func execute(ctx context.Context, n *client.Node, open *nodev1.ExecOpen) (*nodev1.Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.Containers.Exec(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&nodev1.ExecRequest{Open: open}); err != nil {
		return nil, err
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if answer.GetExit() != nil {
			return answer.GetExit(), nil
		}
	}
}
