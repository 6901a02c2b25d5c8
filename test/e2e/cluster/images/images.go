// Package images makes the images of the tests out of programs that are there, and
// pushes them to a registry; nothing is pulled from elsewhere.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
// Those of programs that have not been built are left out.
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
	var s Set
	s.Busybox, err = push(ctx, r, "e2e/busybox:1", image.Spec{Layers: [][]image.File{base}, Config: v1.Config{Cmd: []string{"/bin/sh"}}})
	if err != nil {
		return Set{}, err
	}
	for _, made := range []struct {
		program string
		command []string
		ref     *string
	}{
		// What agnhost does without arguments in the image of Kubernetes.
		{build.Agnhost, []string{"pause"}, &s.Agnhost},
		{build.CoreDNS, nil, &s.CoreDNS},
	} {
		data, err := os.ReadFile(p.Path(made.program))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return Set{}, err
		}
		*made.ref, err = push(ctx, r, "e2e/"+made.program+":1", image.Spec{
			Layers: [][]image.File{base, {{Name: made.program, Mode: 0o755, Data: data}}},
			Config: v1.Config{Entrypoint: []string{"/" + made.program}, Cmd: made.command},
		})
		if err != nil {
			return Set{}, err
		}
	}
	return s, nil
}

func push(ctx context.Context, r *registry.Registry, name string, s image.Spec) (string, error) {
	img, err := image.Build(s)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	_, err = r.Push(ctx, name, img)
	return r.Ref(name), err
}
