package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func logsCommand(flags *client.Flags) *cobra.Command {
	var follow, timestamps, details bool
	var tail, since, until string
	cmd := &cobra.Command{
		Use:               "logs [OPTIONS] CONTAINER",
		Short:             "Print what a container has written",
		Example:           "  cri-node logs web\n  cri-node logs -f --tail 20 web\n  cri-node logs --since 10m -t web",
		Args:              argument.Exactly(1),
		ValidArgsFunction: complete.Any(flags, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &nodev1.LogsRequest{Container: args[0], Follow: follow}
			if err := LogsBounds(request, tail, since, until, time.Now()); err != nil {
				return err
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				stream, err := n.Containers.Logs(ctx, request)
				if err != nil {
					return err
				}
				return printLogs(logWriter{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), times: timestamps}, stream)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with what it writes from now on")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "print the time of each line")
	f.StringVarP(&tail, "tail", "n", "all", "how many `lines` of the end")
	f.StringVar(&since, "since", "", "what was written since a `time` (2026-01-02T15:04:05) or for so long (10m)")
	f.StringVar(&until, "until", "", "what was written before a `time`, or so long ago")
	f.BoolVar(&details, "details", false, "ignored: log lines have no more to them")
	_ = f.MarkHidden("details") // it is there, one line above
	return cmd
}

// LogsBounds puts --tail, --since and --until into a request.
func LogsBounds(request *nodev1.LogsRequest, tail, since, until string, now time.Time) error {
	if tail != "all" && tail != "" {
		lines, err := strconv.ParseInt(tail, 10, 64)
		if err != nil {
			return fmt.Errorf("invalid --tail %q: it is a number of lines, or all", tail)
		}
		if lines >= 0 { // below 0 is all, as with docker
			request.Tail = &lines
		}
	}
	var err error
	if request.Since, err = argument.Time(since, now); err != nil {
		return fmt.Errorf("invalid value for \"since\": %w", err)
	}
	if request.Until, err = argument.Time(until, now); err != nil {
		return fmt.Errorf("invalid value for \"until\": %w", err)
	}
	return nil
}

// logWriter prints lines where they belong, after their time if that is wanted.
// What it is given of one stream after another is written at once.
type logWriter struct {
	out, err io.Writer
	times    bool
	// inside says for stdout and stderr whether a line has begun.
	inside [2]bool
	// pending is for the stream that the last line was of.
	pending []byte
	stream  int
}

// timeFormat is docker's: RFC 3339 with all nine digits.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

func (w *logWriter) write(line *nodev1.LogLine) error {
	stream := 0
	if line.GetStderr() {
		stream = 1
	}
	if stream != w.stream {
		if err := w.flush(); err != nil {
			return err
		}
		w.stream = stream
	}
	if w.times && !w.inside[stream] {
		w.pending = time.Unix(0, line.GetTime()).UTC().AppendFormat(w.pending, timeFormat+" ")
	}
	w.inside[stream] = line.GetPartial()
	w.pending = append(w.pending, line.GetText()...)
	if !line.GetPartial() {
		w.pending = append(w.pending, '\n')
	}
	return nil
}

// flush writes what is pending.
func (w *logWriter) flush() error {
	if len(w.pending) == 0 {
		return nil
	}
	to := []io.Writer{w.out, w.err}[w.stream]
	_, err := to.Write(w.pending)
	w.pending = w.pending[:0]
	return err
}

func printLogs(w logWriter, stream nodev1.Containers_LogsClient) error {
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, line := range r.GetLines() {
			if err := w.write(line); err != nil {
				return err
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
}
