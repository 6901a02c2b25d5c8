package containers

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/client"
	"github.com/cri-node/cri-node/pkg/cli/images"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// pullImage gets an image and shows how it goes on stderr.
func (o *runOptions) pullImage(ctx context.Context, n *client.Node, cmd *cobra.Command, image string) error {
	return images.Pull(ctx, n, cmd, image, o.platform, o.quiet)
}

// exposedPorts are those an image says it listens on.
func exposedPorts(ctx context.Context, n *client.Node, image string) ([]PortSpec, error) {
	r, err := n.Images.Inspect(ctx, &nodev1.InspectImageRequest{Image: image})
	if err != nil {
		return nil, err
	}
	var document struct {
		Config struct{ ExposedPorts map[string]struct{} }
	}
	if err := json.Unmarshal(r.GetJson(), &document); err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	var all []PortSpec
	for _, s := range slices.Sorted(maps.Keys(document.Config.ExposedPorts)) {
		ports, err := ParseExposed(s)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", image, err)
		}
		for i := range ports {
			ports[i].Any = true
		}
		all = append(all, ports...)
	}
	return all, nil
}

// volumesFrom adds the mounts of another container that are not there yet.
func volumesFrom(ctx context.Context, n *client.Node, request *nodev1.CreateRequest, from string) error {
	name, mode, _ := strings.Cut(from, ":")
	if mode != "" && mode != "ro" && mode != "rw" {
		return fmt.Errorf("invalid --volumes-from %q: it is CONTAINER[:ro]", from)
	}
	r, err := n.Containers.Inspect(ctx, &nodev1.InspectRequest{Container: name})
	if err != nil {
		return err
	}
	var document struct {
		Mounts []struct {
			Type, Name, Source, Destination string
			RW                              bool
		}
	}
	if err := json.Unmarshal(r.GetJson(), &document); err != nil {
		return fmt.Errorf("read the description of %s: %w", name, err)
	}
	for _, m := range document.Mounts {
		taken := slices.ContainsFunc(request.GetContainer().GetMounts(), func(o *runtimeapi.Mount) bool { return o.GetContainerPath() == m.Destination }) ||
			slices.ContainsFunc(request.GetVolumes(), func(o *nodev1.VolumeMount) bool { return o.GetPath() == m.Destination })
		readonly := !m.RW || mode == "ro"
		switch {
		case taken:
		case m.Type == "volume":
			request.Volumes = append(request.Volumes, &nodev1.VolumeMount{Name: m.Name, Path: m.Destination, Readonly: readonly})
		case m.Type == "bind":
			request.Container.Mounts = append(request.Container.Mounts, &runtimeapi.Mount{HostPath: m.Source, ContainerPath: m.Destination, Readonly: readonly})
		}
	}
	return nil
}
