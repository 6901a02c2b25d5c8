package cli

import (
	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/build"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/images"
)

// buildVerb is `build` for other verbs.
func buildVerb(flags *client.Flags) func(parent *cobra.Command, args []string) error {
	return func(parent *cobra.Command, args []string) error {
		cmd := build.Command(flags)
		cmd.SetArgs(args)
		cmd.SetOut(parent.OutOrStdout())
		cmd.SetErr(parent.ErrOrStderr())
		cmd.SilenceErrors = true
		return cmd.ExecuteContext(parent.Context())
	}
}

// pullImage is `pull` for other verbs.
func pullImage(cmd *cobra.Command, n *client.Node, image, platform string) error {
	return images.Pull(cmd.Context(), n, cmd, image, platform, false)
}

// verb finds a verb for containers or images.
func verb(flags *client.Flags) func(name string) *cobra.Command {
	return func(name string) *cobra.Command {
		for _, c := range append(containers.Commands(flags), images.Commands(flags)...) {
			if c.Name() == name {
				return c
			}
		}
		return nil
	}
}
