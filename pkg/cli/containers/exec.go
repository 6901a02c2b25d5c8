package containers

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// execOptions are the flags of exec.
type execOptions struct {
	detach, interactive, tty, privileged bool
	env, envFiles                        []string
	workdir, user, keys                  string
}

func execCommand(flags *client.Flags) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Run a command in a container that runs",
		Long: "Run a command in a container that runs, kubelet's included. The exit code is the command's, 126 if it\n" +
			"cannot be executed, 127 if it is not found.",
		Example:           "  cri-node exec -it web sh\n  cri-node exec -u root -e DEBUG=1 web env\n  tar c . | cri-node exec -i web tar x -C /srv",
		Args:              argument.AtLeast(2),
		ValidArgsFunction: complete.Running(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := o.request(args)
			if err != nil {
				return err
			}
			keys, err := terminal.ParseKeys(o.keys)
			if err != nil {
				return err
			}
			if o.tty && o.interactive && !o.detach && !terminal.Is(cmd.InOrStdin()) {
				return errNoTerminal()
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				return Exec(ctx, n, streams(cmd), request, keys)
			})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the container is the command's
	f.BoolVarP(&o.detach, "detach", "d", false, "do not wait for the command")
	f.BoolVarP(&o.interactive, "interactive", "i", false, "connect stdin")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	f.BoolVar(&o.privileged, "privileged", false, "give the command all capabilities")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set `NAME=VALUE`, or pass the client's NAME on")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "read variables from a `file`")
	f.StringVarP(&o.workdir, "workdir", "w", "", "working `directory` inside")
	f.StringVarP(&o.user, "user", "u", "", "`USER[:GROUP]`, names or numbers")
	f.StringVar(&o.keys, "detach-keys", terminal.DefaultDetachKeys, "`keys` that leave a command with a terminal")
	return cmd
}

func (o *execOptions) request(args []string) (*nodev1.ExecOpen, error) {
	env, err := ExecEnvironment(o.envFiles, o.env)
	if err != nil {
		return nil, err
	}
	return &nodev1.ExecOpen{
		Container: args[0], Command: args[1:], Stdin: o.interactive && !o.detach, Tty: o.tty, Detach: o.detach,
		Env: env, Workdir: o.workdir, User: o.user, Privileged: o.privileged,
	}, nil
}

// ExecEnvironment reads the variables that exec is given by --env-file and -e.
func ExecEnvironment(files, flags []string) ([]string, error) {
	env, err := environment(Machine{LookupEnv: os.LookupEnv, ReadFile: os.ReadFile}, files, flags)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range env {
		all = append(all, e.GetKey()+"="+string(e.GetValue()))
	}
	return all, nil
}

// Exec runs a command in a container with the streams of a person, until it has
// ended or the person leaves by the keys. Its exit code is the error's.
func Exec(ctx context.Context, n *client.Node, s terminal.Streams, request *nodev1.ExecOpen, keys []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.Containers.Exec(ctx)
	if err != nil {
		return err
	}
	if request.GetTty() {
		request.Size = s.TerminalSize()
	}
	if err := stream.Send(&nodev1.ExecRequest{Open: request}); err != nil {
		_, err = stream.Recv() // it has the reason
		return execError(err)
	}
	said := &lastWords{w: s.Err}
	s.Err = said
	session := terminal.Session{Streams: s, Stdin: request.GetStdin(), TTY: request.GetTty(), DetachKeys: keys}
	exit, detached, err := ended(session.Run(ctx, execConn{stream}))
	if err != nil || detached {
		return execError(err)
	}
	if exit.GetError() != "" && said.have(exit.GetError()) {
		// The OCI runtime has told already why there is no process.
		return &client.ExitError{Code: startCode(exit.GetError(), int(exit.GetCode()))}
	}
	return exitStatus(exit)
}

// lastWords passes on what is written, and remembers the end of it.
type lastWords struct {
	w   io.Writer
	end []byte
}

// wordsKept is more than an OCI runtime says.
const wordsKept = 4096

func (l *lastWords) Write(p []byte) (int, error) {
	l.end = append(l.end, p...)
	l.end = l.end[max(0, len(l.end)-wordsKept):]
	return l.w.Write(p)
}

func (l *lastWords) have(text string) bool {
	return strings.Contains(string(l.end), strings.TrimSpace(text))
}

// execError has docker's exit codes for a command that could not be started, and
// 1 for all else.
func execError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*client.ExitError](err); ok {
		return err
	}
	return &client.ExitError{Code: startCode(err.Error(), 1), Err: err}
}
