package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/complete"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// EventsCommand is `cri-node events`.
func EventsCommand(flags *client.Flags) *cobra.Command {
	var since, until, format string
	var filter []string
	cmd := &cobra.Command{
		Use:   "events [OPTIONS]",
		Short: "Print what happens to containers, images, pods and volumes",
		Long: "Print what happens from now on. Filters: type, event, container, image, pod, volume, label. A template can\n" +
			"name .Time .Type .Action .ID .Name .Attributes.",
		Example:           "  cri-node events --since 10m --until 0s\n  cri-node events --filter event=die --format '{{.Name}} {{.Attributes.exitCode}}'",
		Args:              argument.None(),
		ValidArgsFunction: complete.Words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := parseEventFilters(filter)
			if err != nil {
				return err
			}
			request := &nodev1.EventsRequest{}
			now := time.Now()
			if request.Since, err = argument.Time(since, now); err != nil {
				return fmt.Errorf("--since: %w", err)
			}
			if request.Until, err = argument.Time(until, now); err != nil {
				return fmt.Errorf("--until: %w", err)
			}
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				stream, err := n.Containers.Events(ctx, request)
				if err != nil {
					return err
				}
				for {
					e, err := stream.Recv()
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					if !f.match(e) {
						continue
					}
					if err := printEvent(cmd.OutOrStdout(), format, e); err != nil {
						return err
					}
				}
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&since, "since", "", "begin with what happened since a `time`, or so long ago (10m)")
	fl.StringVar(&until, "until", "", "end at a `time`")
	fl.StringVar(&format, "format", "", "print with a Go `template`, or json for an object a line")
	fl.StringArrayVarP(&filter, "filter", "f", nil, "those with `KEY=VALUE` only")
	_ = cmd.RegisterFlagCompletionFunc("filter", complete.Keys(eventFilterKeys()...)) // the flag is there, see above
	return cmd
}

// eventFilters are the values of each key; one of them must match.
type eventFilters map[string][]string

func eventFilterKeys() []string {
	return []string{"type", "event", "container", "image", "pod", "volume", "label"}
}

func parseEventFilters(all []string) (eventFilters, error) {
	f := make(eventFilters)
	for _, s := range all {
		key, value, err := argument.Filter(s, eventFilterKeys()...)
		if err != nil {
			return nil, err
		}
		f[key] = append(f[key], value)
	}
	return f, nil
}

func (f eventFilters) match(e *nodev1.Event) bool {
	for key, values := range f {
		if !slices.ContainsFunc(values, func(v string) bool { return eventHas(e, key, v) }) {
			return false
		}
	}
	return true
}

func eventHas(e *nodev1.Event, key, value string) bool {
	switch key {
	case "type":
		return e.GetType() == value
	case "event":
		// health_status: healthy and exec_start: sh have more to them
		return e.GetAction() == value || strings.HasPrefix(e.GetAction(), value+":")
	case "label":
		return argument.HasLabel(e.GetAttributes(), value)
	case "image":
		if e.GetType() == "container" {
			return familiar(e.GetAttributes()["image"]) == familiar(value)
		}
	}
	return e.GetType() == key && (e.GetName() == value || strings.HasPrefix(e.GetId(), value))
}

// event is what a template can name.
type event struct {
	Time         int64 `json:"time"`
	Type, Action string
	ID           string
	Name         string
	Attributes   map[string]string
	Status, From string `json:"-"` // older names of docker's
	TimeNano     int64  `json:"timeNano"`
}

func printEvent(w io.Writer, format string, e *nodev1.Event) error {
	if format != "" {
		l := output.List[event]{Rows: []event{{
			Time: e.GetTime() / int64(time.Second), TimeNano: e.GetTime(), Type: e.GetType(), Action: e.GetAction(), ID: e.GetId(),
			Name: e.GetName(), Attributes: e.GetAttributes(), Status: e.GetAction(), From: e.GetAttributes()["image"],
		}}}
		return l.Print(w, output.Options{Format: format})
	}
	attributes := make([]string, 0, len(e.GetAttributes())+1)
	all := maps.Clone(e.GetAttributes())
	if all == nil {
		all = map[string]string{}
	}
	if e.GetName() != "" {
		all["name"] = e.GetName()
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		attributes = append(attributes, k+"="+all[k])
	}
	line := fmt.Sprintf("%s %s %s %s", time.Unix(0, e.GetTime()).Format(timeFormat), e.GetType(), e.GetAction(), e.GetId())
	if len(attributes) > 0 {
		line += " (" + strings.Join(attributes, ", ") + ")"
	}
	_, err := fmt.Fprintln(w, line)
	return err
}
