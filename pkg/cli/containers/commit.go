package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func commitCommand(flags *client.Flags) *cobra.Command {
	request := &nodev1.CommitRequest{}
	pause := true
	cmd := &cobra.Command{
		Use:               "commit [OPTIONS] CONTAINER [NAME[:TAG]]",
		Short:             "Make an image of what a container has become",
		Example:           "  cri-node commit -m 'with curl' web web:curl\n  cri-node commit -c 'CMD [\"sh\"]' web",
		Args:              argument.Between(1, 2),
		ValidArgsFunction: complete.Any(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Container, request.NoPause = args[0], !pause
			if len(args) > 1 {
				request.Image = args[1]
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.Containers.Commit(ctx, request)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), r.GetImageId())
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&request.Author, "author", "a", "", "who made it, such as `\"Ada <ada@example.org>\"`")
	f.StringVarP(&request.Message, "message", "m", "", "`why` it was made")
	f.StringArrayVarP(&request.Changes, "change", "c", nil, "Dockerfile `instruction` for the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, WORKDIR ...")
	f.BoolVarP(&pause, "pause", "p", true, "freeze the container meanwhile")
	return cmd
}

func exportCommand(flags *client.Flags) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:               "export [OPTIONS] CONTAINER",
		Short:             "Write a container's files as a tar",
		Example:           "  cri-node export -o web.tar web\n  cri-node export web | tar t",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Any(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" && terminal.Is(cmd.OutOrStdout()) {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				stream, err := n.Containers.Export(ctx, &nodev1.ExportRequest{Container: args[0]})
				if err != nil {
					return err
				}
				write := func(w io.Writer) error {
					for {
						chunk, err := stream.Recv()
						if errors.Is(err, io.EOF) {
							return nil
						}
						if err != nil {
							return err
						}
						if _, err := w.Write(chunk.GetData()); err != nil {
							return err
						}
					}
				}
				if file == "" {
					return write(cmd.OutOrStdout())
				}
				return writeFile(file, write)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "", "write to a `file`")
	return cmd
}

// writeFile makes a file of what write writes, or none at all.
func writeFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(dirOf(path), ".cri-node-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
