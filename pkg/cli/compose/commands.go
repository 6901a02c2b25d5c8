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

func (c *command) build() *cobra.Command {
	var noCache, pull bool
	var arguments []string
	return c.verb("build", "Build the images of services", "build --no-cache web", func(cmd *cobra.Command) {
		cmd.Flags().BoolVar(&noCache, "no-cache", false, "build each step anew")
		cmd.Flags().BoolVar(&pull, "pull", false, "pull base images again")
		cmd.Flags().StringArrayVar(&arguments, "build-arg", nil, "`NAME=VALUE` for the build")
	}, func(cmd *cobra.Command, _ *client.Node, p *types.Project) error {
		var more []string
		if noCache {
			more = append(more, "--no-cache")
		}
		if pull {
			more = append(more, "--pull")
		}
		for _, a := range arguments {
			more = append(more, "--build-arg", a)
		}
		return each(cmd.Context(), p, func(s *types.ServiceConfig) error {
			if s.Build == nil {
				return nil
			}
			return c.buildImage(cmd, p, s, more)
		})
	})
}

func (c *command) pull() *cobra.Command {
	return c.verb("pull", "Pull the images of services", "pull", nil, func(cmd *cobra.Command, n *client.Node, p *types.Project) error {
		return each(cmd.Context(), p, func(s *types.ServiceConfig) error {
			if s.Build != nil && s.Image == "" {
				return nil
			}
			return c.tools.Pull(cmd, n, imageOf(p, s), s.Platform)
		})
	})
}

func (c *command) config() *cobra.Command {
	var services, images, volumes, quiet bool
	var format string
	return c.verb("config", "Check the Compose file and print what it means", "config --services", func(cmd *cobra.Command) {
		f := cmd.Flags()
		f.BoolVar(&services, "services", false, "print the services' names only")
		f.BoolVar(&images, "images", false, "print the images' names only")
		f.BoolVar(&volumes, "volumes", false, "print the volumes' names only")
		f.BoolVarP(&quiet, "quiet", "q", false, "print nothing")
		f.StringVar(&format, "format", "yaml", "yaml or json")
	}, func(cmd *cobra.Command, _ *client.Node, p *types.Project) error {
		var lines []string
		switch {
		case quiet:
			return nil
		case services:
			lines = p.ServiceNames()
		case volumes:
			lines = p.VolumeNames()
		case images:
			for _, s := range p.Services {
				lines = append(lines, imageOf(p, &s))
			}
			slices.Sort(lines)
		default:
			marshal := func() ([]byte, error) { return p.MarshalYAML() }
			if format == "json" {
				marshal = func() ([]byte, error) { return p.MarshalJSON() }
			} else if format != "yaml" {
				return fmt.Errorf("--format %s is unknown: it can be yaml or json", format)
			}
			text, err := marshal()
			if err != nil {
				return fmt.Errorf("print the project: %w", err)
			}
			lines = append(lines, string(text))
		}
		for _, line := range lines {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
				return err
			}
		}
		return nil
	})
}

// each calls work for each service, in order of their names.
func each(ctx context.Context, p *types.Project, work func(s *types.ServiceConfig) error) error {
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		if err := work(&s); err != nil {
			return fmt.Errorf("service %s: %w", name, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (c *command) stopVerb() *cobra.Command {
	var timeout int64
	return c.verb("stop", "Stop services", "stop web", func(cmd *cobra.Command) {
		cmd.Flags().Int64VarP(&timeout, "timeout", "t", 0, "`seconds` until containers that do not stop are killed")
	}, func(cmd *cobra.Command, n *client.Node, p *types.Project) error {
		return stopAll(cmd.Context(), n, p, &report{to: cmd.ErrOrStderr()}, stopTimeout(cmd, timeout))
	})
}

func (c *command) startVerb() *cobra.Command {
	return c.verb("start", "Start services that have containers", "start", nil, func(cmd *cobra.Command, n *client.Node, p *types.Project) error {
		r := &report{to: cmd.ErrOrStderr()}
		found, err := list(cmd.Context(), n, p.Name)
		if err != nil {
			return err
		}
		for _, name := range p.ServiceNames() {
			if s := p.Services[name]; len(found[name]) == 0 && s.GetScale() > 0 {
				return fmt.Errorf("service %q has no container to start: \"cri-node compose up -d %s\" makes one", name, name)
			}
		}
		return c.ordered(cmd.Context(), n, p, func(ctx context.Context, s *types.ServiceConfig, one *nodev1.Container) error {
			if err := await(ctx, n, p, s); err != nil {
				return err
			}
			if running(one) {
				return nil
			}
			if _, err := n.Containers.Start(ctx, &nodev1.StartRequest{Container: one.GetId()}); err != nil {
				return fmt.Errorf("start %s: %w", one.GetName(), err)
			}
			r.line("Container", one.GetName(), "Started")
			return nil
		})
	})
}

func (c *command) restartVerb() *cobra.Command {
	var timeout int64
	var noDeps bool
	cmd := &cobra.Command{
		Use: "restart [SERVICE...]", Short: "Restart services", Example: "  cri-node compose restart -t 5 api", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.run(func(n *client.Node) error {
				p, err := c.source.load(cmd.Context())
				if err != nil {
					return err
				}
				if !noDeps {
					names = withRestarted(p, names)
				}
				if p, err = selected(p, names, true); err != nil {
					return err
				}
				r := &report{to: cmd.ErrOrStderr()}
				return c.ordered(cmd.Context(), n, p, func(ctx context.Context, _ *types.ServiceConfig, one *nodev1.Container) error {
					request := &nodev1.RestartRequest{Container: one.GetId(), Timeout: stopTimeout(cmd, timeout)}
					if _, err := n.Containers.Restart(ctx, request); err != nil {
						return fmt.Errorf("restart %s: %w", one.GetName(), err)
					}
					r.line("Container", one.GetName(), "Restarted")
					return nil
				})
			})
		},
	}
	cmd.Flags().Int64VarP(&timeout, "timeout", "t", 0, "`seconds` until containers that do not stop are killed")
	cmd.Flags().BoolVar(&noDeps, "no-deps", false, "leave services alone that are to be restarted with the named ones")
	return cmd
}

// withRestarted adds the services that are to be restarted with named ones.
func withRestarted(p *types.Project, names []string) []string {
	all := slices.Clone(names)
	for i := 0; i < len(all); i++ {
		for _, other := range p.ServiceNames() {
			if d, ok := p.Services[other].DependsOn[all[i]]; ok && d.Restart && !slices.Contains(all, other) {
				all = append(all, other)
			}
		}
	}
	return all
}

func (c *command) killVerb() *cobra.Command {
	var signal string
	return c.verb("kill", "Send a signal to services", "kill -s SIGHUP web", func(cmd *cobra.Command) {
		cmd.Flags().StringVarP(&signal, "signal", "s", "SIGKILL", "`signal`, by name or number")
	}, func(cmd *cobra.Command, n *client.Node, p *types.Project) error {
		r := &report{to: cmd.ErrOrStderr()}
		return c.ordered(cmd.Context(), n, p, func(ctx context.Context, _ *types.ServiceConfig, one *nodev1.Container) error {
			if !running(one) {
				return nil
			}
			if _, err := n.Containers.Kill(ctx, &nodev1.KillRequest{Container: one.GetId(), Signal: signal}); err != nil {
				return fmt.Errorf("kill %s: %w", one.GetName(), err)
			}
			r.line("Container", one.GetName(), "Killed")
			return nil
		})
	})
}

func (c *command) rm() *cobra.Command {
	var force, stopFirst, volumes bool
	return c.verb("rm", "Remove containers that do not run", "rm -s worker", func(cmd *cobra.Command) {
		f := cmd.Flags()
		f.BoolVarP(&force, "force", "f", false, "do not ask (this command never does)")
		f.BoolVarP(&stopFirst, "stop", "s", false, "stop them first")
		f.BoolVarP(&volumes, "volumes", "v", false, "remove anonymous volumes too")
	}, func(cmd *cobra.Command, n *client.Node, p *types.Project) error {
		r := &report{to: cmd.ErrOrStderr()}
		return c.ordered(cmd.Context(), n, p, func(ctx context.Context, _ *types.ServiceConfig, one *nodev1.Container) error {
			if running(one) && !stopFirst {
				return nil
			}
			return remove(ctx, n, r, one, nil, volumes)
		})
	})
}

// ordered calls work for each container of the project's services, those that
// others depend on first.
func (c *command) ordered(ctx context.Context, n *client.Node, p *types.Project, work func(context.Context, *types.ServiceConfig, *nodev1.Container) error) error {
	found, err := list(ctx, n, p.Name)
	if err != nil {
		return err
	}
	return inOrder(ctx, p, false, func(ctx context.Context, s *types.ServiceConfig) error {
		var errs []error
		for _, one := range found[s.Name] {
			errs = append(errs, work(ctx, s, one))
		}
		return errors.Join(errs...)
	})
}
