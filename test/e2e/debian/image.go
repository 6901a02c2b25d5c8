package debian

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
)

// packages of the image, beside the smallest Debian there is.
const packages = "iproute2,nginx-light,postgresql,procps,python3-minimal"

// leftOut is what nothing needs and takes long to pack: a database is made by the
// container that runs it, and compiles no queries.
var leftOut = []string{
	"./etc/postgresql/*", "./usr/lib/postgresql/*/lib/bitcode", "./usr/share/doc", "./usr/share/i18n", "./usr/share/locale",
	"./usr/share/man", "./var/cache/apt/archives/*.deb", "./var/lib/apt/lists/*", "./var/lib/postgresql/*", "*/libLLVM*", "*/libz3.so*",
}

// Image is Debian with a shell for its command.
func Image(ctx context.Context) (v1.Image, error) {
	path, err := Archive(ctx)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromFile(path)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	c.Config.Cmd = []string{"/bin/bash"}
	c.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return mutate.ConfigFile(img, c)
}

// Archive is a tar of the root file system, compressed; it is made if it is not
// there.
func Archive(ctx context.Context) (string, error) {
	cache := filepath.Join(os.TempDir(), "cri-node-test-images")
	if from := os.Getenv("CRI_NODE_BIN_DIR"); from != "" {
		cache = filepath.Join(from, "test-images")
	}
	path := filepath.Join(cache, "debian.tar.gz")
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
	pack := []string{"tar", "--numeric-owner", "--use-compress-program=gzip -1"}
	for _, name := range leftOut {
		pack = append(pack, "--exclude="+name)
	}
	commands := [][]string{
		// A temporary directory is its maker's alone, but this one becomes the root of
		// containers that run as others.
		{"chmod", "0755", root},
		// In a mount namespace of its own: what it mounts goes with it, whatever ends it.
		{"unshare", "--mount", "debootstrap", "--variant=minbase", "--include=" + packages, "stable", root},
		{"ln", "-sf", "python3", filepath.Join(root, "usr/bin/python")},
		append(pack, "-C", root, "-cf", path+".new", "."),
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
