// Package images makes the images of the tests out of programs that are there, and
// pushes them to a registry; nothing is pulled from elsewhere.
package images

import (
	"context"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-node/cri-node/test/e2e/cluster/build"
	"github.com/cri-node/cri-node/test/e2e/image"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

// Set are the references of the images.
type Set struct {
	// Busybox has a shell with the usual tools, /bin/probe (test/e2e/program) and
	// users; it runs a shell.
	Busybox string
	// Agnhost is busybox with /agnhost, the program of Kubernetes' own tests, as
	// entry point: "netexec", "pause", "serve-hostname", "grpc-health-checking", ...
	Agnhost string
	// CoreDNS has the name server as entry point.
	CoreDNS string
}

// Push makes the images and pushes them; probe is the compiled test/e2e/program.
func Push(ctx context.Context, r *registry.Registry, p build.Programs, probe string) (Set, error) {
	base, err := image.Busybox()
	if err != nil {
		return Set{}, err
	}
	data, err := os.ReadFile(probe)
	if err != nil {
		return Set{}, err
	}
	base = append(base, image.File{Name: "bin/probe", Mode: 0o755, Data: data})
	s := Set{Busybox: r.Ref("e2e/busybox:1"), Agnhost: r.Ref("e2e/agnhost:1"), CoreDNS: r.Ref("e2e/coredns:1")}
	specs := map[string]image.Spec{
		"e2e/busybox:1": {Layers: [][]image.File{base}, Config: v1.Config{Cmd: []string{"/bin/sh"}}},
	}
	for name, program := range map[string]string{"e2e/agnhost:1": build.Agnhost, "e2e/coredns:1": build.CoreDNS} {
		data, err := os.ReadFile(p.Path(program))
		if err != nil {
			return Set{}, err
		}
		specs[name] = image.Spec{
			Layers: [][]image.File{base, {{Name: program, Mode: 0o755, Data: data}}},
			Config: v1.Config{Entrypoint: []string{"/" + program}},
		}
	}
	// What agnhost does without arguments in the image of Kubernetes.
	agnhost := specs["e2e/agnhost:1"]
	agnhost.Config.Cmd = []string{"pause"}
	specs["e2e/agnhost:1"] = agnhost
	for name, spec := range specs {
		img, err := image.Build(spec)
		if err != nil {
			return Set{}, fmt.Errorf("build %s: %w", name, err)
		}
		if _, err := r.Push(ctx, name, img); err != nil {
			return Set{}, err
		}
	}
	return s, nil
}
