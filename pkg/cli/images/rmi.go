package images

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/prune"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func rmiCommand(flags *client.Flags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rmi [OPTIONS] IMAGE [IMAGE...]",
		Short: "Remove images",
		Long: "Take a name from an image, and remove the image with its last name. By its id an image goes with all its\n" +
			"names. One that a container needs is refused; with --force it loses its names, and the container keeps its files.",
		Example:           "  cri-node rmi busybox\n  cri-node rmi -f 3f2a9c1b7d60\n  cri-node rmi $(cri-node images -q --filter dangling=true)",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Images(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				failed := false
				for _, image := range args {
					r, err := n.Images.Remove(ctx, &nodev1.RemoveImageRequest{Image: image, Force: force})
					if err != nil && force && client.IsNotFound(err) {
						continue // as rm -f
					}
					if err != nil {
						failed = true
						fmt.Fprintf(cmd.ErrOrStderr(), "cri-node: %v\n", flags.Explain(err))
						continue
					}
					for _, name := range r.GetUntagged() {
						fmt.Fprintf(cmd.OutOrStdout(), "Untagged: %s\n", name)
					}
					for _, id := range r.GetDeleted() {
						fmt.Fprintf(cmd.OutOrStdout(), "Deleted: %s\n", id)
					}
				}
				if failed {
					return &client.ExitError{Code: 1}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "all names, also of an image that a container needs")
	cmd.Flags().Bool("no-prune", false, "does nothing: there are no parents to remove")
	return cmd
}

func pruneCommand(flags *client.Flags) *cobra.Command {
	var all bool
	cmd := prune.Complete(&cobra.Command{
		Use:     "prune [OPTIONS]",
		Short:   "Remove images without a name, but never one that a container needs or that is pinned",
		Example: "  cri-node image prune -f\n  cri-node image prune -a --filter until=24h",
	}, flags, func() (*nodev1.PruneRequest, string) {
		if all {
			return &nodev1.PruneRequest{Images: true, AllImages: true}, "all images without a container."
		}
		return &nodev1.PruneRequest{Images: true}, "all images without a name."
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "images that have a name too")
	return cmd
}

func tagCommand(flags *client.Flags) *cobra.Command {
	return &cobra.Command{
		Use:               "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
		Short:             "Give an image another name",
		Example:           "  cri-node tag web registry.example.org/team/web:v1",
		Args:              argument.Exactly(2),
		ValidArgsFunction: complete.Images(flags, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				_, err := n.Images.Tag(ctx, &nodev1.TagRequest{Source: args[0], Target: args[1]})
				return err
			})
		},
	}
}

// historyRow is what history and its templates show.
type historyRow struct{ ID, CreatedSince, CreatedAt, CreatedBy, Size, Comment string }

func historyCommand(flags *client.Flags) *cobra.Command {
	var o output.Options
	human := true
	cmd := &cobra.Command{
		Use:               "history [OPTIONS] IMAGE",
		Short:             "Show how an image came to be",
		Example:           "  cri-node history nginx\n  cri-node history --no-trunc --format '{{.CreatedBy}}' nginx",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Images(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.Images.History(ctx, &nodev1.HistoryRequest{Image: args[0]})
				if err != nil {
					return err
				}
				created := output.Column{Field: "CreatedSince", Header: "CREATED"}
				if !human {
					created = output.Column{Field: "CreatedAt", Header: "CREATED AT"}
				}
				l := output.List[historyRow]{Key: "ID", Raw: append([]*nodev1.HistoryResponse_Entry{}, r.GetEntries()...), Columns: []output.Column{
					{Field: "ID", Header: "IMAGE"}, created, {Field: "CreatedBy", Header: "CREATED BY"}, {Field: "Size", Header: "SIZE"}, {Field: "Comment", Header: "COMMENT"},
				}}
				for _, e := range r.GetEntries() {
					l.Rows = append(l.Rows, historyRowOf(e, o.NoTrunc, human))
				}
				return l.Print(cmd.OutOrStdout(), o)
			})
		},
	}
	o.AddListFlags(cmd.Flags())
	cmd.Flags().BoolVarP(&human, "human", "H", true, "sizes and times in words")
	return cmd
}

func historyRowOf(e *nodev1.HistoryResponse_Entry, whole, human bool) historyRow {
	at := time.Unix(0, e.GetCreatedAt())
	r := historyRow{ID: e.GetId(), CreatedSince: output.Ago(time.Now(), at), CreatedAt: at.Format(time.RFC3339), CreatedBy: e.GetCreatedBy(), Size: output.Size(e.GetSize()), Comment: e.GetComment()}
	if !human {
		r.Size = strconv.FormatInt(e.GetSize(), 10)
	}
	if !whole {
		r.CreatedBy = output.Ellipsis(r.CreatedBy, 45)
		if r.ID != "<missing>" {
			r.ID = output.ShortID(r.ID)
		}
	}
	return r
}
