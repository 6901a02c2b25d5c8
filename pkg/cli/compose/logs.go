package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/terminal"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// logPrinter prints the logs of several containers, each line with its name.
type logPrinter struct {
	node              *client.Node
	out               io.Writer
	plain, timestamps bool
	follow            bool
	tail              *int64
	since, until      int64

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
	colored := terminal.Is(l.out)
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
		Container: c.GetId(), Follow: l.follow, Tail: l.tail, Since: l.since, Until: l.until,
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
