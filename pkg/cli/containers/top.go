package containers

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func topCommand(flags *client.Flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "top CONTAINER [PS_OPTIONS]",
		Short:             "List the processes of a container",
		Example:           "  cri-node top web\n  cri-node top web -o pid,cmd",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Running(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.Containers.Top(ctx, &nodev1.TopRequest{Container: args[0], PsArgs: args[1:]})
				if err != nil {
					return err
				}
				tab := tabwriter.NewWriter(cmd.OutOrStdout(), 20, 1, 3, ' ', 0)
				fmt.Fprintln(tab, strings.Join(r.GetTitles(), "\t"))
				for _, p := range r.GetProcesses() {
					columns := slices.Clone(p.GetColumns())
					for i := range columns {
						columns[i] = output.Printable(columns[i])
					}
					fmt.Fprintln(tab, strings.Join(columns, "\t"))
				}
				return tab.Flush()
			})
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the container is ps's
	return cmd
}

func portCommand(flags *client.Flags) *cobra.Command {
	return &cobra.Command{
		Use:               "port CONTAINER [PORT[/PROTOCOL]]",
		Short:             "Print where the ports of a container are published",
		Example:           "  cri-node port web\n  cri-node port web 80/tcp",
		Args:              argument.Between(1, 2),
		ValidArgsFunction: complete.Any(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				d, err := describe(ctx, n, args[0])
				if err != nil {
					return err
				}
				r, err := n.Containers.List(ctx, &nodev1.ListRequest{})
				if err != nil {
					return err
				}
				wanted := ""
				if len(args) > 1 {
					if wanted = args[1]; !strings.Contains(wanted, "/") {
						wanted += "/tcp"
					}
				}
				var lines []string
				for _, c := range r.GetContainers() {
					if c.GetId() == d.ID {
						lines = portLines(c.GetPorts(), wanted)
					}
				}
				if wanted != "" && len(lines) == 0 {
					return fmt.Errorf("no public port '%s' published for %s", args[1], args[0])
				}
				for _, line := range lines {
					fmt.Fprintln(cmd.OutOrStdout(), line)
				}
				return nil
			})
		},
	}
}

// portLines are the lines of `port`, of one port if wanted is not empty.
func portLines(ports []*nodev1.Port, wanted string) []string {
	var lines []string
	for _, p := range ports {
		inside := fmt.Sprintf("%d/%s", p.GetContainerPort(), protocolName(p))
		if p.GetHostPort() == 0 || wanted != "" && inside != wanted {
			continue
		}
		for _, ip := range hostIPs(p) {
			if strings.Contains(ip, ":") {
				ip = "[" + ip + "]"
			}
			line := fmt.Sprintf("%s:%d", ip, p.GetHostPort())
			if wanted == "" {
				line = inside + " -> " + line
			}
			lines = append(lines, line)
		}
	}
	return lines
}

func diffCommand(flags *client.Flags) *cobra.Command {
	var o output.Options
	cmd := &cobra.Command{
		Use:               "diff CONTAINER",
		Short:             "List the files a container has added (A), changed (C) and deleted (D)",
		Example:           "  cri-node diff web",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Any(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.Containers.Changes(ctx, &nodev1.ChangesRequest{Container: args[0]})
				if err != nil {
					return err
				}
				type change struct{ Type, Path string }
				l := output.List[change]{Columns: []output.Column{{Field: "Type", Header: "CHANGE TYPE"}, {Field: "Path", Header: "PATH"}}, Key: "Path"}
				for _, c := range r.GetChanges() {
					l.Rows = append(l.Rows, change{c.GetKind(), c.GetPath()})
				}
				if o.Format != "" || o.Output != "" {
					return l.Print(cmd.OutOrStdout(), o)
				}
				for _, c := range l.Rows {
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", c.Type, output.Printable(c.Path))
				}
				return nil
			})
		},
	}
	o.AddFlags(cmd.Flags())
	return cmd
}
