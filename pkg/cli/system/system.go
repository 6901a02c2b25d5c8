// Package system has the verbs about the node as a whole: what it is, what takes
// room, what nobody uses, how it is, and why something is as it is.
package system

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/containers"
	"github.com/cri-node/cri-node/pkg/cli/doctor"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/cli/prune"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Commands are the verbs: info, system, why and doctor.
func Commands(flags *client.Flags) []*cobra.Command {
	group := &cobra.Command{
		Use: "system", Short: "See and clean up what the node keeps", Args: argument.None(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	group.AddCommand(dfCommand(flags), pruneCommand(flags), infoCommand(flags), containers.EventsCommand(flags))
	return []*cobra.Command{infoCommand(flags), group, whyCommand(flags), doctorCommand(flags)}
}

func infoCommand(flags *client.Flags) *cobra.Command {
	var o output.Options
	cmd := &cobra.Command{
		Use: "info", Short: "Describe the node", Args: argument.None(),
		Example: "  cri-node info\n  cri-node info --format '{{.CgroupVersion}}'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.System.Info(ctx, &nodev1.InfoRequest{})
				if err != nil {
					return err
				}
				if done, err := printed(cmd, o, r.GetJson()); done || err != nil {
					return err
				}
				return printInfo(cmd, r.GetJson())
			})
		},
	}
	addFormat(cmd, &o)
	return cmd
}

// addFormat adds the flags of one object.
func addFormat(cmd *cobra.Command, o *output.Options) {
	cmd.Flags().StringVarP(&o.Format, "format", "f", "", "print with a Go `template`, or json for one line")
	cmd.Flags().StringVarP(&o.Output, "output", "o", "", "json prints all that is known")
}

// printed prints an object as its flags say, if they say something.
func printed(cmd *cobra.Command, o output.Options, text []byte) (bool, error) {
	if err := o.Check(); err != nil {
		return false, err
	}
	switch {
	case o.Output == "json":
		return true, output.JSON(cmd.OutOrStdout(), json.RawMessage(text))
	case o.Format != "":
		return true, output.Objects(cmd.OutOrStdout(), o.Format, [][]byte{text})
	}
	return false, nil
}

// printInfo prints an object line by line.
func printInfo(cmd *cobra.Command, text []byte) error {
	var info map[string]any
	if err := json.Unmarshal(text, &info); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(info)) {
		switch value := info[key].(type) {
		case []any:
			fmt.Fprintf(cmd.OutOrStdout(), "%s:\n", key)
			for _, v := range value {
				line, err := json.Marshal(v)
				if err != nil {
					return fmt.Errorf("print %s: %w", key, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "  %s\n", strings.Trim(string(line), `"`))
			}
		case float64:
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %.0f\n", key, value)
		default:
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %v\n", key, value)
		}
	}
	return nil
}

// usage is a line of `system df`.
type usage struct{ Type, TotalCount, Active, Size, Reclaimable string }

func dfCommand(flags *client.Flags) *cobra.Command {
	var verbose bool
	var o output.Options
	cmd := &cobra.Command{
		Use: "df", Short: "Show what takes room on the disk", Args: argument.None(),
		Example: "  cri-node system df\n  cri-node system df -v",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.System.DiskUsage(ctx, &nodev1.DiskUsageRequest{})
				if err != nil {
					return err
				}
				list := output.List[usage]{Key: "Type", Raw: r.GetKinds(), Columns: []output.Column{
					{Field: "Type", Header: "TYPE"}, {Field: "TotalCount", Header: "TOTAL"}, {Field: "Active", Header: "ACTIVE"},
					{Field: "Size", Header: "SIZE"}, {Field: "Reclaimable", Header: "RECLAIMABLE"},
				}}
				for _, k := range r.GetKinds() {
					list.Rows = append(list.Rows, usageOf(k))
				}
				if err := list.Print(cmd.OutOrStdout(), o); err != nil || !verbose {
					return err
				}
				return printItems(cmd, r.GetKinds())
			})
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "each object too")
	o.AddFlags(cmd.Flags())
	return cmd
}

func usageOf(k *nodev1.DiskUsageResponse_Kind) usage {
	names := map[string]string{"images": "Images", "containers": "Containers", "volumes": "Local Volumes", "build-cache": "Build Cache"}
	u := usage{
		Type: names[k.GetKind()], TotalCount: fmt.Sprint(k.GetTotal()), Active: fmt.Sprint(k.GetActive()),
		Size: output.Size(k.GetSize()), Reclaimable: output.Size(k.GetReclaimable()),
	}
	if k.GetSize() > 0 && k.GetKind() != "build-cache" {
		u.Reclaimable += fmt.Sprintf(" (%d%%)", k.GetReclaimable()*100/k.GetSize())
	}
	return u
}

// item is a line of `system df -v`.
type item struct{ ID, Name, Created, Size, Shared, Used string }

func printItems(cmd *cobra.Command, kinds []*nodev1.DiskUsageResponse_Kind) error {
	now := time.Now()
	for _, k := range kinds {
		if len(k.GetItems()) == 0 {
			continue
		}
		fmt.Fprintf(cmd.OutOrStdout(), "\n%s:\n", usageOf(k).Type)
		list := output.List[item]{Key: "ID", Columns: []output.Column{
			{Field: "ID", Header: "ID"}, {Field: "Name", Header: "NAME"}, {Field: "Created", Header: "CREATED"},
			{Field: "Size", Header: "SIZE"}, {Field: "Shared", Header: "SHARED"}, {Field: "Used", Header: "IN USE"},
		}}
		for _, i := range k.GetItems() {
			list.Rows = append(list.Rows, item{
				ID: output.ShortID(i.GetId()), Name: i.GetName(), Created: output.Ago(now, time.Unix(0, i.GetCreatedAt())),
				Size: output.Size(i.GetSize()), Shared: output.Size(i.GetShared()), Used: fmt.Sprint(i.GetUsed()),
			})
		}
		if err := list.Print(cmd.OutOrStdout(), output.Options{}); err != nil {
			return err
		}
	}
	return nil
}

func pruneCommand(flags *client.Flags) *cobra.Command {
	var all, volumes bool
	cmd := prune.Complete(&cobra.Command{
		Use: "prune [OPTIONS]", Short: "Remove what nobody uses, but never what kubelet owns or what is pinned",
		Example: "  cri-node system prune\n  cri-node system prune -a --volumes -f",
	}, flags, func() (*nodev1.PruneRequest, string) {
		return &nodev1.PruneRequest{Containers: true, Images: true, AllImages: all, Volumes: volumes, Networks: true, BuildCache: true}, warning(all, volumes)
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "images that have a name too, and all of the build cache")
	cmd.Flags().BoolVar(&volumes, "volumes", false, "anonymous volumes that no container has")
	return cmd
}

func warning(all, volumes bool) string {
	text := "\n  - all stopped containers\n  - all networks that no container is in\n"
	if all {
		text += "  - all images without a container\n  - all of the build cache\n"
	} else {
		text += "  - all images without a name\n  - the unused build cache\n"
	}
	if volumes {
		text += "  - anonymous volumes that no container has\n"
	}
	return text
}

func whyCommand(flags *client.Flags) *cobra.Command {
	var o output.Options
	cmd := &cobra.Command{
		Use: "why CONTAINER|POD", Short: "Tell why a container or pod is as it is", Args: argument.Exactly(1),
		Example: "  cri-node why web\n  cri-node why kube-system/coredns-abc",
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.With(cmd.Context(), func(ctx context.Context, n *client.Node) error {
				r, err := n.System.Why(ctx, &nodev1.WhyRequest{Object: args[0]})
				if err != nil {
					return err
				}
				text, err := json.Marshal(storyOf(r))
				if err != nil {
					return fmt.Errorf("print the story: %w", err)
				}
				if done, err := printed(cmd, o, text); done || err != nil {
					return err
				}
				out := cmd.OutOrStdout()
				fmt.Fprintln(out, output.Printable(r.GetSummary()))
				for _, line := range r.GetLines() {
					took := ""
					if line.GetDuration() > 0 {
						took = time.Duration(line.GetDuration()).Round(time.Millisecond).String()
					}
					fmt.Fprintf(out, "  %s  %8s  %s\n", time.Unix(0, line.GetTime()).Format("2006-01-02 15:04:05.000"), took, output.Printable(line.GetText()))
				}
				for _, advice := range r.GetAdvice() {
					fmt.Fprintf(out, "-> %s\n", output.Printable(advice))
				}
				return nil
			})
		},
	}
	addFormat(cmd, &o)
	return cmd
}

// story is what why prints as JSON.
type story struct {
	Summary string
	Lines   []storyLine
	Advice  []string
}

// storyLine is what happened at a time; Duration in nanoseconds is that of a call.
type storyLine struct {
	Time     time.Time
	Duration time.Duration `json:",omitempty"`
	Text     string
}

func storyOf(r *nodev1.WhyResponse) story {
	s := story{Summary: r.GetSummary(), Lines: []storyLine{}, Advice: append([]string{}, r.GetAdvice()...)}
	for _, l := range r.GetLines() {
		s.Lines = append(s.Lines, storyLine{time.Unix(0, l.GetTime()), time.Duration(l.GetDuration()), l.GetText()})
	}
	return s
}

func doctorCommand(flags *client.Flags) *cobra.Command {
	machine := false
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look at the machine, and say what to do about what is wrong", Args: argument.None(),
		Long:    "Look at the machine, and say what to do about what is wrong. The exit code is 1 if something cannot work.",
		Example: "  cri-node doctor",
		RunE: func(cmd *cobra.Command, _ []string) error {
			problems := 0
			findings := doctor.ThisHost().Examine()
			if !machine {
				findings = append(findings, doctor.Daemon(cmd.Context(), flags)...)
			}
			for _, f := range findings {
				mark := map[doctor.Verdict]string{doctor.Good: "ok     ", doctor.Odd: "warning", doctor.Bad: "PROBLEM"}[f.Verdict]
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %-16s %s\n", mark, f.About, f.Found)
				if f.Advice != "" {
					fmt.Fprintf(cmd.OutOrStdout(), "%28s-> %s\n", "", f.Advice)
				}
				if f.Verdict == doctor.Bad {
					problems++
				}
			}
			if problems > 0 {
				return &client.ExitError{Code: 1, Err: fmt.Errorf("%d problems", problems)}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&machine, "machine", false, "leave out the daemon, as before it is installed")
	return cmd
}
