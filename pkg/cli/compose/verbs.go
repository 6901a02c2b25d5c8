package compose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// The verbs that do for a service what one of cri-node's does for a container.

// delegate runs a verb of cri-node.
func (c *command) delegate(cmd *cobra.Command, verb string, args ...string) error {
	other := c.tools.Verb(verb)
	other.SetArgs(append([]string{}, args...))
	other.SetIn(cmd.InOrStdin())
	other.SetOut(cmd.OutOrStdout())
	other.SetErr(cmd.ErrOrStderr())
	other.SilenceErrors, other.SilenceUsage = true, true
	return other.ExecuteContext(cmd.Context())
}

// one is a container of a service that runs, by its number, or the first.
func (c *command) one(ctx context.Context, n *client.Node, service string, index int) (*nodev1.Container, error) {
	all, err := c.containers(ctx, n, []string{service}, false)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(one *nodev1.Container) bool { return index == 0 || number(one) == index })
	switch {
	case at >= 0:
		return all[at], nil
	case index != 0:
		return nil, fmt.Errorf("service %q is not running container #%d", service, index)
	}
	return nil, fmt.Errorf("service %q is not running", service)
}

// byService is a verb for one container of a service.
func (c *command) byService(use, short, example string, args cobra.PositionalArgs, work func(cmd *cobra.Command, n *client.Node, one *nodev1.Container, args []string) error) *cobra.Command {
	var index int
	cmd := &cobra.Command{
		Use: use, Short: short, Example: "  cri-node compose " + example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(func(n *client.Node) error {
				one, err := c.one(cmd.Context(), n, args[0], index)
				if err != nil {
					return err
				}
				return work(cmd, n, one, args[1:])
			})
		},
	}
	cmd.Flags().IntVar(&index, "index", 0, "`number` of the service's container")
	return cmd
}

func (c *command) attach() *cobra.Command {
	return c.byService("attach SERVICE", "Connect to the streams of a service's container", "attach api", argument.Exactly(1),
		func(cmd *cobra.Command, _ *client.Node, one *nodev1.Container, _ []string) error {
			return c.delegate(cmd, "attach", one.GetId())
		})
}

func (c *command) port() *cobra.Command {
	var protocol string
	cmd := c.byService("port SERVICE PORT", "Print where a port of a service is published", "port web 80", argument.Exactly(2),
		func(cmd *cobra.Command, _ *client.Node, one *nodev1.Container, args []string) error {
			return c.delegate(cmd, "port", one.GetId(), args[0]+"/"+protocol)
		})
	cmd.Flags().StringVar(&protocol, "protocol", "tcp", "tcp or udp")
	return cmd
}

func (c *command) cp() *cobra.Command {
	var archive, follow bool
	var index int
	cmd := &cobra.Command{
		Use:     "cp SERVICE:PATH PATH|-\n  cri-node compose cp PATH|- SERVICE:PATH",
		Short:   "Copy files into and out of a service's container",
		Example: "  cri-node compose cp db:/var/log/postgresql.log .",
		Args:    argument.Exactly(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(func(n *client.Node) error {
				places := slices.Clone(args)
				for i, place := range places {
					service, path, ok := strings.Cut(place, ":")
					if !ok || service == "" || strings.HasPrefix(place, ".") || strings.HasPrefix(place, "/") {
						continue
					}
					one, err := c.one(cmd.Context(), n, service, index)
					if err != nil {
						return err
					}
					places[i] = one.GetId() + ":" + path
				}
				for flag, on := range map[string]bool{"--archive": archive, "--follow-link": follow} {
					if on {
						places = append([]string{flag}, places...)
					}
				}
				return c.delegate(cmd, "cp", places...)
			})
		},
	}
	cmd.Flags().BoolVarP(&archive, "archive", "a", false, "keep uid and gid")
	cmd.Flags().BoolVarP(&follow, "follow-link", "L", false, "follow a symbolic link that is the source")
	cmd.Flags().IntVar(&index, "index", 0, "`number` of the service's container")
	return cmd
}

// several is a verb for the containers of some services, or of all, by a file or
// without.
func (c *command) several(use, short, example string, work func(cmd *cobra.Command, n *client.Node, all []*nodev1.Container) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " [SERVICE...]", Short: short, Example: "  cri-node compose " + example, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, services []string) error {
			return c.run(func(n *client.Node) error {
				all, err := c.containers(cmd.Context(), n, services, false)
				if err != nil {
					return err
				}
				return work(cmd, n, all)
			})
		},
	}
}

func (c *command) top() *cobra.Command {
	return c.several("top", "List the processes of services", "top web", func(cmd *cobra.Command, _ *client.Node, all []*nodev1.Container) error {
		for _, one := range all {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), one.GetName()); err != nil {
				return err
			}
			if err := c.delegate(cmd, "top", one.GetId()); err != nil {
				return err
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout()); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *command) stats() *cobra.Command {
	var once bool
	var format string
	cmd := c.several("stats", "Show what the containers of services use", "stats --no-stream", func(cmd *cobra.Command, _ *client.Node, all []*nodev1.Container) error {
		if len(all) == 0 {
			return errors.New("no container of the project runs")
		}
		var args []string
		if once {
			args = append(args, "--no-stream")
		}
		if format != "" {
			args = append(args, "--format", format)
		}
		for _, one := range all {
			args = append(args, one.GetId())
		}
		return c.delegate(cmd, "stats", args...)
	})
	cmd.Flags().BoolVar(&once, "no-stream", false, "measure once and end")
	cmd.Flags().StringVar(&format, "format", "", "print with a Go `template`, or json")
	return cmd
}

func (c *command) pause() *cobra.Command {
	return c.several("pause", "Hold the processes of services", "pause api", func(cmd *cobra.Command, n *client.Node, all []*nodev1.Container) error {
		r := &report{to: cmd.ErrOrStderr()}
		for _, one := range all {
			if one.GetState() != "running" {
				continue
			}
			if _, err := n.Containers.Pause(cmd.Context(), &nodev1.PauseRequest{Container: one.GetId()}); err != nil {
				return fmt.Errorf("pause %s: %w", one.GetName(), err)
			}
			r.line("Container", one.GetName(), "Paused")
		}
		return nil
	})
}

func (c *command) unpause() *cobra.Command {
	return c.several("unpause", "Let paused services go on", "unpause api", func(cmd *cobra.Command, n *client.Node, all []*nodev1.Container) error {
		r := &report{to: cmd.ErrOrStderr()}
		for _, one := range all {
			if one.GetState() != "paused" {
				continue
			}
			if _, err := n.Containers.Unpause(cmd.Context(), &nodev1.UnpauseRequest{Container: one.GetId()}); err != nil {
				return fmt.Errorf("unpause %s: %w", one.GetName(), err)
			}
			r.line("Container", one.GetName(), "Unpaused")
		}
		return nil
	})
}

func (c *command) wait() *cobra.Command {
	cmd := c.several("wait", "Wait until services have exited, and print their exit codes", "wait migration", func(cmd *cobra.Command, n *client.Node, all []*nodev1.Container) error {
		var last int32
		for _, one := range all {
			answer, err := n.Containers.Wait(cmd.Context(), &nodev1.WaitRequest{Container: one.GetId()})
			if err != nil {
				return fmt.Errorf("wait for %s: %w", one.GetName(), err)
			}
			last = answer.GetExitCode()
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "container %q exited with status code %d\n", one.GetName(), last); err != nil {
				return err
			}
		}
		if last != 0 {
			return &client.ExitError{Code: int(last)}
		}
		return nil
	})
	cmd.Args = argument.AtLeast(1)
	return cmd
}

func (c *command) push() *cobra.Command {
	return c.verb("push", "Push the images of services that are built", "push", nil, func(cmd *cobra.Command, _ *client.Node, p *types.Project) error {
		return each(cmd.Context(), p, func(s *types.ServiceConfig) error {
			if s.Build == nil || s.Image == "" {
				return nil
			}
			return c.delegate(cmd, "push", s.Image)
		})
	})
}

func (c *command) scale() *cobra.Command {
	var noDeps bool
	cmd := &cobra.Command{
		Use: "scale SERVICE=NUMBER...", Short: "Have so many containers of services", Example: "  cri-node compose scale api=3", Args: argument.AtLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o := upOptions{detach: true, noRecreate: true, noDeps: noDeps, scale: map[string]int{}}
			var names []string
			for _, arg := range args {
				name, text, _ := strings.Cut(arg, "=")
				count, err := strconv.Atoi(text)
				if err != nil || count < 0 {
					return fmt.Errorf("%q is not SERVICE=NUMBER", arg)
				}
				o.scale[name], names = count, append(names, name)
			}
			return c.run(func(n *client.Node) error { return c.runUp(cmd, n, names, o, nil) })
		},
	}
	cmd.Flags().BoolVar(&noDeps, "no-deps", false, "leave services alone that the named ones depend on")
	return cmd
}

func (c *command) create() *cobra.Command {
	o := upOptions{noStart: true}
	cmd := &cobra.Command{
		Use: "create [SERVICE...]", Short: "Make the containers of services without starting them", Example: "  cri-node compose create --build", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.run(func(n *client.Node) error { return c.runUp(cmd, n, names, o, nil) })
		},
	}
	o.addMakingFlags(cmd.Flags())
	return cmd
}
