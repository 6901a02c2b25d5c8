package compose

import (
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
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
				variables, err := containers.ExecEnvironment(nil, env)
				if err != nil {
					return err
				}
				return containers.Exec(cmd.Context(), n, streams, &nodev1.ExecOpen{
					Container: one.GetId(), Command: args[1:], Stdin: !detach, Tty: tty, Detach: detach,
					Env: variables, Workdir: workdir, User: user, Privileged: privileged,
				}, nil)
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
