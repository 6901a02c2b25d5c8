// Package complete offers a shell what the arguments of a verb can be: names and
// ids of containers, images and volumes, asked of the daemon. Where it does not
// answer nothing is offered.
package complete

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// limit bounds how long a person who pressed tab waits.
const limit = 2 * time.Second

// Func is what cobra asks for completions.
type Func = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// Any completes containers in any state. most is how many arguments there are; 0
// is any number.
func Any(flags *client.Flags, most int) Func {
	return containers(flags, most, func(string) bool { return true })
}

// Running completes containers that run.
func Running(flags *client.Flags, most int) Func { return containers(flags, most, runs) }

// Stopped completes containers that do not run.
func Stopped(flags *client.Flags, most int) Func {
	return containers(flags, most, func(state string) bool { return !runs(state) })
}

func runs(state string) bool { return state == "running" || state == "paused" || state == "restarting" }

func containers(flags *client.Flags, most int, inState func(string) bool) Func {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		ask(cmd, flags, func(ctx context.Context, n *client.Node) error {
			r, err := n.Containers.List(ctx, &nodev1.ListRequest{})
			for _, c := range r.GetContainers() {
				if !inState(c.GetState()) {
					continue
				}
				name := c.GetName()
				if c.GetKubernetes() {
					name = c.GetPod() + "/" + name
				}
				names = append(names, name+"\t"+c.GetImage())
				if toComplete != "" { // ids only where somebody begins one
					names = append(names, c.GetId()[:min(12, len(c.GetId()))]+"\t"+name)
				}
			}
			return err
		})
		return matching(names, args, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

// Images completes names of images, and ids where one is begun.
func Images(flags *client.Flags, most int) Func {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveDefault
		}
		var names []string
		ask(cmd, flags, func(ctx context.Context, n *client.Node) error {
			r, err := n.Images.List(ctx, &nodev1.ListImagesRequest{})
			for _, i := range r.GetImages() {
				for _, tag := range i.GetTags() {
					names = append(names, strings.TrimPrefix(strings.TrimPrefix(tag, "docker.io/"), "library/"))
				}
				if _, hex, ok := strings.Cut(i.GetId(), ":"); ok && toComplete != "" {
					names = append(names, hex[:min(12, len(hex))])
				}
			}
			return err
		})
		return matching(names, args, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

// Volumes completes names of volumes.
func Volumes(flags *client.Flags) Func {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		var names []string
		ask(cmd, flags, func(ctx context.Context, n *client.Node) error {
			r, err := n.System.ListVolumes(ctx, &nodev1.ListVolumesRequest{})
			for _, v := range r.GetVolumes() {
				names = append(names, v.GetName())
			}
			return err
		})
		return matching(names, args, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

// Networks completes names of networks.
func Networks(flags *client.Flags) Func {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		names := []string{"pod", "host", "none"}
		ask(cmd, flags, func(ctx context.Context, n *client.Node) error {
			r, err := n.System.ListNetworks(ctx, &nodev1.ListNetworksRequest{})
			for _, v := range r.GetNetworks() {
				names = append(names, v.GetName())
			}
			return err
		})
		return matching(names, args, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

// Words completes one of these.
func Words(words ...string) Func {
	return func(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		return matching(words, nil, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

// Keys completes the keys of KEY=VALUE.
func Keys(keys ...string) Func {
	words := make([]string, len(keys))
	for i, k := range keys {
		words[i] = k + "="
	}
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		found, directive := Words(words...)(cmd, args, toComplete)
		return found, directive | cobra.ShellCompDirectiveNoSpace
	}
}

// ask calls the daemon, unless it takes too long. An error has nobody to hear it:
// a shell shows only what can be chosen.
func ask(cmd *cobra.Command, flags *client.Flags, do func(context.Context, *client.Node) error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	if err := flags.With(ctx, do); err != nil {
		cobra.CompDebugln(err.Error(), false)
	}
}

// matching are the names that begin so and are not among the arguments yet.
func matching(names, args []string, toComplete string) []string {
	var all []string
	for _, n := range names {
		name, _, _ := strings.Cut(n, "\t")
		if strings.HasPrefix(name, toComplete) && !slices.Contains(args, name) {
			all = append(all, n)
		}
	}
	return all
}
