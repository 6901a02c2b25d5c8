// Package volumes has the verbs for volumes: `cri-node volume create|ls|inspect|rm|prune`.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/prune"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Command is `cri-node volume`.
func Command(flags *client.Flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "volume",
		Short:   "Make, list and remove volumes",
		Example: "  cri-node volume create data\n  cri-node run -v data:/var/lib/data busybox",
		Args:    argument.None(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(createCommand(flags), listCommand(flags), containers.InspectKind(flags, "volume", "  cri-node volume inspect -f '{{.Mountpoint}}' data"), removeCommand(flags), pruneCommand(flags))
	return cmd
}

func createCommand(flags *client.Flags) *cobra.Command {
	var labels, options []string
	var driver string
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] [NAME]",
		Short:             "Make a volume, and print its name",
		Example:           "  cri-node volume create --label app=shop data",
		Args:              argument.Between(0, 1),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if driver != "local" || len(options) > 0 {
				return errors.New("volumes are directories of this machine: there are no other drivers, and no options")
			}
			set, err := argument.Pairs("label", labels)
			if err != nil {
				return err
			}
			request := &nodev1.CreateVolumeRequest{Labels: set}
			if len(args) > 0 {
				request.Name = args[0]
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.System.CreateVolume(ctx, request)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), r.GetVolume().GetName())
				return nil
			})
		},
	}
	cmd.Flags().StringArrayVar(&labels, "label", nil, "set a label `KEY=VALUE`")
	cmd.Flags().StringVarP(&driver, "driver", "d", "local", "local, and no other")
	cmd.Flags().StringArrayVarP(&options, "opt", "o", nil, "refused: there are none")
	_ = cmd.Flags().MarkHidden("opt") // it is there, one line above
	return cmd
}

// row is what `volume ls` and its templates show.
type row struct {
	Driver, Name, Mountpoint, Labels, Scope, Links string
	labels                                         map[string]string
}

// Label is the value of a label.
func (r row) Label(name string) string { return r.labels[name] }

func listCommand(flags *client.Flags) *cobra.Command {
	var o output.Options
	var filter []string
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Aliases:           []string{"list"},
		Short:             "List volumes",
		Long:              "List volumes. Filters: name, label, dangling=true|false (whether no container has it).",
		Example:           "  cri-node volume ls\n  cri-node volume ls -q --filter dangling=true",
		Args:              argument.None(),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.System.ListVolumes(ctx, &nodev1.ListVolumesRequest{})
				if err != nil {
					return err
				}
				chosen, err := choose(r.GetVolumes(), filter)
				if err != nil {
					return err
				}
				return table(chosen).Print(cmd.OutOrStdout(), o)
			})
		},
	}
	o.AddFlags(cmd.Flags())
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "print names only")
	cmd.Flags().StringArrayVarP(&filter, "filter", "f", nil, "those with `KEY=VALUE` only")
	_ = cmd.RegisterFlagCompletionFunc("filter", complete.Keys(filterKeys()...)) // the flag is there, one line above
	return cmd
}

func filterKeys() []string { return []string{"name", "label", "dangling"} }

func choose(all []*nodev1.Volume, filter []string) ([]*nodev1.Volume, error) {
	chosen := slices.Clone(all)
	slices.SortFunc(chosen, func(a, b *nodev1.Volume) int { return strings.Compare(a.GetName(), b.GetName()) })
	for _, s := range filter {
		key, value, err := argument.Filter(s, filterKeys()...)
		if err != nil {
			return nil, err
		}
		var drop func(*nodev1.Volume) bool
		switch key {
		case "name":
			drop = func(vol *nodev1.Volume) bool { return !strings.Contains(vol.GetName(), value) }
		case "label":
			drop = func(vol *nodev1.Volume) bool { return !argument.HasLabel(vol.GetLabels(), value) }
		case "dangling":
			yes, err := argument.Bool(key, value)
			if err != nil {
				return nil, err
			}
			drop = func(vol *nodev1.Volume) bool { return (len(vol.GetContainers()) == 0) != yes }
		}
		chosen = slices.DeleteFunc(chosen, drop)
	}
	return chosen, nil
}

func table(volumes []*nodev1.Volume) output.List[row] {
	l := output.List[row]{
		Key:     "Name",
		Columns: []output.Column{{Field: "Driver", Header: "DRIVER"}, {Field: "Name", Header: "VOLUME NAME"}},
		Raw:     append([]*nodev1.Volume{}, volumes...),
	}
	for _, v := range volumes {
		l.Rows = append(l.Rows, row{
			Driver: "local", Name: v.GetName(), Mountpoint: v.GetPath(), Labels: output.Labels(v.GetLabels()), Scope: "local",
			Links: fmt.Sprint(len(v.GetContainers())), labels: v.GetLabels(),
		})
	}
	return l
}

func removeCommand(flags *client.Flags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases:           []string{"remove"},
		Short:             "Remove volumes that no container has",
		Example:           "  cri-node volume rm data",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Volumes(flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			return containers.ForEach(cmd, flags, args, func(ctx context.Context, n *client.Node, name string) error {
				_, err := n.System.RemoveVolume(ctx, &nodev1.RemoveVolumeRequest{Name: name, Force: force})
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not mind volumes that are not there")
	return cmd
}

func pruneCommand(flags *client.Flags) *cobra.Command {
	var all bool
	cmd := prune.Complete(&cobra.Command{
		Use:     "prune [OPTIONS]",
		Short:   "Remove the volumes that no container has",
		Long:    "Remove the volumes that no container has and that have no name of their own; with -a those with a name as well.",
		Example: "  cri-node volume prune -f",
	}, flags, func() (*nodev1.PruneRequest, string) {
		if all {
			return &nodev1.PruneRequest{Volumes: true, AllVolumes: true}, "all volumes that no container has."
		}
		return &nodev1.PruneRequest{Volumes: true}, "anonymous volumes that no container has."
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those with a name as well")
	return cmd
}
