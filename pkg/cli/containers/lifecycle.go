package containers

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// ending are the flags of stop and restart.
type ending struct {
	timeout int64
	signal  string
	force   bool
}

func (e *ending) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Int64VarP(&e.timeout, "timeout", "t", 0, "`seconds` to wait before it is killed; -1 waits for ever (default 10, or the container's)")
	f.Int64Var(&e.timeout, "time", 0, "same as --timeout")
	_ = f.MarkHidden("time") // it is there, one line above
	f.StringVarP(&e.signal, "signal", "s", "", "`signal` to send instead of the container's")
	addForce(cmd, &e.force)
}

// seconds is the timeout, if it was given.
func (e *ending) seconds(cmd *cobra.Command) *int64 {
	if cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time") {
		return &e.timeout
	}
	return nil
}

// addForce adds the flag that lets a verb touch kubelet's containers.
func addForce(cmd *cobra.Command, force *bool) {
	cmd.Flags().BoolVar(force, "force", false, "also a container that kubelet made, which will then make another")
}

func stopCommand(flags *client.Flags) *cobra.Command {
	var e ending
	cmd := &cobra.Command{
		Use:               "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "End containers, gently at first",
		Long:              "Send containers their stop signal, and SIGKILL to those that are still there after the timeout.",
		Example:           "  cri-node stop web\n  cri-node stop -t 1 web db",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Running(flags, 0),
	}
	e.addFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ForEach(cmd, flags, args, func(ctx context.Context, n *client.Node, name string) error {
			_, err := n.Containers.Stop(ctx, &nodev1.StopRequest{Container: name, Timeout: e.seconds(cmd), Signal: e.signal, Force: e.force})
			return err
		})
	}
	return cmd
}

func restartCommand(flags *client.Flags) *cobra.Command {
	var e ending
	cmd := &cobra.Command{
		Use:               "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Stop containers and start them again",
		Example:           "  cri-node restart web\n  cri-node restart -t 0 web",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Any(flags, 0),
	}
	e.addFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return ForEach(cmd, flags, args, func(ctx context.Context, n *client.Node, name string) error {
			_, err := n.Containers.Restart(ctx, &nodev1.RestartRequest{Container: name, Timeout: e.seconds(cmd), Signal: e.signal, Force: e.force})
			return err
		})
	}
	return cmd
}

func killCommand(flags *client.Flags) *cobra.Command {
	var signal string
	var force bool
	cmd := &cobra.Command{
		Use:               "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Send containers a signal, SIGKILL if no other",
		Example:           "  cri-node kill web\n  cri-node kill -s HUP web",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Running(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ForEach(cmd, flags, args, func(ctx context.Context, n *client.Node, name string) error {
				_, err := n.Containers.Kill(ctx, &nodev1.KillRequest{Container: name, Signal: signal, Force: force})
				return err
			})
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "`signal` to send, by name or number")
	addForce(cmd, &force)
	return cmd
}

func pauseCommand(flags *client.Flags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "pause CONTAINER [CONTAINER...]",
		Short:             "Freeze all processes of containers",
		Example:           "  cri-node pause web\n  cri-node unpause web",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Running(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ForEach(cmd, flags, args, func(ctx context.Context, n *client.Node, name string) error {
				_, err := n.Containers.Pause(ctx, &nodev1.PauseRequest{Container: name, Force: force})
				return err
			})
		},
	}
	addForce(cmd, &force)
	return cmd
}

func unpauseCommand(flags *client.Flags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "unpause CONTAINER [CONTAINER...]",
		Short:             "Let frozen containers go on",
		Example:           "  cri-node unpause web",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Running(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ForEach(cmd, flags, args, func(ctx context.Context, n *client.Node, name string) error {
				_, err := n.Containers.Unpause(ctx, &nodev1.UnpauseRequest{Container: name, Force: force})
				return err
			})
		},
	}
	addForce(cmd, &force)
	return cmd
}

func rmCommand(flags *client.Flags) *cobra.Command {
	var force, volumes, link bool
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Remove containers and their files",
		Long: "Remove containers, their files and logs. One that runs is refused without -f, and so is one that\n" +
			"kubelet made: kubelet would make another.",
		Example:           "  cri-node rm web\n  cri-node rm -f $(cri-node ps -aq)",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Any(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if link {
				return errors.New("--link is not supported: there are no links between containers")
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				result := failed{cmd: cmd, flags: flags}
				for _, name := range args {
					_, err := n.Containers.Remove(ctx, &nodev1.RemoveRequest{Container: name, Force: force, Volumes: volumes})
					switch {
					case err == nil:
						fmt.Fprintln(cmd.OutOrStdout(), name)
					case force && client.IsNotFound(err):
						// It is gone, which is what was wanted.
						cmdError(cmd, flags.Explain(err))
					default:
						result.report(err)
					}
				}
				return result.err()
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "kill containers that run, and remove kubelet's")
	f.BoolVarP(&volumes, "volumes", "v", false, "remove their anonymous volumes as well")
	f.BoolVarP(&link, "link", "l", false, "refused: there are no links")
	_ = f.MarkHidden("link") // it is there, one line above
	return cmd
}

func waitCommand(flags *client.Flags) *cobra.Command {
	return &cobra.Command{
		Use:               "wait CONTAINER [CONTAINER...]",
		Short:             "Wait until containers have exited, and print their exit codes",
		Example:           "  cri-node wait job && echo over",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Running(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				result := failed{cmd: cmd, flags: flags}
				for _, name := range args {
					r, err := n.Containers.Wait(ctx, &nodev1.WaitRequest{Container: name})
					if err != nil {
						result.report(err)
						continue
					}
					fmt.Fprintln(cmd.OutOrStdout(), r.GetExitCode())
				}
				return result.err()
			})
		},
	}
}

func renameCommand(flags *client.Flags) *cobra.Command {
	return &cobra.Command{
		Use:               "rename CONTAINER NEW_NAME",
		Short:             "Give a container another name",
		Example:           "  cri-node rename quirky_lamport web",
		Args:              argument.Exactly(2),
		ValidArgsFunction: complete.Any(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				_, err := n.Containers.Rename(ctx, &nodev1.RenameRequest{Container: args[0], Name: args[1]})
				return err
			})
		},
	}
}

func updateCommand(flags *client.Flags) *cobra.Command {
	var o Options
	var force bool
	cmd := &cobra.Command{
		Use:               "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Change limits and restart policies of containers",
		Example:           "  cri-node update -m 256m --cpus 2 web\n  cri-node update --restart always web db",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Any(flags, 0),
	}
	f := cmd.Flags()
	o.addLimitFlags(f)
	f.StringVar(&o.Restart, "restart", "", "`policy` when it exits: no, on-failure[:N], always, unless-stopped")
	addForce(cmd, &force)
	argument.Refuse(f, "pids-limit", "cannot be changed: it is an option of run and create")
	for _, name := range []string{"blkio-weight", "cpu-rt-period", "cpu-rt-runtime"} {
		argument.Refuse(f, name, refused()[name])
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.NFlag() == 0 {
			return errors.New("you must provide one or more flags when using this command")
		}
		request, err := o.updateRequest(f.Changed("restart"))
		if err != nil {
			return err
		}
		request.Force = force
		return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
			result := failed{cmd: cmd, flags: flags}
			for _, name := range args {
				request.Container = name
				r, err := n.Containers.Update(ctx, request)
				if err != nil {
					result.report(err)
					continue
				}
				warn(cmd, r.GetWarnings())
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return result.err()
		})
	}
	return cmd
}

func (o *Options) updateRequest(restart bool) (*nodev1.UpdateRequest, error) {
	resources, err := o.Resources()
	if err != nil {
		return nil, err
	}
	request := &nodev1.UpdateRequest{Resources: resources}
	if restart {
		if request.Restart, err = ParseRestart(o.Restart); err != nil {
			return nil, err
		}
	}
	return request, nil
}
