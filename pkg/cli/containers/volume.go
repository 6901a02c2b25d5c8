package containers

import (
	"time"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Volume is a volume as docker's inspect shows it.
type Volume struct {
	CreatedAt  string
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
	Anonymous  bool
	Containers []string
}

// VolumeDocument describes a volume.
func VolumeDocument(v *nodev1.Volume) Volume {
	return Volume{
		CreatedAt: time.Unix(0, v.GetCreatedAt()).UTC().Format(time.RFC3339), Driver: "local", Labels: v.GetLabels(),
		Mountpoint: v.GetPath(), Name: v.GetName(), Scope: "local", Anonymous: v.GetAnonymous(),
		Containers: append([]string{}, v.GetContainers()...),
	}
}
