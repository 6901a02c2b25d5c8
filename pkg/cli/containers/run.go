package containers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// runOptions are those of run and create that are not the container's.
type runOptions struct {
	Options
	pull, platform, cidFile string
	quiet                   bool
	detachKeys              string
	sigProxy                bool
	help                    bool
}

func (o *runOptions) addFlags(cmd *cobra.Command, flags *client.Flags) {
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the image is the command's
	o.AddFlags(f)
	f.StringVar(&o.pull, "pull", "missing", "get the image `always`, if missing, or never")
	f.StringVar(&o.platform, "platform", "", "`OS/ARCH` of the image, such as linux/arm64")
	f.StringVar(&o.cidFile, "cidfile", "", "write the container's id to a new `file`")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not show the progress of a pull")
	// -h is the hostname here, as with docker.
	f.BoolVar(&o.help, "help", false, "print this")
	addRefusedFlags(f)
	for name, with := range map[string]complete.Func{
		"pull":         complete.Words("always", "missing", "never"),
		"restart":      complete.Words("no", "on-failure", "always", "unless-stopped"),
		"network":      complete.Networks(flags),
		"volumes-from": complete.Any(flags, 1),
	} {
		_ = cmd.RegisterFlagCompletionFunc(name, with) // the flags are there, see above
	}
}

func runCommand(flags *client.Flags) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Make a container of an image and start it",
		Long: "Make a container of an image, in a pod of its own, and start it. The image is pulled if it is not\n" +
			"there. Without -d the command stays connected; ctrl-p ctrl-q leaves a terminal and lets it run. The\n" +
			"exit code is that of the container's process, 125 if it could not be made, 126 if its command cannot\n" +
			"be executed, 127 if it is not found, and 128+N if signal N ended it.",
		Example: "  cri-node run -it --rm ubuntu\n" +
			"  cri-node run -d --name web -p 8080:80 -v ./site:/usr/share/nginx/html:ro nginx\n" +
			"  echo hello | cri-node run -i --rm busybox cat\n" +
			"  cri-node run --rm -m 64m --cpus 0.5 -e GREETING=hi busybox sh -c 'echo $GREETING'",
		Args:              imageArgs,
		ValidArgsFunction: complete.Images(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				return o.run(ctx, n, cmd, args)
			})
			return startError(err)
		},
	}
	o.addFlags(cmd, flags)
	f := cmd.Flags()
	f.BoolVarP(&o.Detach, "detach", "d", false, "print the id and leave the container running")
	f.StringVar(&o.detachKeys, "detach-keys", terminal.DefaultDetachKeys, "`keys` that leave a container with a terminal")
	f.BoolVar(&o.sigProxy, "sig-proxy", true, "pass signals on to the container's process")
	return cmd
}

func createCommand(flags *client.Flags) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short:             "Make a container without starting it",
		Long:              "Make a container as run does, and print its id. `cri-node start` starts it.",
		Example:           "  cri-node create --name job busybox sh -c 'echo done'\n  cri-node start -a job",
		Args:              imageArgs,
		ValidArgsFunction: complete.Images(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				created, err := o.create(ctx, n, cmd, args)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), created.GetId())
				return nil
			})
		},
	}
	o.addFlags(cmd, flags)
	return cmd
}

// imageArgs wants an image.
func imageArgs(cmd *cobra.Command, args []string) error {
	if help, err := cmd.Flags().GetBool("help"); err == nil && help {
		return nil
	}
	if len(args) == 0 {
		return fmt.Errorf("%s requires at least 1 argument: the image\nSee '%s --help'", cmd.CommandPath(), cmd.CommandPath())
	}
	return nil
}

func (o *runOptions) run(ctx context.Context, n *client.Node, cmd *cobra.Command, args []string) error {
	keys, err := terminal.ParseKeys(o.detachKeys)
	if err != nil {
		return err
	}
	if o.Detach && len(o.Attach) > 0 {
		return errors.New("conflicting options: cannot specify both --attach and --detach")
	}
	to, err := o.attached()
	if err != nil {
		return err
	}
	to.streams, to.detachKeys, to.signals, to.tty, to.start = streams(cmd), keys, o.sigProxy, o.TTY, true
	if o.TTY && to.stdin && !o.Detach && !terminal.Is(to.streams.In) {
		return &client.ExitError{Code: 1, Err: errNoTerminal()}
	}
	created, err := o.create(ctx, n, cmd, args)
	if err != nil {
		return err
	}
	if o.Detach {
		fmt.Fprintln(cmd.OutOrStdout(), created.GetId())
		_, err := n.Containers.Start(ctx, &nodev1.StartRequest{Container: created.GetId()})
		return err
	}
	to.container = created.GetId()
	exit, detached, err := to.run(ctx, n)
	if err != nil || detached {
		return err
	}
	if o.Remove {
		// Whoever runs the same name next finds it free.
		if _, err := n.Containers.Wait(ctx, &nodev1.WaitRequest{Container: created.GetId(), Condition: "removed"}); err != nil && !client.IsNotFound(err) {
			return err
		}
	}
	return exitStatus(exit)
}

// attached says which streams are connected: those of -a, else stdout and
// stderr, and stdin with -i.
func (o *runOptions) attached() (attachment, error) {
	a := attachment{stdout: true, stderr: true, stdin: o.Interactive}
	if len(o.Attach) == 0 {
		return a, nil
	}
	a = attachment{}
	for _, name := range o.Attach {
		switch strings.ToLower(name) {
		case "stdin":
			a.stdin = true
		case "stdout":
			a.stdout = true
		case "stderr":
			a.stderr = true
		default:
			return a, fmt.Errorf("invalid argument %q for -a: valid streams are STDIN, STDOUT and STDERR", name)
		}
	}
	if a.stdin {
		o.Interactive = true
	}
	return a, nil
}

// create makes the container, and gets its image first if need be.
func (o *runOptions) create(ctx context.Context, n *client.Node, cmd *cobra.Command, args []string) (*nodev1.CreateResponse, error) {
	if !slices.Contains([]string{"always", "missing", "never"}, o.pull) {
		return nil, fmt.Errorf("invalid pull option: %q: must be one of always, missing or never", o.pull)
	}
	ports := Ports{Published: PublishedBy(ctx, n)}
	defer ports.Close()
	machine := ThisMachine(&ports)
	request, err := o.Request(machine, args[0], args[1:])
	if err != nil {
		return nil, err
	}
	id, err := newIDFile(o.cidFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = id.drop() }() // what drop cannot remove is an empty file
	warn(cmd, o.Warnings())
	if o.pull == "always" {
		if err := o.pullImage(ctx, n, cmd, args[0]); err != nil {
			return nil, err
		}
	}
	if err := o.askDaemon(ctx, n, cmd, request); err != nil {
		return nil, err
	}
	ports.Close() // they are the container's
	created, err := n.Containers.Create(ctx, request)
	if client.IsNotFound(err) && o.pull == "missing" && o.imageMissing(ctx, n, args[0]) {
		if !o.quiet {
			fmt.Fprintf(cmd.ErrOrStderr(), "Unable to find image '%s' locally\n", args[0])
		}
		if err := o.pullImage(ctx, n, cmd, args[0]); err != nil {
			return nil, err
		}
		created, err = n.Containers.Create(ctx, request)
	}
	if err != nil {
		return nil, err
	}
	warn(cmd, created.GetWarnings())
	return created, id.write(created.GetId())
}

// askDaemon completes a request with what only the daemon knows: the ports an
// image exposes, and the volumes of another container.
func (o *runOptions) askDaemon(ctx context.Context, n *client.Node, cmd *cobra.Command, request *nodev1.CreateRequest) error {
	image := request.GetContainer().GetImage().GetImage()
	if o.PublishAll && request.GetJoin() == "" && !request.GetNoNetwork() && !slices.Contains(o.Networks, "host") {
		if o.pull == "missing" && o.imageMissing(ctx, n, image) {
			if err := o.pullImage(ctx, n, cmd, image); err != nil {
				return err
			}
		}
		exposed, err := exposedPorts(ctx, n, image)
		if err != nil {
			return err
		}
		ports := Ports{Published: PublishedBy(ctx, n)}
		defer ports.Close()
		if err := Publish(request, ThisMachine(&ports), exposed); err != nil {
			return err
		}
	}
	for _, from := range o.VolumesFrom {
		if err := volumesFrom(ctx, n, request, from); err != nil {
			return err
		}
	}
	return nil
}

func (o *runOptions) imageMissing(ctx context.Context, n *client.Node, image string) bool {
	_, err := n.Images.Inspect(ctx, &nodev1.InspectImageRequest{Image: image})
	return client.IsNotFound(err)
}

func warn(cmd *cobra.Command, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), w)
	}
}

// idFile is the file of --cidfile, which is there before the container is.
type idFile struct {
	path    string
	file    *os.File
	written bool
}

func newIDFile(path string) (*idFile, error) {
	if path == "" {
		return &idFile{}, nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("create the container ID file: %w", err)
	}
	return &idFile{path: path, file: file}, nil
}

func (f *idFile) write(id string) error {
	if f.file == nil {
		return nil
	}
	f.written = true
	if _, err := f.file.WriteString(id); err != nil {
		return fmt.Errorf("write the container ID to the file: %w", err)
	}
	return nil
}

// drop closes the file, and removes it if there is no container.
func (f *idFile) drop() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	if !f.written {
		err = errors.Join(err, os.Remove(f.path))
	}
	return err
}
