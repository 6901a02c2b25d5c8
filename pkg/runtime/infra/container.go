package infra

import (
	"embed"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// containerInits are the inits of containers that ask for one, by architecture:
// containerinit/init.c, compiled by containerinit/generate.sh.
//
//go:embed containerinit/init.amd64 containerinit/init.arm64
var containerInits embed.FS

// ContainerInit is where Install, given dir, puts the init of containers that ask
// for one: beside dir, because pods can see what is in it.
func ContainerInit(dir string) string { return filepath.Join(filepath.Dir(dir), "container-init") }

// installContainerInit writes the init. An architecture without one has
// containers without.
func installContainerInit(dir string) error {
	program, err := containerInits.ReadFile("containerinit/init." + runtime.GOARCH)
	if err != nil {
		return fmt.Errorf("no init for architecture %s: %w", runtime.GOARCH, err)
	}
	return linux.WriteFileAtomic(ContainerInit(dir), program, 0o755, linux.SurviveProcess)
}
