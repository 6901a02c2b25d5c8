package workshop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/cri-node/cri-node/test/e2e/registry"
)

// packages of the images, beside the smallest Debian there is.
const packages = "iproute2,procps,python3-minimal"

// debian is a tar of a Debian root file system, made once for a checkout.
func debian(ctx context.Context, cache string) (string, error) {
	path := filepath.Join(cache, "debian.tar")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	root, err := os.MkdirTemp(cache, "debootstrap")
	if err != nil {
		return "", err
	}
	commands := [][]string{
		// In a mount namespace of its own: what it mounts goes with it, whatever ends it.
		{"unshare", "--mount", "debootstrap", "--variant=minbase", "--include=" + packages, "stable", root},
		{"ln", "-sf", "python3", filepath.Join(root, "usr/bin/python")},
		{"tar", "--numeric-owner", "--exclude=./var/cache/apt/archives/*.deb", "-C", root, "-cf", path + ".new", "."},
	}
	for _, args := range commands {
		if out, e := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); e != nil {
			err = fmt.Errorf("%v: %w\n%s", args, e, out)
			break
		}
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return path, errors.Join(err, os.RemoveAll(root))
}

// push puts library/ubuntu and library/python into a registry.
func push(ctx context.Context, r *registry.Registry, tar string) error {
	layer, err := tarball.LayerFromFile(tar)
	if err != nil {
		return err
	}
	base, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	for name, command := range map[string]string{"ubuntu": "/bin/bash", "python": "python3"} {
		img, err := mutate.ConfigFile(base, configFile(base, command))
		if err != nil {
			return err
		}
		if _, err := r.Push(ctx, "library/"+name+":latest", img); err != nil {
			return err
		}
	}
	return nil
}

func configFile(base v1.Image, command string) *v1.ConfigFile {
	c, err := base.ConfigFile()
	if err != nil {
		c = &v1.ConfigFile{}
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	c.Config.Cmd = []string{command}
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHON_BASIC_REPL=1"}
	return c
}
