package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// row is a container as `compose ps` shows it.
type row struct {
	ID, Name, Image, Command, Service, CreatedAt, Status, State, Health, Ports string
	ExitCode                                                                   int32
}

func (c *command) ps() *cobra.Command {
	var all, services bool
	var o output.Options
	cmd := &cobra.Command{
		Use: "ps [SERVICE...]", Short: "List the containers of a project", Example: "  cri-node compose ps -a", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.run(func(n *client.Node) error {
				containers, err := c.containers(cmd.Context(), n, names, all)
				if err != nil {
					return err
				}
				if services {
					return printServices(cmd.OutOrStdout(), containers)
				}
				return printContainers(cmd.OutOrStdout(), containers, o)
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those that do not run too")
	cmd.Flags().BoolVar(&services, "services", false, "print services only")
	o.AddListFlags(cmd.Flags())
	return cmd
}

// containers of the named services, or of all; a project whose file is gone still
// has them.
func (c *command) containers(ctx context.Context, n *client.Node, services []string, all bool) ([]*nodev1.Container, error) {
	name, p, err := c.source.projectName(ctx)
	if err != nil {
		return nil, err
	}
	found, err := list(ctx, n, name)
	if err != nil {
		return nil, err
	}
	if len(services) == 0 {
		services = slices.Sorted(maps.Keys(found))
	}
	var containers []*nodev1.Container
	for _, service := range services {
		if p != nil {
			_, active := p.Services[service]
			_, disabled := p.DisabledServices[service]
			if !active && !disabled && len(found[service]) == 0 {
				return nil, fmt.Errorf("no such service: %s", service)
			}
		}
		for _, one := range found[service] {
			if all || running(one) || one.GetState() == "restarting" {
				containers = append(containers, one)
			}
		}
	}
	return containers, nil
}

func printServices(w io.Writer, containers []*nodev1.Container) error {
	var names []string
	for _, c := range containers {
		names = append(names, c.GetLabels()[labelService])
	}
	for _, name := range slices.Compact(names) {
		if _, err := fmt.Fprintln(w, name); err != nil {
			return err
		}
	}
	return nil
}

func printContainers(w io.Writer, all []*nodev1.Container, o output.Options) error {
	now := time.Now()
	list := output.List[row]{
		Columns: []output.Column{
			{Field: "Name", Header: "NAME"},
			{Field: "Image", Header: "IMAGE"},
			{Field: "Command", Header: "COMMAND"},
			{Field: "Service", Header: "SERVICE"},
			{Field: "CreatedAt", Header: "CREATED"},
			{Field: "Status", Header: "STATUS"},
			{Field: "Ports", Header: "PORTS"},
			{Field: "ID", Header: "CONTAINER ID", Hidden: true},
			{Field: "State", Header: "STATE", Hidden: true},
			{Field: "Health", Header: "HEALTH", Hidden: true},
			{Field: "ExitCode", Header: "EXIT CODE", Hidden: true},
		},
		Key: "ID",
		Raw: all,
	}
	for _, c := range all {
		id, command := c.GetId(), strconv.Quote(strings.Join(c.GetCommand(), " "))
		if !o.NoTrunc {
			id, command = output.ShortID(id), output.Ellipsis(command, 20)
		}
		list.Rows = append(list.Rows, row{
			ID: id, Name: c.GetName(), Image: c.GetImage(), Command: command, Service: c.GetLabels()[labelService],
			CreatedAt: output.Ago(now, time.Unix(0, c.GetCreatedAt())), Status: containers.StatusWords(c, now),
			State: c.GetState(), Health: c.GetHealth(), Ports: containers.PortWords(c.GetPorts()), ExitCode: c.GetExitCode(),
		})
	}
	return list.Print(w, o)
}

func (c *command) logs() *cobra.Command {
	var follow, timestamps, plain bool
	var tail string
	cmd := &cobra.Command{
		Use: "logs [SERVICE...]", Short: "Print the logs of services", Example: "  cri-node compose logs -f --tail 20 web", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.run(func(n *client.Node) error {
				containers, err := c.containers(cmd.Context(), n, names, true)
				if err != nil {
					return err
				}
				l := &logPrinter{node: n, out: cmd.OutOrStdout(), plain: plain, timestamps: timestamps, follow: follow}
				if tail != "" && tail != "all" {
					lines, err := strconv.ParseInt(tail, 10, 64)
					if err != nil {
						return fmt.Errorf("--tail %s is no number of lines", tail)
					}
					l.tail = &lines
				}
				return l.print(cmd.Context(), containers)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on as long as the containers run")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "print when a line was written")
	f.BoolVar(&plain, "no-log-prefix", false, "do not print whose line it is")
	f.StringVarP(&tail, "tail", "n", "all", "how many `lines` of each from the end")
	return cmd
}

func (c *command) exec() *cobra.Command {
	var noTTY, detach, privileged bool
	var env []string
	var workdir, user string
	var index int
	cmd := &cobra.Command{
		Use: "exec SERVICE COMMAND [ARG...]", Short: "Run a command in a container of a service",
		Example: "  cri-node compose exec db psql -U postgres\n  cri-node compose exec -T web cat /etc/hosts",
		Args:    argument.AtLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.run(func(n *client.Node) error {
				containers, err := c.containers(cmd.Context(), n, args[:1], false)
				if err != nil {
					return err
				}
				at := slices.IndexFunc(containers, func(one *nodev1.Container) bool { return index == 0 || number(one) == index })
				if at < 0 {
					return fmt.Errorf("service %q is not running", args[0])
				}
				streams := terminal.Streams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
				tty := !noTTY && !detach && terminal.Is(streams.In) && terminal.Is(streams.Out)
				return runExec(cmd.Context(), n, streams, &nodev1.ExecOpen{
					Container: containers[at].GetId(), Command: args[1:], Stdin: !detach, Tty: tty, Detach: detach,
					Env: env, Workdir: workdir, User: user, Privileged: privileged,
				})
			})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&noTTY, "no-tty", "T", false, "without a terminal")
	f.BoolVarP(&detach, "detach", "d", false, "leave the command in the background")
	f.BoolVar(&privileged, "privileged", false, "give the command all privileges")
	f.StringArrayVarP(&env, "env", "e", nil, "`NAME=VALUE` in its environment")
	f.StringVarP(&workdir, "workdir", "w", "", "its working `directory`")
	f.StringVarP(&user, "user", "u", "", "`user` to run as")
	f.IntVar(&index, "index", 0, "`number` of the service's container")
	return cmd
}

// execConn is an Exec as a terminal's session wants it.
type execConn struct {
	nodev1.Containers_ExecClient
}

func (e execConn) Send(m terminal.Message) error {
	return e.Containers_ExecClient.Send(&nodev1.ExecRequest{Stdin: m.Stdin, StdinClosed: m.StdinClosed, Size: m.Size, Signal: m.Signal})
}

// runExec runs a command in a container with the terminal's streams; its exit code
// is the error's.
func runExec(ctx context.Context, n *client.Node, streams terminal.Streams, open *nodev1.ExecOpen) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.Containers.Exec(ctx)
	if err != nil {
		return err
	}
	if open.GetTty() {
		open.Size = streams.TerminalSize()
	}
	if err := stream.Send(&nodev1.ExecRequest{Open: open}); err != nil {
		return err
	}
	session := &terminal.Session{Streams: streams, Stdin: open.GetStdin(), TTY: open.GetTty(), Signals: true}
	exit, err := session.Run(ctx, execConn{stream})
	switch {
	case err != nil:
		return err
	case exit.GetError() != "":
		return &client.ExitError{Code: int(exit.GetCode()), Err: errors.New(exit.GetError())}
	case exit.GetCode() != 0:
		return &client.ExitError{Code: int(exit.GetCode())}
	}
	return nil
}
