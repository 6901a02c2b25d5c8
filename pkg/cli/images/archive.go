package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/progress"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// chunkSize is how many bytes of a file one message carries.
const chunkSize = 256 << 10

func saveCommand(flags *client.Flags) *cobra.Command {
	request := &nodev1.SaveRequest{}
	var file string
	cmd := &cobra.Command{
		Use:               "save [OPTIONS] IMAGE [IMAGE...]",
		Short:             "Write images to an archive",
		Long:              "Write images to an archive that load, docker and skopeo read: docker-archive, or oci-archive for an OCI layout.",
		Example:           "  cri-node save -o images.tar web:v1 busybox\n  cri-node save busybox | gzip > busybox.tar.gz\n  cri-node save --format oci-archive -o web.oci.tar web",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: complete.Images(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" && terminal.Is(cmd.OutOrStdout()) {
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			request.Images = args
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				stream, err := n.Images.Save(ctx, request)
				if err != nil {
					return err
				}
				if file == "" {
					return receive(stream.Recv, cmd.OutOrStdout())
				}
				return writeFile(file, func(w io.Writer) error { return receive(stream.Recv, w) })
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "output", "o", "", "write to a `file`")
	f.StringVar(&request.Format, "format", "", "docker-archive, the default, or oci-archive")
	_ = cmd.RegisterFlagCompletionFunc("format", complete.Words("docker-archive", "oci-archive")) // the flag is there, see above
	return cmd
}

// receive writes what comes.
func receive(recv func() (*nodev1.Chunk, error), w io.Writer) error {
	for {
		chunk, err := recv()
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

// writeFile makes a file of what write writes, or none at all. What is there and
// is no file, such as a pipe, is written to.
func writeFile(path string, write func(io.Writer) error) (err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(filepath.Clean(path)), ".cri-node-")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// input opens a file, or standard input where there is none or it is "-".
func input(cmd *cobra.Command, file string) (io.ReadCloser, error) {
	if file != "" && file != "-" {
		return os.Open(file)
	}
	if terminal.Is(cmd.InOrStdin()) {
		return nil, errors.New("standard input is a terminal: give a file, or redirect it")
	}
	return io.NopCloser(cmd.InOrStdin()), nil
}

// send sends a file in pieces. A daemon that has had enough says why when it is
// asked for its answer.
func send(r io.Reader, send func([]byte) error) error {
	b := make([]byte, chunkSize)
	for {
		n, err := r.Read(b)
		if n > 0 {
			if sendErr := send(b[:n]); errors.Is(sendErr, io.EOF) {
				return nil
			} else if sendErr != nil {
				return sendErr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
	}
}

func loadCommand(flags *client.Flags) *cobra.Command {
	var file, platform string
	var quiet bool
	cmd := &cobra.Command{
		Use:               "load [OPTIONS]",
		Short:             "Read images out of an archive",
		Long:              "Read images out of an archive that save or docker wrote, or out of an OCI layout in a tar; plain, gzip or zstd.",
		Example:           "  cri-node load -i images.tar\n  zcat busybox.tar.gz | cri-node load",
		Args:              argument.None(),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := input(cmd, file)
			if err != nil {
				return err
			}
			defer in.Close()
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				return load(ctx, n, cmd, in, &nodev1.LoadRequest{Platform: platform}, quiet)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "input", "i", "", "read from a `file`")
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	f.StringVar(&platform, "platform", "", "of an image for several, that for `OS/ARCH`")
	return cmd
}

func load(ctx context.Context, n *client.Node, cmd *cobra.Command, in io.Reader, first *nodev1.LoadRequest, quiet bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.Images.Load(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(first); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		err := send(in, func(b []byte) error { return stream.Send(&nodev1.LoadRequest{Data: b}) })
		if err != nil {
			cancel() // half an archive is none
		}
		sent <- errors.Join(err, stream.CloseSend())
	}()
	d := progress.New(cmd.OutOrStdout())
	_, err = follow(d, func() (*nodev1.Progress, error) {
		p, err := stream.Recv()
		if quiet && p.GetMessage() == "" {
			return &nodev1.Progress{Image: p.GetImage()}, err
		}
		return p, err
	})
	if err != nil {
		cancel()
		select {
		case sendErr := <-sent:
			if sendErr != nil {
				return sendErr
			}
		default: // is still reading what nobody wants
		}
		return err
	}
	return <-sent
}

func importCommand(flags *client.Flags) *cobra.Command {
	request := &nodev1.ImportRequest{}
	cmd := &cobra.Command{
		Use:     "import [OPTIONS] FILE|- [REPOSITORY[:TAG]]",
		Short:   "Make an image of the tar of a root file system",
		Long:    "Make an image of one layer out of the tar of a root file system, such as export writes; plain, gzip or zstd.",
		Example: "  cri-node export web | cri-node import -c 'CMD [\"nginx\"]' - web:flat\n  cri-node import rootfs.tar.gz debian:mine",
		Args:    argument.Between(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.Contains(args[0], "://") {
				return fmt.Errorf("%s is an address: get it first, as with curl, and import it from - (standard input)", args[0])
			}
			in, err := input(cmd, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			if len(args) > 1 {
				request.Image = args[1]
			}
			if request.Message == "" {
				request.Message = "Imported from " + args[0]
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				stream, err := n.Images.Import(ctx)
				if err != nil {
					return err
				}
				if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				if err := send(in, func(b []byte) error { return stream.Send(&nodev1.ImportRequest{Data: b}) }); err != nil {
					return err
				}
				r, err := stream.CloseAndRecv()
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), r.GetId())
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&request.Changes, "change", "c", nil, "Dockerfile `instruction` for the image: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, WORKDIR ...")
	f.StringVarP(&request.Message, "message", "m", "", "what the history says of it")
	f.StringVar(&request.Platform, "platform", "", "what it is for, `OS/ARCH`; default this machine")
	return cmd
}
