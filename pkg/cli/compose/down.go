package compose

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// stopAll stops the containers of the project's services, those that depend on
// others first.
func stopAll(ctx context.Context, n *client.Node, p *types.Project, r *report, timeout *int64) error {
	found, err := list(ctx, n, p.Name)
	if err != nil {
		return err
	}
	return inOrder(ctx, p, true, func(ctx context.Context, s *types.ServiceConfig) error {
		var errs []error
		for _, c := range found[s.Name] {
			if c.GetState() == "created" || c.GetState() == "dead" {
				continue
			}
			// One that has exited may be about to be started again.
			err := stop(ctx, n, c, timeout)
			if err == nil && c.GetState() != "exited" {
				r.line("Container", c.GetName(), "Stopped")
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

// downOptions are the flags of `down`.
type downOptions struct {
	volumes, removeOrphans bool
	images                 string
	timeout                int64
}

func (c *command) down() *cobra.Command {
	var o downOptions
	cmd := &cobra.Command{
		Use:   "down [SERVICE...]",
		Short: "Stop and remove the containers of a project",
		Example: "  cri-node compose down\n" +
			"  cri-node compose down -v --rmi local   # and its volumes, and the images it built",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, services []string) error {
			return c.run(func(n *client.Node) error { return c.runDown(cmd, n, services, o, stopTimeout(cmd, o.timeout)) })
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.volumes, "volumes", "v", false, "remove the volumes of the project, and anonymous ones")
	f.BoolVar(&o.removeOrphans, "remove-orphans", false, "remove containers of services that the file does not have")
	f.StringVar(&o.images, "rmi", "", "remove images too: `all`, or local for those without a name of their own")
	f.Int64VarP(&o.timeout, "timeout", "t", 0, "`seconds` until containers that do not stop are killed")
	return cmd
}

func (c *command) runDown(cmd *cobra.Command, n *client.Node, services []string, o downOptions, timeout *int64) error {
	ctx := cmd.Context()
	if o.images != "" && o.images != "all" && o.images != "local" {
		return fmt.Errorf("--rmi %s is unknown: it can be all or local", o.images)
	}
	name, p, err := c.source.projectName(ctx)
	if err != nil {
		return err
	}
	r := &report{to: cmd.ErrOrStderr()}
	found, oneOffs, err := listAll(ctx, n, name)
	if err != nil {
		return err
	}
	if p == nil { // no file any more: in any order
		p = &types.Project{Name: name, Services: types.Services{}}
		for service := range found {
			p.Services[service] = types.ServiceConfig{Name: service}
		}
	}
	if len(services) > 0 {
		if p, err = selected(p, services, true); err != nil {
			return err
		}
		return inOrder(ctx, p, true, func(ctx context.Context, s *types.ServiceConfig) error {
			return removeAll(ctx, n, r, found[s.Name], timeout, o.volumes)
		})
	}
	// Those of `compose run` use what the services have.
	if err := removeAll(ctx, n, r, oneOffs, timeout, o.volumes); err != nil {
		return err
	}
	err = inOrder(ctx, p, true, func(ctx context.Context, s *types.ServiceConfig) error {
		return removeAll(ctx, n, r, found[s.Name], timeout, o.volumes)
	})
	if err != nil {
		return err
	}
	for service, containers := range found {
		_, active := p.Services[service]
		_, disabled := p.DisabledServices[service]
		if active || !disabled && !o.removeOrphans {
			continue
		}
		if err := removeAll(ctx, n, r, containers, timeout, o.volumes); err != nil {
			return err
		}
	}
	if o.volumes {
		if err := removeVolumes(ctx, n, name, r); err != nil {
			return err
		}
	}
	return removeImages(ctx, n, p, r, o.images)
}

func removeAll(ctx context.Context, n *client.Node, r *report, containers []*nodev1.Container, timeout *int64, volumes bool) error {
	var errs []error
	for _, c := range containers {
		errs = append(errs, remove(ctx, n, r, c, timeout, volumes))
	}
	return errors.Join(errs...)
}

// removeVolumes removes the volumes that were made for a project.
func removeVolumes(ctx context.Context, n *client.Node, project string, r *report) error {
	answer, err := n.System.ListVolumes(ctx, &nodev1.ListVolumesRequest{})
	if err != nil {
		return err
	}
	var errs []error
	for _, v := range answer.GetVolumes() {
		if v.GetLabels()[labelProject] != project {
			continue
		}
		_, err := n.System.RemoveVolume(ctx, &nodev1.RemoveVolumeRequest{Name: v.GetName()})
		if err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("remove volume %s: %w", v.GetName(), err))
			continue
		}
		r.line("Volume", v.GetName(), "Removed")
	}
	return errors.Join(errs...)
}

// removeImages removes the images of a project's services.
func removeImages(ctx context.Context, n *client.Node, p *types.Project, r *report, which string) error {
	var names []string
	for _, s := range p.Services {
		if which == "all" || which == "local" && s.Image == "" && s.Build != nil {
			names = append(names, imageOf(p, &s))
		}
	}
	slices.Sort(names)
	var errs []error
	for _, name := range slices.Compact(names) {
		_, err := n.Images.Remove(ctx, &nodev1.RemoveImageRequest{Image: name})
		switch {
		case gone(err):
		case err != nil:
			errs = append(errs, fmt.Errorf("remove image %s: %w", name, err))
		default:
			r.line("Image", name, "Removed")
		}
	}
	return errors.Join(errs...)
}
