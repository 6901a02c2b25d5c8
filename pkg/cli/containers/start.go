package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// description is what the verbs need of a container's description.
type description struct {
	ID     string `json:"Id"`
	Config struct {
		Tty, OpenStdin bool
	}
	State struct {
		Running, Paused, Restarting bool
	}
}

// describe asks for a container.
func describe(ctx context.Context, n *client.Node, name string) (description, error) {
	var d description
	r, err := n.Containers.Inspect(ctx, &nodev1.InspectRequest{Container: name})
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(r.GetJson(), &d); err != nil {
		return d, fmt.Errorf("read the description of %s: %w", name, err)
	}
	return d, nil
}

// attachFlags are those of start and attach.
type attachFlags struct {
	keys     string
	sigProxy bool
}

func (a *attachFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.keys, "detach-keys", terminal.DefaultDetachKeys, "`keys` that leave a container with a terminal")
	cmd.Flags().BoolVar(&a.sigProxy, "sig-proxy", true, "pass signals on to the container's process")
}

func startCommand(flags *client.Flags) *cobra.Command {
	var attach, interactive bool
	var how attachFlags
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start containers that were created or have exited",
		Long: "Start containers with the files they have. With -a or -i the command connects to the one container and\n" +
			"ends with its exit code.",
		Example:           "  cri-node start web\n  cri-node start -ai shell",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Stopped(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !attach && !interactive {
				return ForEach(cmd, flags, args, func(ctx context.Context, n *client.Node, name string) error {
					_, err := n.Containers.Start(ctx, &nodev1.StartRequest{Container: name})
					return err
				})
			}
			if len(args) > 1 {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				d, err := describe(ctx, n, args[0])
				if err != nil {
					return err
				}
				to := attachment{container: d.ID, stdin: interactive && d.Config.OpenStdin, start: true, tty: d.Config.Tty}
				return how.attach(ctx, n, cmd, to)
			})
		},
	}
	cmd.Flags().BoolVarP(&attach, "attach", "a", false, "connect stdout and stderr, and pass signals on")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "connect stdin as well")
	how.add(cmd)
	return cmd
}

func attachCommand(flags *client.Flags) *cobra.Command {
	var noStdin bool
	var how attachFlags
	cmd := &cobra.Command{
		Use:               "attach [OPTIONS] CONTAINER",
		Short:             "Connect to the streams of a container that runs",
		Long:              "Connect to a container's own process. ctrl-p ctrl-q leaves a terminal and lets the container run.",
		Example:           "  cri-node attach shell",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Running(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				d, err := describe(ctx, n, args[0])
				if err != nil {
					return err
				}
				switch {
				case d.State.Paused:
					return errors.New("you cannot attach to a paused container, unpause it first")
				case d.State.Restarting:
					return errors.New("you cannot attach to a restarting container, wait until it is running")
				case !d.State.Running:
					return errors.New("you cannot attach to a stopped container, start it first")
				}
				return how.attach(ctx, n, cmd, attachment{container: d.ID, stdin: !noStdin && d.Config.OpenStdin, tty: d.Config.Tty})
			})
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not connect stdin")
	how.add(cmd)
	return cmd
}

// attach connects and ends as the container does.
func (a *attachFlags) attach(ctx context.Context, n *client.Node, cmd *cobra.Command, to attachment) error {
	keys, err := terminal.ParseKeys(a.keys)
	if err != nil {
		return err
	}
	to.detachKeys, to.signals, to.stdout, to.stderr, to.streams = keys, a.sigProxy, true, true, streams(cmd)
	if to.tty && to.stdin && !terminal.Is(to.streams.In) {
		return errNoTerminal()
	}
	exit, detached, err := to.run(ctx, n)
	if err != nil || detached {
		return err
	}
	return exitStatus(exit)
}
