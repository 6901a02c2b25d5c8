package conformance

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/cri-node/cri-node/test/e2e/image"
)

// packages are what specs run in agnhost and its like, beside the smallest
// Debian there is.
const packages = "bash,curl,bind9-dnsutils,iproute2,netcat-openbsd,socat,iperf,nginx-light,util-linux,stress,perl-base,ca-certificates,busybox-static,bash-static"

// nmeter is what Debian's busybox lacks of it: the time with milliseconds, "%3t".
const nmeter = "#!/bin/bash\nt=$EPOCHREALTIME\nprintf '%(%H:%M:%S)T.%s\\n' \"${t%.*}\" \"${t:11:3}\"\n"

// busyboxBase is an image of that Debian's busybox. Its shell is bash: busybox's
// drops variables whose names are none for a shell, and specs look for them.
func busyboxBase(debian string) (v1.Image, error) {
	programs, err := fromTar(debian, "usr/bin/busybox", "usr/bin/bash-static")
	if err != nil {
		return nil, err
	}
	files, err := image.BusyboxOf(programs[0])
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(f image.File) bool { return f.Name == "bin/sh" })
	files = append(files, image.File{Name: "bin/bash", Mode: 0o755, Data: programs[1]},
		image.File{Name: "bin/sh", Type: tar.TypeSymlink, Mode: 0o777, Link: "bash"},
		image.File{Name: "bin/nmeter", Mode: 0o755, Data: []byte(nmeter)})
	return image.Build(image.Spec{Layers: [][]image.File{files}})
}

// fromTar are files of a tar that MakeDebian has made.
func fromTar(path string, names ...string) ([][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found := make([][]byte, len(names))
	missing := len(names)
	for r := tar.NewReader(f); missing > 0; {
		h, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("find %q in %s: %w", names, path, err)
		}
		i := slices.Index(names, strings.TrimPrefix(h.Name, "./"))
		if i < 0 || h.Typeflag != tar.TypeReg {
			continue
		}
		if found[i], err = io.ReadAll(r); err != nil {
			return nil, fmt.Errorf("read %s in %s: %w", h.Name, path, err)
		}
		missing--
	}
	return found, nil
}

// debianBase is an image of the Debian that MakeDebian has made.
func debianBase(path string) (v1.Image, error) {
	layer, err := tarball.LayerFromFile(path)
	if err != nil {
		return nil, err
	}
	start, err := image.Build(image.Spec{})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(start, layer)
}

// MakeDebian makes a tar of a Debian, unless it is there.
func MakeDebian(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return bootstrap(ctx, filepath.Dir(path), path)
}

func bootstrap(ctx context.Context, cache, path string) error {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	root, err := os.MkdirTemp(cache, "debootstrap")
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		// In a mount namespace of its own: what it mounts goes with it, whatever ends it.
		{"unshare", "--mount", "debootstrap", "--variant=minbase", "--include=" + packages, "stable", root},
		// Users other than root enter the image by it.
		{"chmod", "0755", root},
		{"tar", "--numeric-owner", "--exclude=./var/cache/apt", "--exclude=./var/lib/apt", "--exclude=./usr/share/doc",
			"--exclude=./usr/share/locale", "--exclude=./proc/*", "--exclude=./dev/*", "-C", root, "-cf", path + ".new", "."},
	} {
		if err = command(ctx, args...); err != nil {
			break
		}
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return errors.Join(err, os.RemoveAll(root))
}

func onlyLayer(img v1.Image) ([]byte, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	r, err := layers[0].Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func command(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
