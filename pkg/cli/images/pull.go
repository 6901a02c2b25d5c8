package images

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/credentials"
	"github.com/cri-node/cri-node/pkg/cli/progress"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// authOf finds the person's credentials for the registry of an image.
func authOf(image string) (*runtimeapi.AuthConfig, error) {
	return credentials.For(credentials.OfImage(image))
}

func pullCommand(flags *client.Flags) *cobra.Command {
	request := &nodev1.PullRequest{}
	var quiet bool
	cmd := &cobra.Command{
		Use:               "pull [OPTIONS] NAME[:TAG|@DIGEST]",
		Short:             "Get an image from a registry",
		Long:              "Get an image from a registry. A name without one is of Docker Hub, one without a tag has the tag latest.",
		Example:           "  cri-node pull ubuntu\n  cri-node pull --platform linux/arm64 registry.example.org/team/app:v2\n  cri-node pull -a busybox",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Images(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			auth, err := authOf(args[0])
			if err != nil {
				return err
			}
			request.Image, request.Auth = args[0], auth
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				stream, err := n.Images.Pull(ctx, request)
				if err != nil {
					return err
				}
				d := &progress.Display{}
				if !quiet {
					d = progress.New(cmd.OutOrStdout())
				}
				results, err := follow(d, stream.Recv)
				for _, r := range results {
					fmt.Fprintln(cmd.OutOrStdout(), r.GetName())
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&request.AllTags, "all-tags", "a", false, "all tags of the repository")
	f.BoolVarP(&quiet, "quiet", "q", false, "print the image's name only")
	f.StringVar(&request.Platform, "platform", "", "of an image for several, that for `OS/ARCH`")
	return cmd
}

func pushCommand(flags *client.Flags) *cobra.Command {
	request := &nodev1.PushRequest{}
	var quiet bool
	cmd := &cobra.Command{
		Use:   "push [OPTIONS] NAME[:TAG]",
		Short: "Send an image to a registry",
		Long: "Send an image to the registry in its name. What the registry has is not sent. An image that was pulled\n" +
			"keeps its digest: layers come from another repository of the same registry or from where the image was\n" +
			"pulled from, unless the daemon keeps them itself (image.keep_compressed).",
		Example:           "  cri-node tag web registry.example.org/team/web:v1\n  cri-node push registry.example.org/team/web:v1",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Images(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			auths, err := credentials.All()
			if err != nil {
				return err
			}
			request.Image, request.Auths, request.Auth = args[0], auths, auths[credentials.OfImage(args[0])]
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				stream, err := n.Images.Push(ctx, request)
				if err != nil {
					return err
				}
				d := &progress.Display{}
				if !quiet {
					d = progress.New(cmd.OutOrStdout())
				}
				results, err := follow(d, stream.Recv)
				for _, r := range results {
					if quiet {
						fmt.Fprintln(cmd.OutOrStdout(), r.GetName())
					}
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&request.AllTags, "all-tags", "a", false, "all tags of the repository")
	f.BoolVarP(&quiet, "quiet", "q", false, "print the image's name only")
	f.BoolVar(&request.Recompress, "recompress", false, "compress layers anew whose own form cannot be had: the image gets another digest")
	return cmd
}
