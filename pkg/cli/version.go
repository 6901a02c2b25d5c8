package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// versions are what a template of `version` can name.
type versions struct {
	Client struct{ Version, GoVersion, Os, Arch string }
	Server *server
}

type server struct{ Version, KernelVersion, Os, Arch string }

// WriteVersions prints the versions of this program and of the daemon with a
// template. Without a daemon it prints what there is, and ends with the reason.
func WriteVersions(cmd *cobra.Command, format, version string) error {
	var all versions
	all.Client.Version, all.Client.GoVersion, all.Client.Os, all.Client.Arch = version, runtime.Version(), runtime.GOOS, runtime.GOARCH
	flags := &client.Flags{Address: cmd.Flag("address").Value.String()}
	unreachable := flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
		r, err := n.System.Info(ctx, &nodev1.InfoRequest{})
		if err != nil {
			return err
		}
		var info struct{ ServerVersion, KernelVersion, OSType, Architecture string }
		if err := json.Unmarshal(r.GetJson(), &info); err != nil {
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		all.Server = &server{info.ServerVersion, info.KernelVersion, info.OSType, info.Architecture}
		return nil
	})
	document, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode versions: %w", err)
	}
	err = output.Objects(cmd.OutOrStdout(), format, [][]byte{document})
	if unreachable != nil && err != nil {
		return unreachable // the template wanted what is not there
	}
	return errors.Join(unreachable, err)
}
