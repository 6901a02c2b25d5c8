package compose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-node/cri-node/pkg/cli/client"
)

// gone says that an error is about something that is not there.
func gone(err error) bool { return status.Code(err) == codes.NotFound }

// upOptions are the flags of `up` and `create`.
type upOptions struct {
	detach, build, noBuild, forceRecreate, noRecreate, noDeps, wait bool
	removeOrphans, abortOnExit, noLogPrefix, timestamps, noStart    bool
	attachDependencies, renewVolumes                                bool
	exitCodeFrom, pull                                              string
	attach, noAttach                                                []string
	waitTimeout                                                     int64
	scale                                                           map[string]int
	timeout                                                         int64
}

func (c *command) up() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up [SERVICE...]",
		Short: "Make and start the containers of services, and follow them",
		Example: "  cri-node compose up -d            # in the background\n" +
			"  cri-node compose up --build web   # build its image first\n" +
			"  cri-node compose up -d --scale worker=3",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, services []string) error {
			return c.run(func(n *client.Node) error {
				return c.runUp(cmd, n, services, o, stopTimeout(cmd, o.timeout))
			})
		},
	}
	f := cmd.Flags()
	o.addMakingFlags(f)
	f.BoolVarP(&o.detach, "detach", "d", false, "leave the containers in the background")
	f.BoolVar(&o.noDeps, "no-deps", false, "leave services alone that the named ones depend on")
	f.BoolVar(&o.wait, "wait", false, "wait until services run, or are healthy; implies -d")
	f.Int64Var(&o.waitTimeout, "wait-timeout", 0, "`seconds` that --wait waits at most")
	f.BoolVar(&o.abortOnExit, "abort-on-container-exit", false, "stop all containers when one exits")
	f.StringVar(&o.exitCodeFrom, "exit-code-from", "", "exit with the code of this `service`; implies --abort-on-container-exit")
	f.StringArrayVar(&o.attach, "attach", nil, "print what this `service` says, and others named so, alone")
	f.StringArrayVar(&o.noAttach, "no-attach", nil, "do not print what this `service` says")
	f.BoolVar(&o.attachDependencies, "attach-dependencies", false, "print what services say that the named ones depend on")
	f.BoolVar(&o.noLogPrefix, "no-log-prefix", false, "do not print whose line it is")
	f.BoolVar(&o.timestamps, "timestamps", false, "print when a line was written")
	f.BoolVar(&o.noStart, "no-start", false, "make containers and do not start them")
	f.Int64VarP(&o.timeout, "timeout", "t", 0, "`seconds` until containers that do not stop are killed")
	return cmd
}

// addMakingFlags adds what `up` and `create` have in common.
func (o *upOptions) addMakingFlags(f *pflag.FlagSet) {
	f.BoolVar(&o.build, "build", false, "build images first")
	f.BoolVar(&o.noBuild, "no-build", false, "do not build images, even if they are missing")
	f.BoolVar(&o.forceRecreate, "force-recreate", false, "replace containers even if nothing has changed")
	f.BoolVar(&o.noRecreate, "no-recreate", false, "keep containers even if something has changed")
	f.BoolVarP(&o.renewVolumes, "renew-anon-volumes", "V", false, "give containers that are replaced new anonymous volumes")
	f.BoolVar(&o.removeOrphans, "remove-orphans", false, "remove containers of services that the file does not have")
	f.StringVar(&o.pull, "pull", "", "always, missing, never or build")
	f.StringToIntVar(&o.scale, "scale", nil, "how many containers a `service=number` has")
}

// stopTimeout is nil where the flag was not given.
func stopTimeout(cmd *cobra.Command, seconds int64) *int64 {
	if !cmd.Flags().Changed("timeout") {
		return nil
	}
	return &seconds
}

func (c *command) runUp(cmd *cobra.Command, n *client.Node, names []string, o upOptions, timeout *int64) error {
	ctx := cmd.Context()
	p, err := c.source.load(ctx)
	if err != nil {
		return err
	}
	for _, name := range slices.Concat(o.attach, o.noAttach) {
		if _, err := p.GetService(name); err != nil {
			return fmt.Errorf("no such service: %s", name)
		}
	}
	if p, err = selected(p, names, o.noDeps); err != nil {
		return err
	}
	for name, count := range o.scale {
		s, err := p.GetService(name)
		if err != nil {
			return fmt.Errorf("--scale: no such service: %s", name)
		}
		s.SetScale(count)
		p.Services[name] = s
	}
	if o.exitCodeFrom != "" {
		if _, ok := p.Services[o.exitCodeFrom]; !ok {
			return fmt.Errorf("--exit-code-from: there is no service %s", o.exitCodeFrom)
		}
		o.abortOnExit = true
	}
	r := &report{to: cmd.ErrOrStderr()}
	if err := orphans(ctx, n, p, r, o.removeOrphans, timeout); err != nil {
		return err
	}
	images, err := c.images(ctx, n, p, o)
	if err != nil {
		return err
	}
	if err := makeVolumes(ctx, n, p, r); err != nil {
		return err
	}
	converge := &convergence{node: n, project: p, report: r, start: !o.noStart, timeout: timeout, images: images, recreate: recreateDiverged, renewVolumes: o.renewVolumes}
	switch {
	case o.forceRecreate && o.noRecreate:
		return errors.New("--force-recreate and --no-recreate exclude each other")
	case o.forceRecreate:
		converge.recreate = recreateAlways
	case o.noRecreate:
		converge.recreate = recreateNever
	}
	if o.detach || o.wait || o.noStart {
		if err := inOrder(ctx, p, false, converge.service); err != nil || !o.wait {
			return err
		}
		return awaitUp(ctx, n, p, o.waitTimeout)
	}
	return follow(cmd, n, p, converge, o, o.attached(p, names))
}

// attached are the services whose containers `up` follows: those that were named,
// or all.
func (o *upOptions) attached(p *types.Project, names []string) []string {
	if len(names) == 0 || o.attachDependencies {
		names = p.ServiceNames()
	}
	if len(o.attach) > 0 {
		names = o.attach
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		s := p.Services[name]
		return slices.Contains(o.noAttach, name) || s.Attach != nil && !*s.Attach && len(o.attach) == 0
	})
}

// selected is the project with the named services, and those they depend on.
func selected(p *types.Project, names []string, alone bool) (*types.Project, error) {
	if len(names) == 0 {
		return p, nil
	}
	policy := types.IncludeDependencies
	if alone {
		policy = types.IgnoreDependencies
	}
	for _, name := range names {
		_, active := p.Services[name]
		if _, disabled := p.DisabledServices[name]; !active && !disabled {
			return nil, fmt.Errorf("no such service: %s", name)
		}
	}
	p, err := p.WithServicesEnabled(names...)
	if err != nil {
		return nil, fmt.Errorf("enable services: %w", err)
	}
	if p, err = p.WithSelectedServices(names, policy); err != nil {
		return nil, fmt.Errorf("select services: %w", err)
	}
	return p, nil
}

// orphans removes, or tells of, containers whose service the file does not have.
func orphans(ctx context.Context, n *client.Node, p *types.Project, r *report, take bool, timeout *int64) error {
	found, err := list(ctx, n, p.Name)
	if err != nil {
		return err
	}
	var names []string
	for service, containers := range found {
		_, active := p.Services[service]
		_, disabled := p.DisabledServices[service]
		if active || disabled {
			continue
		}
		for _, c := range containers {
			if !take {
				names = append(names, c.GetName())
			} else if err := remove(ctx, n, r, c, timeout, false); err != nil {
				return err
			}
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		r.line("Warning", p.Name, fmt.Sprintf("has containers of services that the file does not have: %v; --remove-orphans removes them", names))
	}
	return nil
}

// awaitUp returns when each service runs, and is healthy where it can say so.
func awaitUp(ctx context.Context, n *client.Node, p *types.Project, seconds int64) error {
	if seconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(seconds)*time.Second, fmt.Errorf("the services are not up after %d seconds", seconds))
		defer cancel()
	}
	err := until(ctx, n, func() (bool, error) {
		found, err := list(ctx, n, p.Name)
		if err != nil {
			return false, err
		}
		for name := range p.Services {
			for _, c := range found[name] {
				condition := types.ServiceConditionStarted
				if c.GetHealth() != "" {
					condition = types.ServiceConditionHealthy
				}
				if ok, err := meets(c, condition); !ok || err != nil {
					return false, explain(ctx, n, c, err)
				}
			}
		}
		return true, nil
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
