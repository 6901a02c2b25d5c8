package compose

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// runOptions are the flags of `run`.
type runOptions struct {
	detach, remove, noTTY, noDeps, servicePorts, aliases, build bool
	name, user, workdir, entrypoint                             string
	env, publish, volumes, labels                               []string
}

func (c *command) runVerb() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use: "run [OPTIONS] SERVICE [COMMAND] [ARG...]", Short: "Run a command in a container of its own that is like a service's",
		Long: "Make a container like those of a service, with another command, and run it. What the service depends on is\n" +
			"started first. The service's ports are not published, unless --service-ports says so.",
		Example: "  cri-node compose run --rm api sh\n  cri-node compose run --rm -T db pg_dump -h db shop > shop.sql",
		Args:    argument.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(func(n *client.Node) error { return c.runOnce(cmd, n, args[0], args[1:], o) })
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the service is the command's
	f.BoolVarP(&o.detach, "detach", "d", false, "print the name and leave the container running")
	f.BoolVar(&o.remove, "rm", false, "remove the container when it has exited")
	f.BoolVarP(&o.noTTY, "no-TTY", "T", false, "without a terminal")
	f.BoolVar(&o.noDeps, "no-deps", false, "leave services alone that this one depends on")
	f.BoolVarP(&o.servicePorts, "service-ports", "P", false, "publish the service's ports")
	f.BoolVar(&o.aliases, "use-aliases", false, "let others find it by the service's names")
	f.BoolVar(&o.build, "build", false, "build the image first")
	f.StringVar(&o.name, "name", "", "`name` of the container")
	f.StringVarP(&o.user, "user", "u", "", "`user` to run as")
	f.StringVarP(&o.workdir, "workdir", "w", "", "its working `directory`")
	f.StringVar(&o.entrypoint, "entrypoint", "", "`program` instead of the image's")
	f.StringArrayVarP(&o.env, "env", "e", nil, "`NAME=VALUE` in its environment")
	f.StringArrayVarP(&o.publish, "publish", "p", nil, "publish a `port`, as of cri-node run")
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "mount `SOURCE:TARGET`, as of cri-node run")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "`NAME=VALUE` as a label")
	f.BoolP("interactive", "i", true, "connect stdin, which is the default")
	_ = f.MarkHidden("interactive") // it is there, one line above
	return cmd
}

// runOnce makes, starts and follows one container.
func (c *command) runOnce(cmd *cobra.Command, n *client.Node, service string, args []string, o runOptions) error {
	ctx := cmd.Context()
	p, err := c.source.load(ctx)
	if err != nil {
		return err
	}
	if p, err = selected(p, []string{service}, o.noDeps); err != nil {
		return err
	}
	r := &report{to: cmd.ErrOrStderr()}
	images, err := c.images(ctx, n, p, upOptions{build: o.build})
	if err != nil {
		return err
	}
	if err := makeVolumes(ctx, n, p, r); err != nil {
		return err
	}
	s := p.Services[service]
	converge := &convergence{node: n, project: p, report: r, start: true, images: images, recreate: recreateNever}
	if !o.noDeps {
		others := p.WithServicesDisabled(service)
		if err := inOrder(ctx, others, false, converge.service); err != nil {
			return err
		}
		if err := await(ctx, n, p, &s); err != nil {
			return err
		}
	}
	tty := !o.noTTY && !o.detach && terminal.Is(cmd.InOrStdin()) && terminal.Is(cmd.OutOrStdout())
	made, err := converge.makeOneOff(ctx, &s, args, tty, o)
	if err != nil {
		return err
	}
	if o.detach {
		if _, err := n.Containers.Start(ctx, &nodev1.StartRequest{Container: made.GetId()}); err != nil {
			return fmt.Errorf("start %s: %w", made.GetName(), err)
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), made.GetName())
		return err
	}
	return c.delegate(cmd, "start", "--attach", "--interactive", made.GetId())
}

// makeOneOff makes a container like a service's that is not one of its own.
func (c *convergence) makeOneOff(ctx context.Context, s *types.ServiceConfig, args []string, tty bool, o runOptions) (*nodev1.CreateResponse, error) {
	one := *s
	one.Restart, one.Deploy = "no", withoutRestart(s.Deploy)
	one.StdinOpen, one.Tty = true, tty
	if len(args) > 0 {
		one.Command = args
	}
	if o.entrypoint != "" {
		one.Entrypoint = []string{o.entrypoint}
		if len(args) == 0 {
			one.Command = nil
		}
	}
	if !o.servicePorts {
		one.Ports = nil
	}
	if o.user != "" {
		one.User = o.user
	}
	if o.workdir != "" {
		one.WorkingDir = o.workdir
	}
	if o.remove {
		one.Restart = ""
	}
	r, err := c.request(ctx, &one, func(all *containers.Options) {
		all.Detach = o.detach
		all.Env = append(all.Env, o.env...)
		all.Labels = append(all.Labels, o.labels...)
		all.Publish = append(all.Publish, o.publish...)
		all.Volumes = append(all.Volumes, o.volumes...)
	})
	if err != nil {
		return nil, err
	}
	if r.Name = o.name; r.Name == "" {
		var b [6]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		r.Name = fmt.Sprintf("%s-%s-run-%s", c.project.Name, s.Name, hex.EncodeToString(b[:]))
	}
	if !o.aliases {
		for _, member := range r.GetNetworks() {
			member.Aliases = nil
		}
	}
	r.AutoRemove = o.remove
	all := labels(c.project, s, 1, "")
	all[labelOneOff] = "True"
	maps.Copy(r.Container.Labels, all)
	return c.filled(ctx, s, r)
}

// withoutRestart is deploy for a container that runs once.
func withoutRestart(d *types.DeployConfig) *types.DeployConfig {
	if d == nil {
		return nil
	}
	once := *d
	once.RestartPolicy = nil
	return &once
}
