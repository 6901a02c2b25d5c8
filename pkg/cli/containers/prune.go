package containers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func pruneCommand(flags *client.Flags) *cobra.Command {
	var force bool
	var filter []string
	cmd := &cobra.Command{
		Use:     "prune [OPTIONS]",
		Short:   "Remove all containers that do not run, but never kubelet's",
		Example: "  cri-node container prune -f --filter until=24h",
		Args:    between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			request := &nodev1.PruneRequest{Containers: true}
			if err := PruneFilters(request, filter, time.Now()); err != nil {
				return err
			}
			if !force && !Confirm(cmd, "WARNING! This will remove all stopped containers.") {
				return nil
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.System.Prune(ctx, request)
				if err != nil {
					return err
				}
				if len(r.GetContainers()) > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "Deleted Containers:\n%s\n\n", strings.Join(r.GetContainers(), "\n"))
				}
				fmt.Fprintf(cmd.OutOrStdout(), "Total reclaimed space: %s\n", output.Size(r.GetReclaimed()))
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().StringArrayVar(&filter, "filter", nil, "those with `label=KEY[=VALUE]`, or made before until=TIME, only")
	return cmd
}

// Confirm asks a person whether to go on; the answer is no unless it is y.
func Confirm(cmd *cobra.Command, warning string) bool {
	fmt.Fprintf(cmd.OutOrStdout(), "%s\nAre you sure you want to continue? [y/N] ", warning)
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(cmd.OutOrStdout())
		return false
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}

// PruneFilters adds the filters of a prune to its request.
func PruneFilters(request *nodev1.PruneRequest, all []string, now time.Time) error {
	for _, s := range all {
		key, value, ok := strings.Cut(s, "=")
		switch {
		case !ok || value == "":
			return fmt.Errorf("invalid filter %q: %w", s, errNoFilter)
		case key == "label":
			request.Labels = append(request.Labels, value)
		case key == "until":
			until, err := parseTime(value, now)
			if err != nil {
				return fmt.Errorf("invalid filter %q: %w", s, err)
			}
			request.Until = until
		default:
			return fmt.Errorf("invalid filter %q: %w", s, errors.New("it can be label=KEY[=VALUE] or until=TIME"))
		}
	}
	return nil
}
