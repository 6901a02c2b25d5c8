package images

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/progress"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Commands are the verbs for images.
func Commands(flags *client.Flags) []*cobra.Command {
	return []*cobra.Command{
		pullCommand(flags), pushCommand(flags), imagesCommand(flags), rmiCommand(flags), tagCommand(flags), historyCommand(flags),
		saveCommand(flags), loadCommand(flags), importCommand(flags), searchCommand(flags), loginCommand(flags), logoutCommand(),
	}
}

// GroupCommand is `cri-node image`, the same verbs below one word, and others
// that are about images.
func GroupCommand(flags *client.Flags, others ...*cobra.Command) *cobra.Command {
	group := &cobra.Command{
		Use:   "image",
		Short: "The verbs for images, below one word",
		Args:  argument.None(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range Commands(flags) {
		switch c.Name() {
		case "search", "login", "logout":
			continue
		case "images":
			c.Use, c.Aliases = "ls [OPTIONS] [REPOSITORY[:TAG]]", []string{"list"}
			c.Example = "  cri-node image ls"
		case "rmi":
			c.Use, c.Aliases = "rm [OPTIONS] IMAGE [IMAGE...]", []string{"remove"}
			c.Example = "  cri-node image rm busybox"
		}
		group.AddCommand(c)
	}
	group.AddCommand(pruneCommand(flags))
	group.AddCommand(others...)
	return group
}

// follow shows a stream of progress to its end and returns what came out.
func follow(d *progress.Display, recv func() (*nodev1.Progress, error)) ([]*nodev1.ImageResult, error) {
	defer d.Flush()
	var results []*nodev1.ImageResult
	for {
		p, err := recv()
		if errors.Is(err, io.EOF) {
			return results, nil
		}
		if err != nil {
			return results, err
		}
		d.Update(p)
		if p.GetImage() != nil {
			results = append(results, p.GetImage())
		}
	}
}

// Pull gets an image for another verb, with the person's credentials, and shows
// how it goes on the command's standard error.
func Pull(ctx context.Context, n *client.Node, cmd *cobra.Command, image, platform string, quiet bool) error {
	auth, err := authOf(image)
	if err != nil {
		return err
	}
	stream, err := n.Images.Pull(ctx, &nodev1.PullRequest{Image: image, Platform: platform, Auth: auth})
	if err != nil {
		return err
	}
	d := &progress.Display{}
	if !quiet {
		d = progress.New(cmd.ErrOrStderr())
	}
	_, err = follow(d, stream.Recv)
	return err
}
