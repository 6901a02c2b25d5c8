package workshop

import (
	"context"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/cri-node/cri-node/test/e2e/debian"
	"github.com/cri-node/cri-node/test/e2e/registry"
)

// push puts library/ubuntu and library/python into a registry.
func push(ctx context.Context, r *registry.Registry) error {
	base, err := debian.Image(ctx)
	if err != nil {
		return err
	}
	config, err := base.ConfigFile()
	if err != nil {
		return err
	}
	for name, command := range map[string]string{"ubuntu": "/bin/bash", "python": "python3"} {
		c := config.DeepCopy()
		c.Config.Cmd = []string{command}
		c.Config.Env = append(c.Config.Env, "PYTHON_BASIC_REPL=1")
		img, err := mutate.ConfigFile(base, c)
		if err != nil {
			return err
		}
		if _, err := r.Push(ctx, "library/"+name+":latest", img); err != nil {
			return err
		}
	}
	return nil
}
