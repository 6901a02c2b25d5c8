package containers

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
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
)

// copyOptions are the flags of cp.
type copyOptions struct {
	archive, follow, quiet bool
}

func cpCommand(flags *client.Flags) *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:PATH PATH|-\n  cri-node cp [OPTIONS] PATH|- CONTAINER:PATH",
		Short: "Copy files into and out of a container",
		Long: "Copy files between a container, running or not, and this machine. A directory is copied with all in it;\n" +
			"DIR/. copies what is in it. If the destination is a directory the source goes into it, else it gets that\n" +
			"name. - stands for a tar on stdin or stdout. Symbolic links inside a container never lead out of it.",
		Example:           "  cri-node cp web:/etc/nginx/nginx.conf .\n  cri-node cp site/. web:/usr/share/nginx/html\n  cri-node cp web:/var/log - | tar t",
		Args:              argument.Exactly(2),
		ValidArgsFunction: completePaths(flags),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := parseCopyArg(args[0]), parseCopyArg(args[1])
			switch {
			case from.container != "" && to.container != "":
				return errors.New("copying between containers is not supported")
			case from.container == "" && to.container == "":
				return errors.New("must specify at least one container source: CONTAINER:PATH")
			case from.path == "" || to.path == "":
				return errors.New("the path must not be empty")
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				if from.container != "" {
					return o.out(ctx, n, cmd, from, to.path)
				}
				return o.in(ctx, n, cmd, from.path, to)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.archive, "archive", "a", false, "keep uid and gid")
	f.BoolVarP(&o.follow, "follow-link", "L", false, "follow a symbolic link that is the source")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not say what was copied")
	return cmd
}

func completePaths(flags *client.Flags) complete.Func {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if strings.ContainsAny(toComplete, "/.") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		names, _ := complete.Any(flags, 0)(cmd, nil, toComplete)
		for i, n := range names {
			name, description, _ := strings.Cut(n, "\t")
			names[i] = name + ":\t" + description
		}
		return names, cobra.ShellCompDirectiveNoSpace
	}
}

// place is a path, of a container or of this machine.
type place struct{ container, path string }

// parseCopyArg tells CONTAINER:PATH from a path: what begins with / or . is one.
func parseCopyArg(s string) place {
	if s == "" || s[0] == '/' || s[0] == '.' {
		return place{path: s}
	}
	container, path, ok := strings.Cut(s, ":")
	if !ok {
		return place{path: s}
	}
	return place{container: container, path: path}
}

// saysDirectory: the path can only be a directory.
func saysDirectory(path string) bool {
	return path == "." || path == ".." || strings.HasSuffix(path, "/") || strings.HasSuffix(path, "/.") || strings.HasSuffix(path, "/..")
}

// saysContent: what is in the directory is meant, and not itself.
func saysContent(path string) bool { return path == "." || strings.HasSuffix(path, "/.") }

// dirOf is the directory of a path, as it is written.
func dirOf(path string) string { return filepath.Dir(filepath.Clean(path)) }

// out copies out of a container.
func (o *copyOptions) out(ctx context.Context, n *client.Node, cmd *cobra.Command, from place, to string) error {
	if to == "-" && terminal.Is(cmd.OutOrStdout()) {
		return errors.New("refusing to write a tar to a terminal: redirect it")
	}
	stat, reader, err := copyFrom(ctx, n, from, o.follow || saysDirectory(from.path))
	if err != nil {
		return err
	}
	if saysDirectory(from.path) && !isDirectory(stat) {
		return fmt.Errorf("%s is not a directory", from.path)
	}
	if to == "-" {
		_, err := io.Copy(cmd.OutOrStdout(), reader)
		return err
	}
	u, err := planOut(stat.GetName(), isDirectory(stat), from.path, to)
	if err != nil {
		return err
	}
	u.keepOwner = o.archive
	size, err := u.unpack(reader)
	if err != nil {
		return err
	}
	o.say(cmd, size, to)
	return nil
}

// in copies into a container.
func (o *copyOptions) in(ctx context.Context, n *client.Node, cmd *cobra.Command, from string, to place) error {
	target, err := resolveTarget(ctx, n, to)
	if err != nil {
		return err
	}
	if from == "-" {
		if !target.exists || !target.isDir {
			return fmt.Errorf("destination %q must be a directory", to.container+":"+to.path)
		}
		return copyTo(ctx, n, place{to.container, to.path}, o.archive, func(w io.Writer) error {
			_, err := io.Copy(w, cmd.InOrStdin())
			return err
		})
	}
	info, err := os.Lstat(from)
	if err == nil && (o.follow || saysDirectory(from)) {
		info, err = os.Stat(from)
	}
	if err != nil {
		return err
	}
	dir, name, err := planIn(filepath.Base(absolute(from)), info.IsDir(), from, to.path, target)
	if err != nil {
		return err
	}
	var size int64
	err = copyTo(ctx, n, place{to.container, dir}, o.archive, func(w io.Writer) error {
		size, err = pack(w, from, name, o.follow || saysDirectory(from))
		return err
	})
	if err != nil {
		return err
	}
	o.say(cmd, size, to.container+":"+to.path)
	return nil
}

func absolute(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// say tells a person, and nobody else, what was copied.
func (o *copyOptions) say(cmd *cobra.Command, size int64, to string) {
	if !o.quiet && terminal.Is(cmd.ErrOrStderr()) {
		fmt.Fprintf(cmd.ErrOrStderr(), "Successfully copied %s to %s\n", output.Size(size), to)
	}
}
