package containers

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// psOptions are the flags of ps.
type psOptions struct {
	output.Options
	all, latest, size bool
	last              int
	filters           []string
}

func psCommand(flags *client.Flags) *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use:   "ps [OPTIONS]",
		Short: "List containers",
		Long: "List the containers that run, those of kubelet included: their names are POD/CONTAINER.\n\n" +
			"Filters: id, name, label, status, exited, ancestor, before, since, volume, network, publish, expose,\n" +
			"health, pod, namespace, kubernetes=true|false. A template can name .ID .Image .Command .CreatedAt\n" +
			".RunningFor .State .Status .Ports .Names .Labels .Label .Mounts .Networks .Size .Pod .Namespace\n" +
			".ExitCode .Health .IPs .Restarts .Pid .Runtime.",
		Example: "  cri-node ps -a\n  cri-node ps -q --filter status=exited --filter label=tier=front\n" +
			"  cri-node ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Ports}}'\n  cri-node ps -a -o json",
		Args:              argument.None(),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			f, err := parseFilters(o.filters)
			if err != nil {
				return err
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.Containers.List(ctx, &nodev1.ListRequest{Size: o.size})
				if err != nil {
					return err
				}
				chosen, err := o.choose(r.GetContainers(), f)
				if err != nil {
					return err
				}
				return o.list(chosen, time.Now()).Print(cmd.OutOrStdout(), o.Options)
			})
		},
	}
	fl := cmd.Flags()
	o.AddListFlags(fl)
	fl.BoolVarP(&o.all, "all", "a", false, "also containers that do not run")
	fl.BoolVarP(&o.latest, "latest", "l", false, "the newest container only, in any state")
	fl.IntVarP(&o.last, "last", "n", -1, "the `N` newest containers, in any state")
	fl.BoolVarP(&o.size, "size", "s", false, "measure what containers have written")
	fl.StringArrayVarP(&o.filters, "filter", "f", nil, "those with `KEY=VALUE` only")
	_ = cmd.RegisterFlagCompletionFunc("filter", complete.Keys(filterKeys()...)) // the flag is there, see above
	return cmd
}

// choose are the containers to print, the newest first.
func (o *psOptions) choose(all []*nodev1.Container, f filters) ([]*nodev1.Container, error) {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b *nodev1.Container) int {
		return int(max(-1, min(1, b.GetCreatedAt()-a.GetCreatedAt())))
	})
	matches, err := f.matcher(all)
	if err != nil {
		return nil, err
	}
	last := o.last
	if o.latest {
		last = 1
	}
	var chosen []*nodev1.Container
	for _, c := range all {
		wanted := o.all || last > 0 || f.anyState() || isUp(c)
		if wanted && matches(c) {
			chosen = append(chosen, c)
		}
	}
	if last > 0 {
		chosen = chosen[:min(last, len(chosen))]
	}
	return chosen, nil
}

func isUp(c *nodev1.Container) bool {
	return slices.Contains([]string{"running", "paused", "restarting"}, c.GetState())
}

// row is what ps and its templates show.
type row struct {
	ID, Image, Command, CreatedAt, RunningFor, State, Status, Ports, Names string
	Labels, Mounts, Networks, Size, LocalVolumes                           string
	Pod, Namespace, ExitCode, Health, IPs, Restarts, Pid, Runtime          string
	labels                                                                 map[string]string
}

// Label is the value of a label.
func (r row) Label(name string) string { return r.labels[name] }

// list is the table: pods have a column if there are any of kubelet's.
func (o *psOptions) list(containers []*nodev1.Container, now time.Time) output.List[row] {
	kubernetes := slices.ContainsFunc(containers, (*nodev1.Container).GetKubernetes)
	l := output.List[row]{
		Key: "ID",
		Raw: append([]*nodev1.Container{}, containers...),
		Columns: []output.Column{
			{Field: "ID", Header: "CONTAINER ID"}, {Field: "Image", Header: "IMAGE"}, {Field: "Command", Header: "COMMAND"},
			{Field: "RunningFor", Header: "CREATED"}, {Field: "Status", Header: "STATUS"}, {Field: "Ports", Header: "PORTS"},
			{Field: "Names", Header: "NAMES"}, {Field: "Namespace", Header: "NAMESPACE", Hidden: !kubernetes},
			{Field: "Size", Header: "SIZE", Hidden: !o.size},
			{Field: "CreatedAt", Header: "CREATED AT", Hidden: true}, {Field: "LocalVolumes", Header: "LOCAL VOLUMES", Hidden: true},
			{Field: "ExitCode", Header: "EXIT CODE", Hidden: true},
		},
	}
	for _, c := range containers {
		l.Rows = append(l.Rows, o.row(c, now))
	}
	return l
}

func (o *psOptions) row(c *nodev1.Container, now time.Time) row {
	created := time.Unix(0, c.GetCreatedAt())
	r := row{
		ID: output.ShortID(c.GetId()), Image: familiar(c.GetImage()), Command: commandWords(c.GetCommand()),
		CreatedAt: created.Format("2006-01-02 15:04:05 -0700 MST"), RunningFor: output.Ago(now, created),
		State: c.GetState(), Status: StatusWords(c, now), Ports: PortWords(c), Names: displayName(c),
		Networks: strings.Join(c.GetNetworks(), ","), Pod: c.GetPod(), Namespace: c.GetNamespace(),
		ExitCode: strconv.Itoa(int(c.GetExitCode())), Health: c.GetHealth(), IPs: strings.Join(c.GetIps(), ","),
		Restarts: strconv.FormatUint(uint64(c.GetRestarts()), 10), Pid: strconv.FormatInt(c.GetPid(), 10), Runtime: c.GetHandler(),
		labels: c.GetLabels(),
	}
	if !c.GetKubernetes() {
		r.Namespace = "" // its pod is nobody's concern
	}
	if o.size {
		r.Size = fmt.Sprintf("%s (virtual %s)", output.Size(c.GetSizeRw()), output.Size(c.GetSizeRootfs()))
	}
	if o.NoTrunc {
		r.ID = c.GetId()
	} else {
		r.Command = output.Ellipsis(r.Command, 20)
	}
	r.Command = strconv.Quote(r.Command)
	var mounts []string
	volumes := 0
	for _, m := range c.GetMounts() {
		if m.GetType() == "volume" {
			volumes++
		}
		name := m.GetSource()
		if !o.NoTrunc {
			name = output.Ellipsis(name, 15)
		}
		mounts = append(mounts, name)
	}
	r.Labels, r.Mounts, r.LocalVolumes = output.Labels(c.GetLabels()), strings.Join(mounts, ","), strconv.Itoa(volumes)
	return r
}

// commandWords are a command and its arguments, those with spaces in quotes.
func commandWords(command []string) string {
	words := slices.Clone(command)
	for i, w := range words {
		if i > 0 && strings.Contains(w, " ") {
			words[i] = "'" + w + "'"
		}
	}
	return strings.Join(words, " ")
}

// displayName is how a person can name the container: those of kubelet by pod.
func displayName(c *nodev1.Container) string {
	if c.GetKubernetes() && !strings.Contains(c.GetName(), "/") {
		return c.GetPod() + "/" + c.GetName()
	}
	return c.GetName()
}

// familiar leaves out of an image's name what docker leaves out.
func familiar(image string) string {
	image = strings.TrimPrefix(image, "docker.io/library/")
	if strings.HasPrefix(image, "sha256:") {
		return output.ShortID(image)
	}
	return strings.TrimPrefix(image, "docker.io/")
}

// StatusWords is the state in words.
func StatusWords(c *nodev1.Container, now time.Time) string {
	up := func() string { return "Up " + output.Duration(now.Sub(time.Unix(0, c.GetStartedAt()))) }
	ago := func() string { return output.Ago(now, time.Unix(0, c.GetFinishedAt())) }
	switch c.GetState() {
	case "running":
		switch c.GetHealth() {
		case "", "none":
			return up()
		case "starting":
			return up() + " (health: starting)"
		}
		return up() + " (" + c.GetHealth() + ")"
	case "paused":
		return up() + " (Paused)"
	case "restarting":
		return fmt.Sprintf("Restarting (%d) %s", c.GetExitCode(), ago())
	case "created":
		return "Created"
	case "exited":
		return fmt.Sprintf("Exited (%d) %s", c.GetExitCode(), ago())
	case "dead":
		return "Dead"
	}
	return c.GetState()
}

// PortWords are the ports of a container that has them, in docker's words.
func PortWords(c *nodev1.Container) string {
	if c.GetState() == "exited" || c.GetState() == "dead" {
		return ""
	}
	var words []string
	for _, p := range c.GetPorts() {
		inside := fmt.Sprintf("%d/%s", p.GetContainerPort(), protocolName(p))
		if p.GetHostPort() == 0 {
			words = append(words, inside)
			continue
		}
		for _, ip := range hostIPs(p) {
			words = append(words, net.JoinHostPort(ip, strconv.FormatUint(uint64(p.GetHostPort()), 10))+"->"+inside)
		}
	}
	return strings.Join(words, ", ")
}

func protocolName(p *nodev1.Port) string {
	if p.GetProtocol() == "" {
		return "tcp"
	}
	return strings.ToLower(p.GetProtocol())
}

// hostIPs are the addresses a port is published at.
func hostIPs(p *nodev1.Port) []string {
	if p.GetHostIp() == "" {
		return []string{"0.0.0.0", "::"}
	}
	return []string{p.GetHostIp()}
}
