package hooks

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Request is what hooks are chosen by, besides the command of the spec.
type Request struct {
	// Annotations of the container and its pod.
	Annotations map[string]string
	// BindMounts is whether directories of the host were asked for.
	BindMounts bool
}

// Dirs are directories with hooks. The nil Dirs has none.
type Dirs struct {
	dirs []string

	mu    sync.Mutex
	files map[string]*file // by path
}

// file is one file as last read.
type file struct {
	stamp stamp
	hook  *hook
	err   error
}

// stamp changes with the content of a file.
type stamp struct {
	device, inode uint64
	size          int64
	modified      syscall.Timespec
	changed       syscall.Timespec
}

// Open returns the hooks of directories, the later of which override the
// earlier. They need not exist, now or later, and are read when needed.
func Open(dirs []string) *Dirs {
	return &Dirs{dirs: slices.Clone(dirs), files: map[string]*file{}}
}

// Apply adds the hooks that apply to a container. A file that is no good is
// ErrFailedPrecondition and changes nothing.
func (d *Dirs) Apply(spec *specs.Spec, r Request) error {
	if d == nil || len(d.dirs) == 0 {
		return nil
	}
	all, err := d.load()
	if err != nil {
		return err
	}
	command := ""
	if spec.Process != nil && len(spec.Process.Args) > 0 {
		command = spec.Process.Args[0]
	}
	for _, h := range all {
		if !h.applies(r, command) {
			continue
		}
		if spec.Hooks == nil {
			spec.Hooks = &specs.Hooks{}
		}
		for _, name := range h.stages {
			list := stage(spec.Hooks, name)
			*list = append(*list, h.oci)
		}
	}
	return nil
}

// load returns the hooks of all files, in the order of the files' names.
func (d *Dirs) load() ([]*hook, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	paths := map[string]string{}
	for _, dir := range d.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read hooks: %w: %w", err, errdefs.ErrFailedPrecondition)
		}
		for _, e := range entries {
			if filepath.Ext(e.Name()) == ".json" {
				paths[e.Name()] = filepath.Join(dir, e.Name())
			}
		}
	}
	seen := map[string]*file{}
	var all []*hook
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		path := paths[name]
		f := d.read(path)
		if f == nil {
			continue
		}
		if f.err != nil {
			return nil, fmt.Errorf("hook %s: %w: %w", path, f.err, errdefs.ErrFailedPrecondition)
		}
		seen[path] = f
		all = append(all, f.hook)
	}
	d.files = seen // without those that are gone
	return all, nil
}

// read returns a file as it is now; nil where it is gone by now.
func (d *Dirs) read(path string) *file {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, linkErr := os.Lstat(path); errors.Is(linkErr, fs.ErrNotExist) {
			return nil
		}
	}
	if err != nil {
		return &file{err: err}
	}
	now := stampOf(info)
	if old := d.files[path]; old != nil && old.stamp == now {
		return old
	}
	f := &file{stamp: now}
	f.hook, f.err = readHook(path, info)
	return f
}

func readHook(path string, info fs.FileInfo) (*hook, error) {
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("is no regular file")
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("can be written by others than its owner (mode %v)", info.Mode().Perm())
	case info.Size() > maxFile:
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	h, err := parse(b)
	if err != nil {
		return nil, err
	}
	program, err := os.Stat(h.oci.Path)
	if err != nil {
		return nil, fmt.Errorf("hook.path: %w", err)
	}
	if !program.Mode().IsRegular() || program.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("hook.path: %s is no executable file", h.oci.Path)
	}
	return h, nil
}

func stampOf(info fs.FileInfo) stamp {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{size: info.Size()}
	}
	return stamp{device: st.Dev, inode: st.Ino, size: st.Size, modified: st.Mtim, changed: st.Ctim}
}
