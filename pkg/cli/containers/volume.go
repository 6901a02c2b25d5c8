package containers

import (
	"time"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// volume is a volume as docker's inspect shows it.
type volume struct {
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

// volumeDocument describes a volume.
func volumeDocument(v *nodev1.Volume) volume {
	return volume{
		CreatedAt: time.Unix(0, v.GetCreatedAt()).UTC().Format(time.RFC3339), Driver: "local", Labels: v.GetLabels(),
		Mountpoint: v.GetPath(), Name: v.GetName(), Scope: "local", Anonymous: v.GetAnonymous(),
		Containers: append([]string{}, v.GetContainers()...),
	}
}
