package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func (c *command) logs() *cobra.Command {
	var follow, timestamps, plain, colorless bool
	var tail, since, until string
	var index int
	cmd := &cobra.Command{
		Use: "logs [SERVICE...]", Short: "Print the logs of services", Example: "  cri-node compose logs -f --tail 20 web", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.run(func(n *client.Node) error {
				containers, err := c.containers(cmd.Context(), n, names, true)
				if err != nil {
					return err
				}
				if index != 0 {
					containers = slices.DeleteFunc(containers, func(one *nodev1.Container) bool { return number(one) != index })
				}
				l := &logPrinter{node: n, out: cmd.OutOrStdout(), plain: plain, colorless: colorless, timestamps: timestamps, follow: follow}
				if l.bounds, err = logBounds(tail, since, until); err != nil {
					return err
				}
				return l.print(cmd.Context(), containers)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on as long as the containers run")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "print when a line was written")
	f.BoolVar(&plain, "no-log-prefix", false, "do not print whose line it is")
	f.BoolVar(&colorless, "no-color", false, "print names without colours")
	f.StringVarP(&tail, "tail", "n", "all", "how many `lines` of each from the end")
	f.StringVar(&since, "since", "", "what was written since a `time` (2026-01-02T15:04:05) or for so long (10m)")
	f.StringVar(&until, "until", "", "what was written before a `time`, or so long ago")
	f.IntVar(&index, "index", 0, "`number` of the service's container")
	return cmd
}

// logBounds says which part of logs is meant.
func logBounds(tail, since, until string) (*nodev1.LogsRequest, error) {
	r := &nodev1.LogsRequest{}
	return r, containers.LogsBounds(r, tail, since, until, time.Now())
}

// logPrinter prints the logs of several containers, each line with its name.
type logPrinter struct {
	node              *client.Node
	out               io.Writer
	plain, timestamps bool
	follow            bool
	colorless         bool
	bounds            *nodev1.LogsRequest

	mu sync.Mutex // orders lines
}

// colors of names on a terminal.
var colors = []string{"36", "33", "32", "35", "34", "96", "93", "92", "95", "94"}

// print returns when all logs have been printed, with follow when the containers
// have exited.
func (l *logPrinter) print(ctx context.Context, containers []*nodev1.Container) error {
	width := 0
	for _, c := range containers {
		width = max(width, len(c.GetName()))
	}
	colored := terminal.Colors(l.out) && !l.colorless
	errs := make([]error, len(containers))
	var group sync.WaitGroup
	for i, c := range containers {
		prefix := ""
		if !l.plain {
			prefix = fmt.Sprintf("%-*s | ", width, c.GetName())
			if colored {
				prefix = "\x1b[" + colors[i%len(colors)] + "m" + prefix + "\x1b[0m"
			}
		}
		group.Go(func() { errs[i] = l.container(ctx, c, prefix) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// container prints the log of one.
func (l *logPrinter) container(ctx context.Context, c *nodev1.Container, prefix string) error {
	stream, err := l.node.Containers.Logs(ctx, &nodev1.LogsRequest{
		Container: c.GetId(), Follow: l.follow, Tail: l.bounds.Tail, Since: l.bounds.GetSince(), Until: l.bounds.GetUntil(),
	})
	if err != nil {
		return err
	}
	var begun bytes.Buffer // of a line that goes on
	for {
		answer, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF), ctx.Err() != nil, gone(err):
			return l.flush(&begun)
		case err != nil:
			return fmt.Errorf("logs of %s: %w", c.GetName(), err)
		}
		for _, line := range answer.GetLines() {
			if begun.Len() == 0 {
				begun.WriteString(prefix)
				if l.timestamps {
					begun.WriteString(time.Unix(0, line.GetTime()).UTC().Format(time.RFC3339Nano) + " ")
				}
			}
			begun.Write(bytes.TrimSuffix(line.GetText(), []byte("\n")))
			if line.GetPartial() {
				continue
			}
			if err := l.flush(&begun); err != nil {
				return err
			}
		}
	}
}

// flush prints a line, if there is one.
func (l *logPrinter) flush(line *bytes.Buffer) error {
	if line.Len() == 0 {
		return nil
	}
	line.WriteByte('\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.out.Write(line.Bytes())
	line.Reset()
	return err
}
