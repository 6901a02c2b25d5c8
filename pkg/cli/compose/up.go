package compose

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// gone says that an error is about something that is not there.
func gone(err error) bool { return status.Code(err) == codes.NotFound }

// upOptions are the flags of `up` and `create`.
type upOptions struct {
	detach, build, noBuild, forceRecreate, noRecreate, noDeps, wait bool
	removeOrphans, abortOnExit, noLogPrefix, timestamps, noStart    bool
	exitCodeFrom, pull                                              string
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
	f.BoolVarP(&o.detach, "detach", "d", false, "leave the containers in the background")
	f.BoolVar(&o.build, "build", false, "build images first")
	f.BoolVar(&o.noBuild, "no-build", false, "do not build images, even if they are missing")
	f.BoolVar(&o.forceRecreate, "force-recreate", false, "replace containers even if nothing has changed")
	f.BoolVar(&o.noRecreate, "no-recreate", false, "keep containers even if something has changed")
	f.BoolVar(&o.noDeps, "no-deps", false, "leave services alone that the named ones depend on")
	f.BoolVar(&o.wait, "wait", false, "wait until services run, or are healthy; implies -d")
	f.BoolVar(&o.removeOrphans, "remove-orphans", false, "remove containers of services that the file does not have")
	f.BoolVar(&o.abortOnExit, "abort-on-container-exit", false, "stop all containers when one exits")
	f.StringVar(&o.exitCodeFrom, "exit-code-from", "", "exit with the code of this `service`; implies --abort-on-container-exit")
	f.BoolVar(&o.noLogPrefix, "no-log-prefix", false, "do not print whose line it is")
	f.BoolVar(&o.timestamps, "timestamps", false, "print when a line was written")
	f.BoolVar(&o.noStart, "no-start", false, "make containers and do not start them")
	f.StringVar(&o.pull, "pull", "", "always, missing, never or build")
	f.StringToIntVar(&o.scale, "scale", nil, "how many containers a `service=number` has")
	f.Int64VarP(&o.timeout, "timeout", "t", 0, "`seconds` until containers that do not stop are killed")
	return cmd
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
	if p, err = selected(p, names, o.noDeps); err != nil {
		return err
	}
	for name, count := range o.scale {
		s, err := p.GetService(name)
		if err != nil {
			return fmt.Errorf("--scale: %w", err)
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
	converge := &convergence{node: n, project: p, report: r, start: !o.noStart, timeout: timeout, images: images, recreate: recreateDiverged}
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
		return awaitUp(ctx, n, p)
	}
	return follow(cmd, n, p, converge, o)
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

// makeVolumes makes the volumes of a project that are not there.
func makeVolumes(ctx context.Context, n *client.Node, p *types.Project, r *report) error {
	answer, err := n.System.ListVolumes(ctx, &nodev1.ListVolumesRequest{})
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(p.Volumes)) {
		name := volumeName(p, key)
		exists := slices.ContainsFunc(answer.GetVolumes(), func(v *nodev1.Volume) bool { return v.GetName() == name })
		switch v := p.Volumes[key]; {
		case exists:
			continue
		case bool(v.External):
			return fmt.Errorf("volume %s is external and does not exist: make it with \"cri-node volume create %s\"", key, name)
		case v.Driver != "" && v.Driver != "local":
			return fmt.Errorf("volume %s: driver %s is not supported", key, v.Driver)
		case len(v.DriverOpts) > 0:
			return fmt.Errorf("volume %s: driver_opts are not supported: mount the path itself", key)
		default:
			all := map[string]string{labelProject: p.Name, labelVolume: key}
			maps.Copy(all, v.Labels)
			if _, err := n.System.CreateVolume(ctx, &nodev1.CreateVolumeRequest{Name: name, Labels: all}); err != nil {
				return fmt.Errorf("create volume %s: %w", name, err)
			}
			r.line("Volume", name, "Created")
		}
	}
	return nil
}

// awaitUp returns when each service runs, and is healthy where it can say so.
func awaitUp(ctx context.Context, n *client.Node, p *types.Project) error {
	return until(ctx, n, func() (bool, error) {
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
					return false, err
				}
			}
		}
		return true, nil
	})
}

// follow starts the services and prints what their containers say until all have
// exited. The first signal stops them, the second kills them.
func follow(cmd *cobra.Command, n *client.Node, p *types.Project, converge *convergence, o upOptions) error {
	// The signals are for this function: what they ask for takes a while.
	ctx, cancel := context.WithCancel(context.WithoutCancel(cmd.Context()))
	defer cancel()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)

	started := make(chan error, 1)
	starting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() { started <- inOrder(starting, p, false, converge.service) }()
	select {
	case err := <-started:
		if err != nil {
			return err
		}
	case <-signals:
		giveUp()
		<-started //nolint:errcheck // it was given up
		return errors.Join(stopAll(ctx, n, p, converge.report, converge.timeout), &client.ExitError{Code: 130})
	}
	found, err := list(ctx, n, p.Name)
	if err != nil {
		return err
	}
	var mine []*nodev1.Container
	for name := range p.Services {
		mine = append(mine, found[name]...)
	}
	printing := make(chan error, 1)
	logs := &logPrinter{node: n, out: cmd.OutOrStdout(), plain: o.noLogPrefix, timestamps: o.timestamps, follow: true}
	go func() { printing <- logs.print(ctx, mine) }()
	ended := make(chan *exited, 1)
	go func() { ended <- awaitExit(ctx, n, mine, o.abortOnExit) }()

	var first *exited
	select {
	case first = <-ended:
	case <-signals:
		if err := stopOrKill(ctx, n, p, converge, signals); err != nil {
			return err
		}
		<-ended
		return errors.Join(<-printing, &client.ExitError{Code: 130})
	}
	if o.abortOnExit {
		if err := stopAll(ctx, n, p, converge.report, converge.timeout); err != nil {
			return err
		}
	}
	if err := <-printing; err != nil {
		return err
	}
	return exitCode(ctx, n, p, first, o)
}

// stopOrKill stops the project, and kills it at the next signal.
func stopOrKill(ctx context.Context, n *client.Node, p *types.Project, c *convergence, signals <-chan os.Signal) error {
	c.report.line("Project", p.Name, "Stopping (again to force)")
	stopped := make(chan error, 1)
	go func() { stopped <- stopAll(ctx, n, p, c.report, c.timeout) }()
	select {
	case err := <-stopped:
		return err
	case <-signals:
		now := int64(0)
		return errors.Join(stopAll(ctx, n, p, c.report, &now), <-stopped)
	}
}

// exited is a container that has.
type exited struct {
	container *nodev1.Container
	code      int32
	err       error
}

// awaitExit returns when all containers have exited, or the first one has.
func awaitExit(ctx context.Context, n *client.Node, all []*nodev1.Container, first bool) *exited {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan *exited, len(all))
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	for _, c := range all {
		waiting.Go(func() {
			answer, err := n.Containers.Wait(ctx, &nodev1.WaitRequest{Container: c.GetId()})
			results <- &exited{c, answer.GetExitCode(), err}
		})
	}
	last := &exited{}
	for range all {
		last = <-results
		if first && last.err == nil {
			break
		}
	}
	return last
}

// exitCode is that of the service the command was told of, or of the first
// container that exited where that ends all.
func exitCode(ctx context.Context, n *client.Node, p *types.Project, first *exited, o upOptions) error {
	switch {
	case o.exitCodeFrom != "":
		found, err := list(ctx, n, p.Name)
		if err != nil {
			return err
		}
		for _, c := range found[o.exitCodeFrom] {
			if c.GetExitCode() != 0 {
				return &client.ExitError{Code: int(c.GetExitCode())}
			}
		}
	case o.abortOnExit && first.code != 0:
		return &client.ExitError{Code: int(first.code)}
	}
	return nil
}
