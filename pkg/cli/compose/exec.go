package compose

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func (c *command) exec() *cobra.Command {
	var noTTY, detach, privileged bool
	var env []string
	var workdir, user string
	var index int
	cmd := &cobra.Command{
		Use: "exec SERVICE COMMAND [ARG...]", Short: "Run a command in a container of a service",
		Example: "  cri-node compose exec db psql -U postgres\n  cri-node compose exec -T web cat /etc/hosts",
		Args:    argument.AtLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(func(n *client.Node) error {
				one, err := c.one(cmd.Context(), n, args[0], index)
				if err != nil {
					return err
				}
				streams := terminal.Streams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
				tty := !noTTY && !detach && terminal.Is(streams.In) && terminal.Is(streams.Out)
				return runExec(cmd.Context(), n, streams, &nodev1.ExecOpen{
					Container: one.GetId(), Command: args[1:], Stdin: !detach, Tty: tty, Detach: detach,
					Env: env, Workdir: workdir, User: user, Privileged: privileged,
				})
			})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&noTTY, "no-TTY", "T", false, "without a terminal")
	f.BoolP("interactive", "i", true, "connect stdin, which is the default")
	f.BoolP("tty", "t", true, "with a terminal where there is one, which is the default")
	_, _ = f.MarkHidden("interactive"), f.MarkHidden("tty") // they are there, the lines above
	f.BoolVarP(&detach, "detach", "d", false, "leave the command in the background")
	f.BoolVar(&privileged, "privileged", false, "give the command all privileges")
	f.StringArrayVarP(&env, "env", "e", nil, "`NAME=VALUE` in its environment")
	f.StringVarP(&workdir, "workdir", "w", "", "its working `directory`")
	f.StringVarP(&user, "user", "u", "", "`user` to run as")
	f.IntVar(&index, "index", 0, "`number` of the service's container")
	return cmd
}

// execConn is an Exec as a terminal's session wants it.
type execConn struct {
	nodev1.Containers_ExecClient
}

func (e execConn) Send(m terminal.Message) error {
	return e.Containers_ExecClient.Send(&nodev1.ExecRequest{Stdin: m.Stdin, StdinClosed: m.StdinClosed, Size: m.Size, Signal: m.Signal})
}

// runExec runs a command in a container with the terminal's streams; its exit code
// is the error's.
func runExec(ctx context.Context, n *client.Node, streams terminal.Streams, open *nodev1.ExecOpen) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.Containers.Exec(ctx)
	if err != nil {
		return err
	}
	if open.GetTty() {
		open.Size = streams.TerminalSize()
	}
	if err := stream.Send(&nodev1.ExecRequest{Open: open}); err != nil {
		return err
	}
	session := &terminal.Session{Streams: streams, Stdin: open.GetStdin(), TTY: open.GetTty(), Signals: true}
	exit, err := session.Run(ctx, execConn{stream})
	switch {
	case err != nil:
		return err
	case exit.GetError() != "":
		return &client.ExitError{Code: int(exit.GetCode()), Err: errors.New(exit.GetError())}
	case exit.GetCode() != 0:
		return &client.ExitError{Code: int(exit.GetCode())}
	}
	return nil
}
