package compose

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// publisher is a published port, in docker compose's words.
type publisher struct {
	URL           string
	TargetPort    uint32
	PublishedPort uint32
	Protocol      string
}

// row is a container as `compose ps` shows it.
type row struct {
	ID, Name, Names, Image, Command, Project, Service, CreatedAt, RunningFor, Status, State, Health, Labels, Networks, Ports string
	ExitCode                                                                                                                 int32
	Publishers                                                                                                               []publisher
}

func (c *command) ps() *cobra.Command {
	var all, services bool
	var statuses, filters []string
	var o output.Options
	cmd := &cobra.Command{
		Use: "ps [SERVICE...]", Short: "List the containers of a project", Example: "  cri-node compose ps -a", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			for _, f := range filters {
				status, ok := strings.CutPrefix(f, "status=")
				if !ok {
					return fmt.Errorf("--filter %s is unknown: it can be status=STATE", f)
				}
				statuses = append(statuses, status)
			}
			return c.run(func(n *client.Node) error {
				containers, err := c.containers(cmd.Context(), n, names, all || len(statuses) > 0)
				if err != nil {
					return err
				}
				if len(statuses) > 0 {
					containers = slices.DeleteFunc(containers, func(one *nodev1.Container) bool { return !slices.Contains(statuses, one.GetState()) })
				}
				if services {
					return printServices(cmd.OutOrStdout(), containers)
				}
				return printContainers(cmd.OutOrStdout(), containers, o)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "those too that do not run, and those of compose run")
	f.BoolVar(&services, "services", false, "print services only")
	f.StringArrayVar(&statuses, "status", nil, "those in a `state` only: running, exited, paused, restarting, created")
	f.StringArrayVar(&filters, "filter", nil, "status=`STATE`")
	o.AddListFlags(f)
	return cmd
}

// containers of the named services, or of all; a project whose file is gone still
// has them.
func (c *command) containers(ctx context.Context, n *client.Node, services []string, all bool) ([]*nodev1.Container, error) {
	name, p, err := c.source.projectName(ctx)
	if err != nil {
		return nil, err
	}
	found, oneOffs, err := listAll(ctx, n, name)
	if err != nil {
		return nil, err
	}
	if all {
		for _, one := range oneOffs {
			found[one.GetLabels()[labelService]] = append(found[one.GetLabels()[labelService]], one)
		}
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
			{Field: "RunningFor", Header: "CREATED"},
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
		command := strconv.Quote(strings.Join(c.GetCommand(), " "))
		if !o.NoTrunc {
			command = output.Ellipsis(command, 20)
		}
		r := row{
			ID: c.GetId(), Name: c.GetName(), Names: c.GetName(), Image: c.GetImage(), Command: command,
			Project: c.GetLabels()[labelProject], Service: c.GetLabels()[labelService],
			CreatedAt:  time.Unix(0, c.GetCreatedAt()).Format("2006-01-02 15:04:05 -0700 MST"),
			RunningFor: output.Ago(now, time.Unix(0, c.GetCreatedAt())), Status: containers.StatusWords(c, now),
			State: c.GetState(), Health: c.GetHealth(), Networks: strings.Join(c.GetNetworks(), ","), Ports: containers.PortWords(c),
			Labels: strings.Join(pairs(c.GetLabels()), ","), ExitCode: c.GetExitCode(), Publishers: []publisher{},
		}
		for _, p := range c.GetPorts() {
			if r.Ports == "" {
				break // it has exited
			}
			r.Publishers = append(r.Publishers, publisher{p.GetHostIp(), p.GetContainerPort(), p.GetHostPort(), p.GetProtocol()})
		}
		list.Rows = append(list.Rows, r)
	}
	return list.Print(w, o)
}
