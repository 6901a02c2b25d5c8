package infra

import (
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// initPath is where the init is inside its root file system.
const initPath = "/init"

// Install writes the init's root file system to dir: the executable and the
// empty directories an OCI runtime mounts on. All pods share it, read-only. It
// also writes ContainerInit, beside dir.
func Install(dir string) error {
	executable, err := Executable()
	if err != nil {
		return err
	}
	for _, sub := range []string{"proc", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return fmt.Errorf("install init: %w", err)
		}
	}
	if err := linux.WriteFileAtomic(filepath.Join(dir, initPath), executable, 0o755, linux.SurviveProcess); err != nil {
		return err
	}
	return installContainerInit(dir)
}

// Params of an init container.
type Params struct {
	// OCIVersion to write into the spec.
	OCIVersion string
	// RootDir is the directory given to Install.
	RootDir string
	// CgroupsPath in the form the OCI runtime wants.
	CgroupsPath string
	// Namespaces to join, by type. Of those not named, the pid and mount
	// namespace are new and the others the host's.
	Namespaces map[specs.LinuxNamespaceType]string
	// UserNS is the user namespace to join; nil is the host's. ReadsUserNS is
	// the runtime's feature of this name.
	UserNS      *linux.UserNS
	ReadsUserNS bool
	// OOMScoreAdj, as low as the machine allows.
	OOMScoreAdj int
}

// nobody is what the init runs as: it needs no right at all.
const nobody = 65535

// Spec describes the init container: no capability, no way to gain one, a
// read-only root that holds nothing else, and nothing of the host in its sight,
// because whoever shares its pid namespace can see what it sees.
func Spec(p Params) *specs.Spec {
	namespaces := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}
	for kind, path := range p.Namespaces {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	id := uint32(nobody)
	var uids, gids []specs.LinuxIDMapping
	if p.UserNS != nil {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: p.UserNS.Path})
		id = min(id, p.UserNS.UIDs[0].Length-1, p.UserNS.GIDs[0].Length-1)
		if !p.ReadsUserNS {
			uids, gids = mappings(p.UserNS.UIDs), mappings(p.UserNS.GIDs)
		}
	}
	return &specs.Spec{
		Version: p.OCIVersion,
		Root:    &specs.Root{Path: p.RootDir, Readonly: true},
		Process: &specs.Process{
			User:            specs.User{UID: id, GID: id},
			Args:            []string{initPath},
			Cwd:             "/",
			NoNewPrivileges: true,
			OOMScoreAdj:     &p.OOMScoreAdj,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		},
		Linux: &specs.Linux{
			Namespaces:  namespaces,
			UIDMappings: uids,
			GIDMappings: gids,
			CgroupsPath: p.CgroupsPath,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

func mappings(maps []linux.IDMap) []specs.LinuxIDMapping {
	all := make([]specs.LinuxIDMapping, len(maps))
	for i, m := range maps {
		all[i] = specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length}
	}
	return all
}

// Path is where Install puts the init below dir. It needs nothing else there,
// and waits until it is killed.
func Path(dir string) string { return filepath.Join(dir, initPath) }
