package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// The annotations that name devices: the first begins a key, the second is one
// or begins one.
const (
	annotationPrefix = cdi.AnnotationPrefix
	annotationTag    = "tags.cncf.io/container-device-interface"
)

// Registry knows the devices of the machine. The nil Registry has none.
type Registry struct {
	dirs []string

	mu    sync.Mutex
	cache *cdi.Cache // nil until first used; has a lock of its own
	files []file     // as of the last reading
}

// file is what tells whether a file has changed.
type file struct {
	path              string
	device, inode     uint64
	size              int64
	modified, changed syscall.Timespec
}

// New returns the devices described in directories, the later of which
// override the earlier. They need not exist, and are read when a container
// asks for a device. Without directories it returns nil.
func New(dirs []string) *Registry {
	if len(dirs) == 0 {
		return nil
	}
	return &Registry{dirs: slices.Clone(dirs)}
}

// Requested lists the devices that a container asks for, each once, those of
// the field first.
func Requested(config *runtimeapi.ContainerConfig) ([]string, error) {
	var names []string
	add := func(field, name string) error {
		if _, _, _, err := parser.ParseQualifiedName(name); err != nil {
			return fmt.Errorf("%s: %.128q is no name such as vendor.com/class=device: %w", field, name, errdefs.ErrInvalidArgument)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		return nil
	}
	for i, d := range config.GetCDIDevices() {
		if err := add(fmt.Sprintf("config.CDI_devices[%d].name", i), d.GetName()); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(config.GetAnnotations())) {
		if !strings.HasPrefix(key, annotationPrefix) && key != annotationTag && !strings.HasPrefix(key, annotationTag+"/") {
			continue
		}
		for name := range strings.SplitSeq(config.GetAnnotations()[key], ",") {
			if err := add(fmt.Sprintf("config.annotations[%.128q]", key), name); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// Inject gives devices, by their names, to a container. Where one is not known
// nothing has changed.
func (r *Registry) Inject(spec *specs.Spec, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if r == nil {
		return fmt.Errorf("CDI devices %s: CDI is switched off: %w", strings.Join(names, ", "), errdefs.ErrFailedPrecondition)
	}
	cache, err := r.refresh()
	if err != nil {
		return err
	}
	unknown, err := cache.InjectDevices(spec, names...)
	if err == nil {
		bindNodes(spec, cache, names)
		return nil
	}
	if len(unknown) == 0 {
		return fmt.Errorf("CDI devices %s: %w: %w", strings.Join(names, ", "), err, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("CDI devices %s are in no usable file of %s%s: %w", strings.Join(unknown, ", "), strings.Join(r.dirs, ", "), why(cache), errdefs.ErrFailedPrecondition)
}

// bindNodes turns the nodes of devices into mounts of the host's where there is
// a user namespace: nobody can make a node there, and OCI runtimes, which then
// mount nodes by themselves, look for them at the container's path on the host.
func bindNodes(spec *specs.Spec, cache *cdi.Cache, names []string) {
	userns := func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace }
	if spec.Linux == nil || !slices.ContainsFunc(spec.Linux.Namespaces, userns) {
		return
	}
	for path, source := range nodes(cache, names) {
		at := func(d specs.LinuxDevice) bool { return d.Path == path }
		if !slices.ContainsFunc(spec.Linux.Devices, at) {
			continue
		}
		spec.Linux.Devices = slices.DeleteFunc(spec.Linux.Devices, at)
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: path, Type: "bind", Source: source, Options: []string{"bind", "rprivate", "rw", "nosuid", "noexec"},
		})
	}
}

// nodes returns where on the host the nodes of devices are, by their paths in
// the container.
func nodes(cache *cdi.Cache, names []string) map[string]string {
	sources := map[string]string{}
	for _, name := range names {
		d := cache.GetDevice(name)
		if d == nil {
			continue // its file has gone this instant
		}
		for _, n := range slices.Concat(d.GetSpec().ContainerEdits.DeviceNodes, d.ContainerEdits.DeviceNodes) {
			sources[n.Path] = n.HostPath
			if n.HostPath == "" {
				sources[n.Path] = n.Path
			}
		}
	}
	return sources
}

// why says what is wrong with the files, which may be why a device is unknown.
func why(cache *cdi.Cache) string {
	problems := cache.GetErrors()
	if len(problems) == 0 {
		return ""
	}
	var all []string
	for _, path := range slices.Sorted(maps.Keys(problems)) {
		all = append(all, fmt.Sprintf("%s: %v", path, errors.Join(problems[path]...)))
	}
	return " (" + strings.Join(all, "; ") + ")"
}

// refresh reads the files again if any is not what it was.
func (r *Registry) refresh() (*cdi.Cache, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	files, err := r.list()
	if err != nil {
		return nil, err
	}
	if r.cache == nil {
		// The library's own refresh has a goroutine that nobody can wait for.
		cache, err := cdi.NewCache(cdi.WithSpecDirs(r.dirs...), cdi.WithAutoRefresh(false))
		if err != nil {
			return nil, fmt.Errorf("read CDI files: %w", err)
		}
		r.cache, r.files = cache, files
	}
	if !slices.Equal(files, r.files) {
		// What is wrong with a file matters to those who ask for its devices.
		_ = r.cache.Refresh()
		r.files = files
	}
	return r.cache, nil
}

func (r *Registry) list() ([]file, error) {
	var files []file
	for _, dir := range r.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read CDI files: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			info, err := os.Stat(path)
			if err != nil {
				files = append(files, file{path: path}) // a link to nothing
				continue
			}
			f := file{path: path, size: info.Size()}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				f.device, f.inode, f.modified, f.changed = st.Dev, st.Ino, st.Mtim, st.Ctim
			}
			files = append(files, f)
		}
	}
	return files, nil
}
