package compose

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/output"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

func (c *command) ls() *cobra.Command {
	var all bool
	var o output.Options
	cmd := &cobra.Command{
		Use: "ls", Short: "List the projects of this machine", Example: "  cri-node compose ls -a", Args: argument.None(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.run(func(n *client.Node) error {
				answer, err := n.Containers.List(cmd.Context(), &nodev1.ListRequest{})
				if err != nil {
					return err
				}
				return projects(answer.GetContainers(), all).Print(cmd.OutOrStdout(), o)
			})
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those too of which nothing runs")
	o.AddFlags(cmd.Flags())
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "print names only")
	return cmd
}

// projectRow is a project as `compose ls` shows it.
type projectRow struct{ Name, Status, ConfigFiles string }

func projects(containers []*nodev1.Container, all bool) output.List[projectRow] {
	states := map[string]map[string]int{}
	files := map[string]string{}
	for _, one := range containers {
		name := one.GetLabels()[labelProject]
		if name == "" || one.GetKubernetes() || one.GetLabels()[labelOneOff] == "True" {
			continue
		}
		if states[name] == nil {
			states[name] = map[string]int{}
		}
		states[name][one.GetState()]++
		files[name] = one.GetLabels()[labelFiles]
	}
	l := output.List[projectRow]{Key: "Name", Columns: []output.Column{
		{Field: "Name", Header: "NAME"}, {Field: "Status", Header: "STATUS"}, {Field: "ConfigFiles", Header: "CONFIG FILES"},
	}}
	for _, name := range slices.Sorted(maps.Keys(states)) {
		if !all && states[name]["running"] == 0 {
			continue
		}
		var words []string
		for _, state := range slices.Sorted(maps.Keys(states[name])) {
			words = append(words, fmt.Sprintf("%s(%d)", state, states[name][state]))
		}
		l.Rows = append(l.Rows, projectRow{name, strings.Join(words, ", "), files[name]})
	}
	return l
}

// imageRow is a container's image as `compose images` shows it.
type imageRow struct{ Container, Repository, Tag, ID, Size string }

func (c *command) imagesVerb() *cobra.Command {
	var o output.Options
	cmd := &cobra.Command{
		Use: "images [SERVICE...]", Short: "List the images of a project's containers", Example: "  cri-node compose images", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, services []string) error {
			return c.run(func(n *client.Node) error {
				all, err := c.containers(cmd.Context(), n, services, true)
				if err != nil {
					return err
				}
				answer, err := n.Images.List(cmd.Context(), &nodev1.ListImagesRequest{})
				if err != nil {
					return err
				}
				l := output.List[imageRow]{Key: "ID", Columns: []output.Column{
					{Field: "Container", Header: "CONTAINER"}, {Field: "Repository", Header: "REPOSITORY"}, {Field: "Tag", Header: "TAG"},
					{Field: "ID", Header: "IMAGE ID"}, {Field: "Size", Header: "SIZE"},
				}}
				for _, one := range all {
					row := imageRow{Container: one.GetName(), ID: output.ShortID(one.GetImageId()), Tag: "latest"}
					row.Repository = one.GetImage()
					if name, tag, ok := strings.Cut(row.Repository[strings.LastIndex(row.Repository, "/")+1:], ":"); ok {
						row.Repository, row.Tag = strings.TrimSuffix(row.Repository, name+":"+tag)+name, tag
					}
					for _, img := range answer.GetImages() {
						if img.GetId() == one.GetImageId() {
							row.Size = output.Size(img.GetSize())
						}
					}
					l.Rows = append(l.Rows, row)
				}
				return l.Print(cmd.OutOrStdout(), o)
			})
		},
	}
	o.AddListFlags(cmd.Flags())
	return cmd
}
