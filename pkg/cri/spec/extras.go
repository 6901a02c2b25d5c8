package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Extras is what CRI's messages have no words for.
type Extras struct {
	// User as an image has it goes before that of the security context; Groups are
	// more of them, names or numbers.
	User   string
	Groups []string
	// Tmpfs are file systems in memory, each at a path of its own.
	Tmpfs []Tmpfs
	// Init is the host path of a static executable that runs the command as its
	// child; empty runs the command itself.
	Init string
	// StopSignal by name or number goes before the request's; empty does not.
	StopSignal string
}

// Tmpfs is a file system in memory of a container's own.
type Tmpfs struct {
	Path string `json:"path"`
	// Options of mount(8), such as size=64m, mode=1777, ro and exec.
	Options []string `json:"options,omitempty"`
}

// initPath is where the init is in a container: in a file system that is the
// container's own, so that none of it stays in the image made of one.
const initPath = "/dev/cri-node-init"

// maxTmpfs bounds the file systems and their options.
const maxTmpfs = 256

// tmpfsDefaults may be lifted one by one: the last word counts.
var tmpfsDefaults = []string{"nosuid", "nodev", "noexec"}

// tmpfsMounts translates the file systems in memory.
func (b *builder) tmpfsMounts() ([]specs.Mount, error) {
	list := b.in.Extras.Tmpfs
	if len(list) > maxTmpfs {
		return nil, invalid("tmpfs", "more than %d", maxTmpfs)
	}
	var mounts []specs.Mount
	seen := map[string]bool{}
	for _, m := range b.cfg.GetMounts() {
		seen[filepath.Clean(m.GetContainerPath())] = true
	}
	for i, t := range list {
		field := fmt.Sprintf("tmpfs[%d]", i)
		if err := checkPathText(field+".path", t.Path); err != nil {
			return nil, err
		}
		path := filepath.Clean(t.Path)
		switch {
		case !filepath.IsAbs(path):
			return nil, invalid(field+".path", "%s is not absolute", quote(t.Path))
		case path == "/" || isAtOrBelow(path, "/proc"):
			return nil, invalid(field+".path", "there can be none on %s", quote(path))
		case seen[path]:
			return nil, invalid(field+".path", "%s is a mount point twice", quote(path))
		}
		seen[path] = true
		if err := checkTmpfsOptions(field+".options", t.Options); err != nil {
			return nil, err
		}
		mounts = append(mounts, specs.Mount{Destination: path, Type: "tmpfs", Source: "tmpfs", Options: slices.Concat(tmpfsDefaults, t.Options)})
	}
	return mounts, nil
}

func checkTmpfsOptions(field string, options []string) error {
	if len(options) > maxTmpfs {
		return invalid(field, "more than %d", maxTmpfs)
	}
	for i, o := range options {
		name, value, _ := strings.Cut(o, "=")
		word := name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == ""
		if !word || len(o) > maxQuoted || hasControl(value) || strings.ContainsAny(value, ", ") {
			return invalid(fmt.Sprintf("%s[%d]", field, i), "%s is no mount option", quote(o))
		}
	}
	return nil
}

// initMount shows the init in the container and makes it run the command.
func (b *builder) initMount() ([]specs.Mount, error) {
	if b.in.Extras.Init == "" {
		return nil, nil
	}
	for i, m := range b.cfg.GetMounts() {
		if at := filepath.Clean(m.GetContainerPath()); isAtOrBelow(initPath, at) {
			return nil, invalid("init", "config.mounts[%d] covers %s, where the init is to be", i, filepath.Dir(initPath))
		}
	}
	b.spec.Process.Args = append([]string{initPath}, b.spec.Process.Args...)
	return []specs.Mount{{Destination: initPath, Type: "bind", Source: b.in.Extras.Init, Options: []string{"bind", private, "ro", "nosuid", "nodev"}}}, nil
}
