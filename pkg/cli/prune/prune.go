// Package prune has what the prune of containers, images, volumes and of all of
// them have in common: the question before, the filters, and what is told after.
package prune

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// What one prune removes. It is asked for when the flags are known.
type What func() (request *nodev1.PruneRequest, warning string)

// Complete gives a command, of which only the words for people are set, the
// flags of a prune, and makes it one.
func Complete(cmd *cobra.Command, flags *client.Flags, what What) *cobra.Command {
	var force bool
	var filters []string
	cmd.Args, cmd.ValidArgsFunction = argument.None(), complete.Words()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		request, warning := what()
		if err := filter(request, filters, time.Now()); err != nil {
			return err
		}
		if !force && !confirm(cmd, warning) {
			return nil
		}
		return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
			r, err := n.System.Prune(ctx, request)
			if err != nil {
				return err
			}
			tell(cmd, r)
			return nil
		})
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "those with `label=KEY[=VALUE]`, or made before until=TIME, only")
	_ = cmd.RegisterFlagCompletionFunc("filter", complete.Keys("label", "until")) // the flag is there, one line above
	return cmd
}

// filter adds the filters to the request.
func filter(request *nodev1.PruneRequest, all []string, now time.Time) error {
	for _, s := range all {
		key, value, err := argument.Filter(s, "label", "until")
		if err != nil {
			return err
		}
		if key == "label" {
			request.Labels = append(request.Labels, value)
			continue
		}
		if request.Until, err = argument.Time(value, now); err != nil {
			return fmt.Errorf("invalid filter %q: %w", s, err)
		}
	}
	return nil
}

// confirm asks a person whether to go on; the answer is no unless it is y.
func confirm(cmd *cobra.Command, warning string) bool {
	fmt.Fprintf(cmd.OutOrStdout(), "WARNING! This will remove %s\nAre you sure you want to continue? [y/N] ", warning)
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(cmd.OutOrStdout())
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// tell prints what went.
func tell(cmd *cobra.Command, r *nodev1.PruneResponse) {
	for _, part := range []struct {
		title string
		names []string
	}{{"Containers", r.GetContainers()}, {"Images", r.GetImages()}, {"Networks", r.GetNetworks()}, {"Volumes", r.GetVolumes()}, {"build cache objects", r.GetBuildCache()}} {
		if len(part.names) > 0 {
			fmt.Fprintf(cmd.OutOrStdout(), "Deleted %s:\n%s\n\n", part.title, strings.Join(part.names, "\n"))
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "Total reclaimed space: %s\n", output.Size(r.GetReclaimed()))
}
