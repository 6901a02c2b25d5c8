// Package networks has the verbs for networks of people's containers: `cri-node
// network create|ls|inspect|connect|disconnect|rm|prune`. A network is a name
// whose members know one another by name; packets it keeps from nobody.
package networks

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/prune"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Command is `cri-node network`.
func Command(flags *client.Flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "network",
		Short: "Make, list and remove networks, which let containers find one another by name",
		Long: "Containers with the same --network NAME find one another by their names. Such a network needs not be made: it\n" +
			"is there while a container is in it. All containers are on the pods' network, whatever networks they are in:\n" +
			"networks keep names apart, not packets.",
		Example: "  cri-node network create shop\n  cri-node run -d --name db --network shop postgres",
		Args:    argument.None(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(createCommand(flags), listCommand(flags), connectCommand(flags), disconnectCommand(flags), removeCommand(flags), pruneCommand(flags),
		containers.InspectKind(flags, "network", "  cri-node network inspect -f '{{json .Containers}}' shop"))
	return cmd
}

// builtIn are networks that are always there, and docker's drivers of theirs.
func builtIn() map[string]string {
	return map[string]string{"pod": "bridge", "bridge": "bridge", "default": "bridge", "host": "host", "none": "null"}
}

func checkName(name string) error {
	if builtIn()[name] != "" {
		return fmt.Errorf("network %q is always there: it can be neither made nor removed, nor joined later", name)
	}
	return nil
}

func createCommand(flags *client.Flags) *cobra.Command {
	var labels []string
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] NETWORK",
		Short:             "Make a network, and print its name",
		Example:           "  cri-node network create --label app=shop shop",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkName(args[0]); err != nil {
				return err
			}
			set, err := argument.Pairs("label", labels)
			if err != nil {
				return err
			}
			request := &nodev1.CreateNetworkRequest{Name: args[0], Labels: set}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				if _, err := n.System.CreateNetwork(ctx, request); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), args[0])
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&labels, "label", nil, "set a label `KEY=VALUE`")
	for _, name := range []string{"subnet", "gateway", "ip-range", "aux-address", "ipam-driver", "ipam-opt"} {
		argument.Refuse(f, name, "is not supported: all containers have addresses of the pods' network, which the daemon's configuration describes")
	}
	for _, name := range []string{"internal", "ingress", "config-only", "config-from", "opt"} {
		argument.Refuse(f, name, "is not supported: a network here is names, and keeps no packets from anybody")
	}
	argument.Harmless{Only: "bridge", Why: "all containers are on the pods' network"}.AddP(f, "driver", "d")
	argument.Harmless{Only: "local", Why: "there is one machine"}.Add(f, "scope")
	for _, name := range []string{"attachable", "ipv4", "ipv6"} {
		argument.Harmless{Boolean: true, Why: "it is as the pods' network is"}.Add(f, name)
	}
	return cmd
}

// row is what `network ls` and its templates show.
type row struct {
	ID, Name, Driver, Scope, IPv4, IPv6, Internal, Labels, CreatedAt string
	labels                                                           map[string]string
}

// Label is the value of a label.
func (r row) Label(name string) string { return r.labels[name] }

func filterKeys() []string { return []string{"name", "label", "driver", "dangling"} }

func listCommand(flags *client.Flags) *cobra.Command {
	var o output.Options
	var filter []string
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Aliases:           []string{"list"},
		Short:             "List networks",
		Long:              "List networks. Filters: name, label, driver, dangling=true|false (whether no container is in it).",
		Example:           "  cri-node network ls\n  cri-node network ls -q --filter label=app=shop",
		Args:              argument.None(),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.System.ListNetworks(ctx, &nodev1.ListNetworksRequest{})
				if err != nil {
					return err
				}
				chosen, err := choose(r.GetNetworks(), filter)
				if err != nil {
					return err
				}
				return table(chosen).Print(cmd.OutOrStdout(), o)
			})
		},
	}
	o.AddListFlags(cmd.Flags())
	cmd.Flags().StringArrayVarP(&filter, "filter", "f", nil, "those with `KEY=VALUE` only")
	_ = cmd.RegisterFlagCompletionFunc("filter", complete.Keys(filterKeys()...)) // the flag is there, one line above
	return cmd
}

// choose are those made or used, and the three that are always there, that the
// filters want.
func choose(all []*nodev1.Network, filter []string) ([]*nodev1.Network, error) {
	chosen := slices.Clone(all)
	for _, name := range []string{"pod", "host", "none"} {
		chosen = append(chosen, &nodev1.Network{Name: name})
	}
	slices.SortFunc(chosen, func(a, b *nodev1.Network) int { return strings.Compare(a.GetName(), b.GetName()) })
	for _, s := range filter {
		key, value, err := argument.Filter(s, filterKeys()...)
		if err != nil {
			return nil, err
		}
		keep := func(n *nodev1.Network) bool { return strings.Contains(n.GetName(), value) }
		switch key {
		case "label":
			keep = func(n *nodev1.Network) bool { return argument.HasLabel(n.GetLabels(), value) }
		case "driver":
			keep = func(n *nodev1.Network) bool { return driver(n.GetName()) == value }
		case "dangling":
			want, err := argument.Bool(key, value)
			if err != nil {
				return nil, err
			}
			keep = func(n *nodev1.Network) bool {
				unused := builtIn()[n.GetName()] == "" && len(n.GetContainers()) == 0
				return unused == want
			}
		}
		chosen = slices.DeleteFunc(chosen, func(n *nodev1.Network) bool { return !keep(n) })
	}
	return chosen, nil
}

func driver(name string) string {
	if d := builtIn()[name]; d != "" {
		return d
	}
	return "bridge"
}

func table(all []*nodev1.Network) output.List[row] {
	l := output.List[row]{
		Key:     "ID",
		Columns: []output.Column{{Field: "Name", Header: "NAME"}, {Field: "Driver", Header: "DRIVER"}, {Field: "Scope", Header: "SCOPE"}, {Field: "ID", Header: "NETWORK ID", Hidden: true}},
		Raw:     append([]*nodev1.Network{}, all...),
	}
	for _, n := range all {
		created := ""
		if n.GetCreatedAt() != 0 {
			created = time.Unix(0, n.GetCreatedAt()).Format("2006-01-02 15:04:05 -0700 MST")
		}
		l.Rows = append(l.Rows, row{
			ID: n.GetName(), Name: n.GetName(), Driver: driver(n.GetName()), Scope: "local", IPv4: "true", IPv6: "false", Internal: "false",
			Labels: output.Labels(n.GetLabels()), CreatedAt: created, labels: n.GetLabels(),
		})
	}
	return l
}

func connectCommand(flags *client.Flags) *cobra.Command {
	var aliases []string
	cmd := &cobra.Command{
		Use:               "connect [OPTIONS] NETWORK CONTAINER",
		Short:             "Make a container a member of a network",
		Example:           "  cri-node network connect --alias db shop postgres",
		Args:              argument.Exactly(2),
		ValidArgsFunction: networkThenContainer(flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			return connect(cmd, flags, &nodev1.ConnectNetworkRequest{Name: args[0], Container: args[1], Aliases: aliases})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&aliases, "alias", nil, "another `name` it has for the members")
	for _, name := range []string{"ip", "ip6", "link-local-ip", "driver-opt", "gw-priority"} {
		argument.Refuse(f, name, "is not supported: the container keeps the address it has")
	}
	argument.Refuse(f, "link", "is not supported: --alias gives a name")
	return cmd
}

func disconnectCommand(flags *client.Flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "disconnect [OPTIONS] NETWORK CONTAINER",
		Short:             "End a container's membership of a network",
		Example:           "  cri-node network disconnect shop postgres",
		Args:              argument.Exactly(2),
		ValidArgsFunction: networkThenContainer(flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			return connect(cmd, flags, &nodev1.ConnectNetworkRequest{Name: args[0], Container: args[1], Disconnect: true})
		},
	}
	cmd.Flags().BoolP("force", "f", false, "does nothing: no container clings to a network")
	return cmd
}

func connect(cmd *cobra.Command, flags *client.Flags, request *nodev1.ConnectNetworkRequest) error {
	if err := checkName(request.GetName()); err != nil {
		return err
	}
	return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
		_, err := n.System.ConnectNetwork(ctx, request)
		return err
	})
}

func networkThenContainer(flags *client.Flags) complete.Func {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return complete.Networks(flags)(cmd, args, toComplete)
		}
		return complete.Any(flags, 2)(cmd, args, toComplete)
	}
}

func removeCommand(flags *client.Flags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] NETWORK [NETWORK...]",
		Aliases:           []string{"remove"},
		Short:             "Remove networks that no container is in",
		Example:           "  cri-node network rm shop",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Networks(flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			return containers.ForEach(cmd, flags, args, func(ctx context.Context, n *client.Node, name string) error {
				if err := checkName(name); err != nil {
					return err
				}
				_, err := n.System.RemoveNetwork(ctx, &nodev1.RemoveNetworkRequest{Name: name})
				if force && client.IsNotFound(err) {
					return nil
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not mind networks that are not there")
	return cmd
}

func pruneCommand(flags *client.Flags) *cobra.Command {
	return prune.Complete(&cobra.Command{
		Use:     "prune [OPTIONS]",
		Short:   "Remove the networks that no container is in",
		Example: "  cri-node network prune -f",
	}, flags, func() (*nodev1.PruneRequest, string) {
		return &nodev1.PruneRequest{Networks: true}, "all networks that no container is in."
	})
}
