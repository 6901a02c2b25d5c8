package image

import (
	"archive/tar"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// Spec describes an image.
type Spec struct {
	// Form is the form of the layers given as Files and of the manifest.
	Form Form
	// Layers are the files of each layer, lowest first.
	Layers [][]File
	// Config is the runtime part of the image's configuration.
	Config v1.Config
	// Architecture is that of the machine when empty.
	Architecture string
}

// Build makes an image.
func Build(s Spec) (v1.Image, error) {
	manifest, config := types.OCIManifestSchema1, types.OCIConfigJSON
	if s.Form.Docker {
		manifest, config = types.DockerManifestSchema2, types.DockerConfigJSON
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifest), config)
	arch := s.Architecture
	if arch == "" {
		arch = runtime.GOARCH
	}
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: arch, OS: "linux", Config: s.Config,
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, fmt.Errorf("set image configuration: %w", err)
	}
	for i, files := range s.Layers {
		l, err := NewLayer(s.Form, files...)
		if err != nil {
			return nil, fmt.Errorf("build layer %d: %w", i, err)
		}
		mt, err := l.MediaType()
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: mt})
		if err != nil {
			return nil, fmt.Errorf("append layer %d: %w", i, err)
		}
	}
	return img, nil
}

// Index joins images of several architectures; the key is GOARCH.
func Index(docker bool, images map[string]v1.Image) v1.ImageIndex {
	mt := types.OCIImageIndex
	if docker {
		mt = types.DockerManifestList
	}
	idx := mutate.IndexMediaType(empty.Index, mt)
	for _, arch := range slices.Sorted(maps.Keys(images)) {
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{
			Add:        images[arch],
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return idx
}

// Busybox is a small root file system around the machine's static busybox:
// every applet, passwd and group with a few users, and the usual directories.
func Busybox() ([]File, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("find busybox (package busybox-static): %w", err)
	}
	if err := checkStatic(path); err != nil {
		return nil, err
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w", err)
	}
	return BusyboxOf(binary)
}

// BusyboxOf is the same around another static busybox.
func BusyboxOf(binary []byte) ([]File, error) {
	applets, err := listApplets(binary)
	if err != nil {
		return nil, err
	}
	files := []File{
		Dir("bin"), Dir("etc"), Dir("root"), Dir("home"), Dir("proc"), Dir("sys"), Dir("dev"), Dir("var"), Dir("var/run"),
		{Name: "tmp/", Type: tar.TypeDir, Mode: 0o1777},
		{Name: "bin/busybox", Mode: 0o755, Data: binary},
		Text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var:/bin/sh\n"+
			"alice:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
		Text("etc/group", "root:x:0:\nwww-data:x:33:\nalice:x:1000:\nfriends:x:50000:alice\nnogroup:x:65534:\n"),
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			files = append(files, File{Name: "bin/" + applet, Type: tar.TypeSymlink, Mode: 0o777, Link: "busybox"})
		}
	}
	return files, nil
}

// listApplets asks a busybox, from memory, for the commands it can be.
func listApplets(binary []byte) ([]byte, error) {
	fd, err := unix.MemfdCreate("busybox", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make file for busybox: %w", err)
	}
	f := os.NewFile(uintptr(fd), "busybox")
	defer f.Close()
	if _, err := f.Write(binary); err != nil {
		return nil, fmt.Errorf("write busybox: %w", err)
	}
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd), "--list")
	cmd.Args[0] = "busybox"
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list applets of busybox: %w", err)
	}
	return out, nil
}

// checkStatic refuses a binary that needs a loader: it would not start in an
// image that holds nothing else.
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read busybox as ELF: %w", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is dynamically linked: install the package busybox-static", path)
		}
	}
	return nil
}

// ProgramsVariable names the environment variable with a folder of programs that
// were compiled before, for a machine without Go.
const ProgramsVariable = "CRI_NODE_E2E_PROGRAMS"

// Compile builds the Go program in the folder statically into target, or copies
// the program of the folder's name out of the folder of compiled ones.
func Compile(ctx context.Context, folder, target string) error {
	if compiled := os.Getenv(ProgramsVariable); compiled != "" {
		data, err := os.ReadFile(filepath.Join(compiled, filepath.Base(folder)))
		if err != nil {
			return fmt.Errorf("copy compiled program: %w", err)
		}
		return os.WriteFile(target, data, 0o755)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", target, ".")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w: %s", filepath.Base(folder), err, out)
	}
	return nil
}

// SourceDir is the folder test/e2e of this repository, found from the working
// directory upwards.
func SourceDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		source := filepath.Join(dir, "test", "e2e")
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if _, below := os.Stat(source); err == nil && below == nil {
			return source, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod with test/e2e above the working directory")
		}
	}
}
