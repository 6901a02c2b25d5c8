package containers

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
)

// Commands are the verbs for containers.
func Commands(flags *client.Flags) []*cobra.Command {
	return []*cobra.Command{
		runCommand(flags), createCommand(flags), psCommand(flags), execCommand(flags), logsCommand(flags), attachCommand(flags),
		startCommand(flags), stopCommand(flags), restartCommand(flags), killCommand(flags), pauseCommand(flags), unpauseCommand(flags),
		rmCommand(flags), waitCommand(flags), renameCommand(flags), updateCommand(flags),
		topCommand(flags), statsCommand(flags), portCommand(flags), diffCommand(flags), cpCommand(flags), commitCommand(flags),
		exportCommand(flags), EventsCommand(flags),
	}
}

// GroupCommand is `cri-node container`, the same verbs below one word.
func GroupCommand(flags *client.Flags) *cobra.Command {
	group := &cobra.Command{
		Use:   "container",
		Short: "The verbs for containers, below one word",
		Args:  argument.None(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range Commands(flags) {
		switch c.Name() {
		case "events":
			continue
		case "ps":
			c.Use, c.Aliases = "ls [OPTIONS]", []string{"list", "ps"}
			c.Example = "  cri-node container ls -a"
		case "rm":
			c.Aliases = append(c.Aliases, "remove")
		}
		group.AddCommand(c)
	}
	group.AddCommand(InspectKind(flags, "container", "  cri-node container inspect web"), pruneCommand(flags))
	return group
}

// failed collects the errors of a verb that goes on with its next argument.
type failed struct {
	cmd   *cobra.Command
	flags *client.Flags
	any   bool
}

// report prints an error, if it is one.
func (f *failed) report(err error) {
	if err == nil {
		return
	}
	f.any = true
	cmdError(f.cmd, f.flags.Explain(err))
}

// err is what the verb ends with.
func (f *failed) err() error {
	if !f.any {
		return nil
	}
	return &client.ExitError{Code: 1}
}

// cmdError prints an error in the form main prints them.
func cmdError(cmd *cobra.Command, err error) {
	fmt.Fprintf(cmd.ErrOrStderr(), "cri-node: %v\n", err)
}

// ForEach calls do for each argument, and prints those it worked for.
func ForEach(cmd *cobra.Command, flags *client.Flags, args []string, do func(ctx context.Context, n *client.Node, name string) error) error {
	return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
		result := failed{cmd: cmd, flags: flags}
		for _, name := range args {
			if err := do(ctx, n, name); err != nil {
				result.report(err)
				continue
			}
			fmt.Fprintln(cmd.OutOrStdout(), name)
		}
		return result.err()
	})
}

// streams are those of the command.
func streams(cmd *cobra.Command) terminal.Streams {
	return terminal.Streams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
}

// errNoTerminal is docker's: a terminal inside needs one outside.
func errNoTerminal() error {
	return errors.New("cannot attach stdin to a TTY-enabled container because stdin is not a terminal (leave -t out for a pipe)")
}
