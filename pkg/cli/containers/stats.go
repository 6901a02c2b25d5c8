package containers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// interval is the time between two measurements of stats.
const interval = time.Second

// statsOptions are the flags of stats.
type statsOptions struct {
	output.Options
	all, once bool
}

func statsCommand(flags *client.Flags) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:               "stats [OPTIONS] [CONTAINER...]",
		Short:             "Show what containers use, renewed each second",
		Example:           "  cri-node stats\n  cri-node stats --no-stream --format '{{.Name}}: {{.CPUPerc}}' web",
		Args:              argument.AtLeast(0),
		ValidArgsFunction: complete.Running(flags, 0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				return o.run(ctx, n, cmd.OutOrStdout(), args)
			})
		},
	}
	f := cmd.Flags()
	o.AddFlags(f)
	f.BoolVar(&o.NoTrunc, "no-trunc", false, "print ids in full")
	f.BoolVarP(&o.all, "all", "a", false, "also containers that do not run")
	f.BoolVar(&o.once, "no-stream", false, "measure once and end")
	return cmd
}

// run measures and prints until the context ends. A share of a CPU takes two
// measurements.
func (o *statsOptions) run(ctx context.Context, n *client.Node, w io.Writer, names []string) error {
	before, err := o.measure(ctx, n, names)
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := o.measure(ctx, n, names)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := o.list(before, now).Print(&text, o.Options); err != nil {
			return err
		}
		out := text.Bytes()
		if width, height, ok := terminal.Size(w); ok && !o.once && terminal.Draws(w) {
			out = screen(text.String(), int(width), int(height))
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
		if o.once {
			return nil
		}
		before = now
	}
}

// screen draws text over what a terminal shows, without a moment in which it is
// empty, and as much of it as there is room for. Where the room is not known it
// is all of it.
func screen(text string, width, height int) []byte {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if height > 1 {
		lines = lines[:min(len(lines), height-1)]
	}
	b := []byte("\x1b[H") // top left
	for _, line := range lines {
		if width > 0 {
			line = output.Ellipsis(line, width)
		}
		b = append(b, line+"\x1b[K\n"...)
	}
	return append(b, "\x1b[J"...)
}

// measure asks for the containers named, or for those that run, or for all.
func (o *statsOptions) measure(ctx context.Context, n *client.Node, names []string) (*nodev1.StatsResponse, error) {
	for {
		request := &nodev1.StatsRequest{Containers: names}
		everything := o.all && len(names) == 0
		if everything {
			r, err := n.Containers.List(ctx, &nodev1.ListRequest{})
			if err != nil {
				return nil, err
			}
			for _, c := range r.GetContainers() {
				request.Containers = append(request.Containers, c.GetId())
			}
			if len(request.GetContainers()) == 0 {
				return &nodev1.StatsResponse{}, nil
			}
		}
		r, err := n.Containers.Stats(ctx, request)
		if everything && client.IsNotFound(err) {
			continue // one went away since it was listed
		}
		return r, err
	}
}

// usage is a row of stats.
type usage struct {
	Container, ID, Name, CPUPerc, MemUsage, MemPerc, NetIO, BlockIO, PIDs string
}

func (o *statsOptions) list(before, now *nodev1.StatsResponse) output.List[usage] {
	l := output.List[usage]{
		Key: "ID",
		Raw: append([]*nodev1.Usage{}, now.GetUsages()...),
		Columns: []output.Column{
			{Field: "ID", Header: "CONTAINER ID"}, {Field: "Name", Header: "NAME"}, {Field: "CPUPerc", Header: "CPU %"},
			{Field: "MemUsage", Header: "MEM USAGE / LIMIT"}, {Field: "MemPerc", Header: "MEM %"}, {Field: "NetIO", Header: "NET I/O"},
			{Field: "BlockIO", Header: "BLOCK I/O"}, {Field: "PIDs", Header: "PIDS"},
			{Field: "Container", Header: "CONTAINER", Hidden: true},
		},
	}
	for _, u := range now.GetUsages() {
		i := slices.IndexFunc(before.GetUsages(), func(b *nodev1.Usage) bool { return b.GetId() == u.GetId() })
		var earlier *nodev1.Usage
		if i >= 0 {
			earlier = before.GetUsages()[i]
		}
		l.Rows = append(l.Rows, o.row(earlier, u, now.GetMachineMemory()))
	}
	return l
}

// row has the machine's memory where a container has no limit of its own.
func (o *statsOptions) row(before, now *nodev1.Usage, machine uint64) usage {
	u := usage{
		Container: now.GetId(), ID: now.GetId(), Name: now.GetName(), CPUPerc: "--", MemPerc: "--",
		NetIO:   output.Size(int64(now.GetNetworkReceived())) + " / " + output.Size(int64(now.GetNetworkSent())),
		BlockIO: output.Size(int64(now.GetBlockRead())) + " / " + output.Size(int64(now.GetBlockWritten())),
		PIDs:    fmt.Sprint(now.GetPids()),
	}
	if !o.NoTrunc {
		u.ID = output.ShortID(u.ID)
	}
	if now.GetNamespace() != "" && now.GetPod() != "" && !strings.Contains(u.Name, "/") {
		u.Name = now.GetPod() + "/" + u.Name
	}
	if elapsed := now.GetTime() - before.GetTime(); before != nil && elapsed > 0 && now.GetCpu() >= before.GetCpu() {
		u.CPUPerc = fmt.Sprintf("%.2f%%", 100*float64(now.GetCpu()-before.GetCpu())/float64(elapsed))
	}
	limit := now.GetMemoryLimit()
	if limit == 0 || machine > 0 && machine < limit {
		limit = machine
	}
	if limit > 0 {
		u.MemPerc = fmt.Sprintf("%.2f%%", 100*float64(now.GetMemory())/float64(limit))
	}
	u.MemUsage = output.BinarySize(int64(now.GetMemory())) + " / " + output.BinarySize(int64(limit))
	return u
}
