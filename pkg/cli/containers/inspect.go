package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// InspectCommand is `cri-node inspect`, for containers, images, volumes and
// networks.
func InspectCommand(flags *client.Flags) *cobra.Command {
	var kind, format string
	var size bool
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short:             "Print all that is known of containers, images, volumes or networks, as JSON",
		Example:           "  cri-node inspect web\n  cri-node inspect -f '{{.Config.Cmd}}' ubuntu\n  cri-node inspect --type image -f '{{json .RootFS}}' busybox",
		Args:              argument.AtLeast(1),
		ValidArgsFunction: anything(flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(append([]string{""}, kinds()...), kind) {
				return fmt.Errorf("%q is not a valid value for --type: it can be %s", kind, strings.Join(kinds(), ", "))
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				result := failed{cmd: cmd, flags: flags}
				var documents [][]byte
				for _, name := range args {
					document, err := inspect(ctx, n, kind, name, size)
					if err != nil {
						result.report(err)
						continue
					}
					documents = append(documents, document)
				}
				if err := output.Objects(cmd.OutOrStdout(), format, documents); err != nil {
					return err
				}
				return result.err()
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&kind, "type", "", "look for a `container`, image, volume or network only")
	f.StringVarP(&format, "format", "f", "", "print with a Go `template`, or json in one line")
	f.BoolVarP(&size, "size", "s", false, "measure what a container has written")
	_ = cmd.RegisterFlagCompletionFunc("type", complete.Words(kinds()...)) // the flag is there
	return cmd
}

// kinds are what inspect knows, in the order in which it looks.
func kinds() []string { return []string{"container", "image", "volume", "network"} }

// InspectKind is the inspect of one kind of things, below the word for it.
func InspectKind(flags *client.Flags, kind, example string) *cobra.Command {
	cmd := InspectCommand(flags)
	cmd.Short = "Print all that is known of " + kind + "s, as JSON"
	cmd.Example = example
	cmd.ValidArgsFunction = map[string]complete.Func{
		"container": complete.Any(flags, 0), "image": complete.Images(flags, 0), "volume": complete.Volumes(flags),
		"network": complete.Networks(flags),
	}[kind]
	if err := cmd.Flags().Set("type", kind); err != nil {
		panic(err) // the flag is its own
	}
	_ = cmd.Flags().MarkHidden("type") // it is there, and says what the word before says
	return cmd
}

// anything completes containers and images.
func anything(flags *client.Flags) complete.Func {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		containers, _ := complete.Any(flags, 0)(cmd, args, toComplete)
		images, directive := complete.Images(flags, 0)(cmd, args, toComplete)
		return append(containers, images...), directive
	}
}

// inspect looks for a thing of each kind.
func inspect(ctx context.Context, n *client.Node, kind, name string, size bool) ([]byte, error) {
	for _, k := range kinds() {
		if kind != "" && kind != k {
			continue
		}
		document, err := inspectOne(ctx, n, k, name, size)
		switch {
		case err == nil:
			return document, nil
		case kind != "" || !notThis(err):
			return nil, err
		}
	}
	return nil, fmt.Errorf("no such object: %s", name)
}

// notThis: it is not there, cannot have such a name, or nobody knows of such
// things.
func notThis(err error) bool {
	code := status.Code(err)
	return code == codes.NotFound || code == codes.InvalidArgument || code == codes.Unimplemented || errors.Is(err, errNone)
}

// errNone is of a thing that is not in a list.
var errNone = errors.New("no such")

func inspectOne(ctx context.Context, n *client.Node, kind, name string, size bool) ([]byte, error) {
	switch kind {
	case "container":
		r, err := n.Containers.Inspect(ctx, &nodev1.InspectRequest{Container: name, Size: size})
		return r.GetJson(), err
	case "image":
		r, err := n.Images.Inspect(ctx, &nodev1.InspectImageRequest{Image: name})
		return r.GetJson(), err
	}
	if kind == "network" {
		return inspectNetwork(ctx, n, name)
	}
	r, err := n.System.ListVolumes(ctx, &nodev1.ListVolumesRequest{})
	if err != nil {
		return nil, err
	}
	for _, v := range r.GetVolumes() {
		if v.GetName() == name {
			return json.Marshal(volumeDocument(v))
		}
	}
	return nil, fmt.Errorf("%w volume: %s", errNone, name)
}
