package containers

import (
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/prune"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func pruneCommand(flags *client.Flags) *cobra.Command {
	return prune.Complete(&cobra.Command{
		Use:     "prune [OPTIONS]",
		Short:   "Remove all containers that do not run, but never kubelet's",
		Example: "  cri-node container prune -f --filter until=24h",
	}, flags, func() (*nodev1.PruneRequest, string) {
		return &nodev1.PruneRequest{Containers: true}, "all stopped containers."
	})
}
