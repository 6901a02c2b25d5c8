package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// options are the flags of build.
type options struct {
	file          string
	tags          []string
	buildArgs     []string
	labels        []string
	target        string
	noCache       bool
	noCacheFilter []string
	pull          bool
	platforms     []string
	secrets       []string
	ssh           []string
	network       string
	addHosts      []string
	shmSize       string
	ulimits       []string
	contexts      []string
	output        string
	allow         []string
	progress      string
	quiet         bool
	iidFile       string
	metadataFile  string

	context string
}

// Command is `cri-node build`.
func Command(flags *client.Flags) *cobra.Command {
	o := &options{}
	c := &cobra.Command{
		Use:   "build [flags] CONTEXT",
		Short: "Build an image from a Dockerfile",
		Long: `Build an image from a Dockerfile.

CONTEXT is a directory, the files of which COPY and ADD find; "-" for a Dockerfile
or a tar with one on standard input; or the URL of a tar, of a Dockerfile, or of a
git repository. .dockerignore in it says what is not sent.`,
		Example: `  cri-node build -t web .
  cri-node build -t web -f docker/Dockerfile --build-arg VERSION=1.2 --target release .
  cri-node build -t web --secret id=token,src=token.txt .
  cri-node build -o out --target files .
  cri-node build - < Dockerfile`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("build needs exactly one CONTEXT, such as \".\": %d were given", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.context = args[0]
			return o.run(cmd, flags)
		},
		SilenceUsage: true,
	}
	f := c.Flags()
	f.StringVarP(&o.file, "file", "f", "", "`Dockerfile` (default CONTEXT/Dockerfile); - is standard input")
	f.StringArrayVarP(&o.tags, "tag", "t", nil, "`name` of the image, such as web:1.0")
	f.StringArrayVar(&o.buildArgs, "build-arg", nil, "`NAME=value` of an ARG; NAME alone takes it from the environment")
	f.StringArrayVar(&o.labels, "label", nil, "`NAME=value` of a label of the image")
	f.StringVar(&o.target, "target", "", "`stage` to build, not the last")
	f.BoolVar(&o.noCache, "no-cache", false, "build everything anew")
	f.StringSliceVar(&o.noCacheFilter, "no-cache-filter", nil, "`stages` to build anew")
	f.BoolVar(&o.pull, "pull", false, "look for newer base images")
	f.StringSliceVar(&o.platforms, "platform", nil, "`platform` of the image, such as linux/arm64")
	f.StringArrayVar(&o.secrets, "secret", nil, "secret for RUN --mount=type=secret: `id=ID,src=FILE` or id=ID,env=NAME")
	f.StringArrayVar(&o.ssh, "ssh", nil, "SSH agent for RUN --mount=type=ssh: `default` or ID=SOCKET")
	f.StringVar(&o.network, "network", "default", "`network` of RUN: default, none or host")
	f.StringArrayVar(&o.addHosts, "add-host", nil, "line of /etc/hosts for RUN: `HOST:IP`")
	f.StringVar(&o.shmSize, "shm-size", "", "`size` of /dev/shm for RUN, such as 128m")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "limit for RUN: `nofile=1024:2048`")
	f.StringArrayVar(&o.contexts, "build-context", nil, "named context: `NAME=DIRECTORY`, NAME=docker-image://IMAGE or NAME=https://...")
	f.StringVarP(&o.output, "output", "o", "", "what to make instead of an image: a `directory`, - for a tar, or type=local|tar|oci|docker,dest=PATH")
	f.StringSliceVar(&o.allow, "allow", nil, "let the Dockerfile have `entitlements`: network.host, security.insecure")
	f.StringVar(&o.progress, "progress", "auto", "how to show progress: `auto`, plain, tty or quiet")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print the id of the image only")
	f.StringVar(&o.iidFile, "iidfile", "", "write the id of the image to a `file`")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write what was built to a `file`, as JSON")
	return c
}

// run builds.
func (o *options) run(cmd *cobra.Command, flags *client.Flags) error {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	node, err := flags.Open()
	if err != nil {
		return err
	}
	defer func() { _ = node.Close() }() // all is said
	p, err := o.plan(cmd)
	if err != nil {
		return err
	}
	stream, err := node.Builder.Build(ctx)
	if err != nil {
		return errors.Join(flags.Explain(err), p.output.close(false))
	}
	show, err := newDisplay(o.mode(), cmd.ErrOrStderr())
	if err != nil {
		return errors.Join(err, p.output.close(false))
	}
	s := &session{stream: stream, plan: p, display: show}
	result, err := s.run(ctx)
	if err != nil {
		return explain(flags, err)
	}
	return o.finish(cmd, result)
}

// mode is how progress is shown.
func (o *options) mode() string {
	if o.quiet {
		return "quiet"
	}
	return o.progress
}

// explain keeps errors of this side as they are.
func explain(flags *client.Flags, err error) error {
	if local, ok := errors.AsType[*localError](err); ok {
		return local.err
	}
	return flags.Explain(err)
}

// finish prints and writes what was asked for.
func (o *options) finish(cmd *cobra.Command, r *nodev1.BuildResponse_Result) error {
	if o.quiet && r.GetImageId() != "" {
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), r.GetImageId()); err != nil {
			return err
		}
	}
	if o.iidFile != "" {
		if err := os.WriteFile(o.iidFile, []byte(r.GetImageId()), 0o644); err != nil { //nolint:gosec // nothing secret
			return err
		}
	}
	if o.metadataFile != "" {
		return writeMetadata(o.metadataFile, r)
	}
	return nil
}

// readStdin reads a Dockerfile from standard input.
func readStdin(in io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(in, maxDockerfile+1))
	if err != nil {
		return nil, fmt.Errorf("read Dockerfile from standard input: %w", err)
	}
	if len(b) > maxDockerfile {
		return nil, fmt.Errorf("the Dockerfile on standard input has more than %d bytes", maxDockerfile)
	}
	return b, nil
}

// maxDockerfile is what the daemon takes.
const maxDockerfile = 4 << 20

// IsURL reports whether a context is somewhere else.
func IsURL(s string) bool {
	for _, prefix := range []string{"http://", "https://", "git://", "git@", "ssh://", "github.com/"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// BuilderCommand is `cri-node builder`.
func BuilderCommand(flags *client.Flags) *cobra.Command {
	c := &cobra.Command{Use: "builder", Short: "Manage the cache of builds"}
	all, force := false, false
	prune := &cobra.Command{
		Use:   "prune [--all]",
		Short: "Remove results of earlier builds that no image has",
		Long: `Remove results of earlier builds that no image has, and directories of RUN
--mount=type=cache: those that no build of the last day has used, or all.`,
		Example: `  cri-node builder prune
  cri-node builder prune --all`,
		Args: argument.None(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			node, err := flags.Open()
			if err != nil {
				return err
			}
			defer func() { _ = node.Close() }() // all is said
			r, err := node.Builder.Prune(cmd.Context(), &nodev1.PruneBuildRequest{All: all})
			if err != nil {
				return flags.Explain(err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "Total reclaimed space:", human(r.GetReclaimed()))
			return err
		},
	}
	prune.Flags().BoolVarP(&all, "all", "a", false, "remove all, and not only what is older than a day")
	prune.Flags().BoolVarP(&force, "force", "f", false, "do not ask; there is nothing to ask, as all of it can be made again")
	c.AddCommand(prune)
	return c
}
