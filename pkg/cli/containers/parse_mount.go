package containers

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Mount is what -v, --mount or --tmpfs asks for; one field is set.
type Mount struct {
	Bind   *runtimeapi.Mount // of a path of the machine, or of an image
	Volume *nodev1.VolumeMount
	Tmpfs  *nodev1.Tmpfs
	// MustExist: the path on the machine is not made where it is missing.
	MustExist bool
}

// Destination is where it is to be inside the container.
func (m Mount) Destination() string {
	switch {
	case m.Volume != nil:
		return m.Volume.GetPath()
	case m.Tmpfs != nil:
		return m.Tmpfs.GetPath()
	}
	return m.Bind.GetContainerPath()
}

// ParseVolume reads -v: PATH, or SOURCE:PATH[:OPTIONS], where SOURCE is a path
// of the machine if it begins with / or . and else the name of a volume. workdir
// is what relative paths are relative to.
func ParseVolume(s, workdir string) (Mount, error) {
	wrong := func(why string) (Mount, error) { return Mount{}, fmt.Errorf("invalid volume %q: %s", s, why) }
	parts := strings.Split(s, ":")
	if len(parts) > 3 {
		return wrong("too many colons: it is [VOLUME_OR_PATH:]PATH[:OPTIONS]")
	}
	if len(parts) == 1 {
		if !path.IsAbs(s) {
			return wrong("the path inside the container must be absolute")
		}
		return Mount{Volume: &nodev1.VolumeMount{Path: path.Clean(s)}}, nil
	}
	source, destination, options := parts[0], parts[1], []string(nil)
	if len(parts) == 3 {
		options = strings.Split(parts[2], ",")
	}
	if source == "" {
		return wrong("the source is empty")
	}
	if !path.IsAbs(destination) {
		return wrong("the path inside the container must be absolute")
	}
	if path.Clean(destination) == "/" {
		return wrong("the destination cannot be /")
	}
	if source[0] == '/' || source[0] == '.' || source[0] == '~' {
		m, err := bindOf(source, destination, workdir, options)
		if err != nil {
			return wrong(err.Error())
		}
		return Mount{Bind: m}, nil
	}
	if err := checkVolumeName(source); err != nil {
		return wrong(err.Error())
	}
	v := &nodev1.VolumeMount{Name: source, Path: path.Clean(destination)}
	for _, o := range options {
		switch o {
		case "ro":
			v.Readonly = true
		case "nocopy":
			v.NoCopy = true
		case "rw", "z", "Z", "":
		default:
			return wrong(fmt.Sprintf("unknown option %q of a volume: it can be ro, rw or nocopy", o))
		}
	}
	return Mount{Volume: v}, nil
}

func bindOf(source, destination, workdir string, options []string) (*runtimeapi.Mount, error) {
	if source[0] == '~' {
		return nil, errors.New("~ was not expanded by the shell: write $HOME")
	}
	if !filepath.IsAbs(source) {
		source = filepath.Join(workdir, source)
	}
	m := &runtimeapi.Mount{HostPath: filepath.Clean(source), ContainerPath: path.Clean(destination)}
	for _, o := range options {
		switch o {
		case "ro":
			m.Readonly = true
		case "z", "Z":
			m.SelinuxRelabel = true
		case "shared", "rshared", "slave", "rslave", "private", "rprivate":
			m.Propagation = propagation(o)
		case "rw", "", "cached", "delegated", "consistent", "rbind", "bind":
		case "nocopy":
			return nil, errors.New("nocopy is for volumes")
		default:
			return nil, fmt.Errorf("unknown option %q: it can be ro, rw, z, Z, rshared, rslave or rprivate", o)
		}
	}
	return m, nil
}

func propagation(name string) runtimeapi.MountPropagation {
	switch strings.TrimPrefix(name, "r") {
	case "shared":
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	case "slave":
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

func checkVolumeName(name string) error {
	isAllowed := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r)
	}
	refused := strings.ContainsFunc(name, func(r rune) bool { return !isAllowed(r) })
	if len(name) < 2 || refused || strings.ContainsRune("_.-", rune(name[0])) {
		return fmt.Errorf("%q is no name of a volume (letters, digits, _ . -, two or more): for a directory give an absolute path", name)
	}
	return nil
}

// ParseTmpfs reads PATH[:OPTIONS]. As with docker nothing in it is executed or
// has a device unless it says so.
func ParseTmpfs(s string) (*nodev1.Tmpfs, error) {
	at, options, _ := strings.Cut(s, ":")
	if !path.IsAbs(at) || path.Clean(at) == "/" {
		return nil, fmt.Errorf("invalid tmpfs %q: it is PATH[:OPTIONS], with an absolute path", s)
	}
	t := &nodev1.Tmpfs{Path: path.Clean(at), Options: []string{"nosuid", "nodev", "noexec"}}
	for _, o := range strings.Split(options, ",") {
		key, _, _ := strings.Cut(o, "=")
		switch key {
		case "":
			continue
		case "rw", "ro", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks",
			"noatime", "relatime", "strictatime", "sync", "async", "huge":
		default:
			return nil, fmt.Errorf("invalid tmpfs %q: unknown option %q", s, o)
		}
		// The opposite of a default takes its place.
		t.Options = slices.DeleteFunc(t.Options, func(d string) bool { return d == "no"+o || d == o })
		t.Options = append(t.Options, o)
	}
	return t, nil
}

// mountFields are the keys of --mount, as given.
type mountFields struct {
	kind, source, target string
	readonly, noCopy     bool
	propagation, subpath string
	tmpfs                []string
}

// ParseMount reads --mount: type=bind|volume|tmpfs|image, then KEY=VALUE.
func ParseMount(s, workdir string) (Mount, error) {
	wrong := func(why string) (Mount, error) { return Mount{}, fmt.Errorf("invalid mount %q: %s", s, why) }
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return wrong("it is KEY=VALUE, with commas between")
	}
	f := mountFields{kind: "volume"}
	for _, field := range fields {
		key, value, has := strings.Cut(field, "=")
		if err := f.set(strings.ToLower(key), value, has); err != nil {
			return wrong(err.Error())
		}
	}
	if !path.IsAbs(f.target) || path.Clean(f.target) == "/" {
		return wrong("target is required, an absolute path other than /")
	}
	m, err := f.mount(workdir)
	if err != nil {
		return wrong(err.Error())
	}
	return m, nil
}

func (f *mountFields) set(key, value string, has bool) error {
	yes := func(at *bool) error {
		if !has {
			*at = true
			return nil
		}
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%s is true or false", key)
		}
		*at = b
		return nil
	}
	switch key {
	case "type":
		f.kind = strings.ToLower(value)
	case "source", "src":
		f.source = value
	case "target", "dst", "destination":
		f.target = value
	case "readonly", "ro":
		return yes(&f.readonly)
	case "volume-nocopy":
		return yes(&f.noCopy)
	case "volume-subpath", "image-subpath":
		f.subpath = value
	case "bind-propagation":
		f.propagation = value
	case "tmpfs-size":
		size, err := ParseBytes(value)
		if err != nil {
			return err
		}
		f.tmpfs = append(f.tmpfs, fmt.Sprintf("size=%d", size))
	case "tmpfs-mode":
		if _, err := strconv.ParseUint(value, 8, 12); err != nil {
			return fmt.Errorf("tmpfs-mode %q is no mode", value)
		}
		f.tmpfs = append(f.tmpfs, "mode="+value)
	case "consistency", "bind-create-src":
	default:
		return fmt.Errorf("unexpected key %q", key)
	}
	return nil
}

func (f *mountFields) mount(workdir string) (Mount, error) {
	target := path.Clean(f.target)
	switch f.kind {
	case "bind":
		if f.source == "" {
			return Mount{}, errors.New("source is required with type=bind")
		}
		if !filepath.IsAbs(f.source) && f.source[0] != '.' {
			return Mount{}, fmt.Errorf("source %q is no path; for a volume say type=volume", f.source)
		}
		var options []string
		if f.propagation != "" {
			options = append(options, f.propagation)
		}
		m, err := bindOf(f.source, target, workdir, options)
		if err != nil {
			return Mount{}, err
		}
		m.Readonly = f.readonly
		return Mount{Bind: m, MustExist: true}, nil
	case "volume":
		if f.source != "" {
			if err := checkVolumeName(f.source); err != nil {
				return Mount{}, err
			}
		}
		return Mount{Volume: &nodev1.VolumeMount{Name: f.source, Path: target, Readonly: f.readonly, NoCopy: f.noCopy, Subpath: f.subpath}}, nil
	case "tmpfs":
		if f.source != "" {
			return Mount{}, errors.New("a tmpfs has no source")
		}
		t, err := ParseTmpfs(target + ":" + strings.Join(f.tmpfs, ","))
		if err == nil && f.readonly {
			t.Options = append(t.Options, "ro")
		}
		return Mount{Tmpfs: t}, err
	case "image":
		if f.source == "" {
			return Mount{}, errors.New("source is required with type=image: the image")
		}
		return Mount{Bind: &runtimeapi.Mount{
			ContainerPath: target, Readonly: true,
			Image: &runtimeapi.ImageSpec{Image: f.source}, ImageSubPath: f.subpath,
		}}, nil
	}
	return Mount{}, fmt.Errorf("unknown type %q: it can be bind, volume, tmpfs or image", f.kind)
}
