package spec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxDevices bounds what one container's device directories may hold.
const maxDevices = 4096

// defaultAccess of a device for which the request says nothing.
const defaultAccess = "rwm"

// setDevices writes device nodes and the rules of who may use which: none but
// the harmless ones and those requested, or all for a privileged container.
func (b *builder) setDevices(ctx context.Context) error {
	dev := b.in.Host.DevDir
	if dev == "" {
		dev = "/dev"
	}
	set := &deviceSet{}
	if b.sc.GetPrivileged() {
		set.rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: defaultAccess}}
		if !b.in.Defaults.PrivilegedWithoutHostDevices {
			if err := set.addDir(ctx, dev, "/dev", defaultAccess); err != nil {
				return fmt.Errorf("list devices of the machine: %w", err)
			}
			// The one rule above covers them.
			set.rules = set.rules[:1]
		}
	} else {
		set.rules = defaultDeviceRules()
	}
	for i, d := range b.cfg.GetDevices() {
		field := fmt.Sprintf("config.devices[%d]", i)
		if err := set.addRequested(ctx, field, d); err != nil {
			return err
		}
	}
	if b.in.Defaults.DeviceOwnership {
		b.ownDevices(set.devices)
	}
	b.spec.Linux.Devices, b.devices = set.devices, set
	b.spec.Linux.Resources.Devices = set.rules
	return nil
}

// ownDevices gives devices to the user that the request names.
func (b *builder) ownDevices(devices []specs.LinuxDevice) {
	for i := range devices {
		if u := b.sc.GetRunAsUser(); u != nil {
			uid := uint32(u.GetValue()) // validated
			devices[i].UID = &uid
		}
		if g := b.sc.GetRunAsGroup(); g != nil {
			gid := uint32(g.GetValue()) // validated
			devices[i].GID = &gid
		}
	}
}

// defaultDeviceRules deny all, then allow making nodes, which gives no access,
// and the devices that every container's /dev has. Runtimes add these rules
// themselves, as they add the nodes; not all of them do.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: defaultAccess},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, n := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 1}, {5, 2}, {136, -1}, // tty, console, ptmx, pts
	} {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &n[0], Access: defaultAccess}
		if n[1] >= 0 {
			r.Minor = &n[1]
		}
		rules = append(rules, r)
	}
	return rules
}

// deviceSet collects nodes and rules. A later node at a path replaces an
// earlier one.
type deviceSet struct {
	devices []specs.LinuxDevice
	rules   []specs.LinuxDeviceCgroup
	sources map[string]string // where on the machine the device at a path is
}

var errTooManyDevices = fmt.Errorf("more than %d devices", maxDevices)

func (s *deviceSet) addRequested(ctx context.Context, field string, d *runtimeapi.Device) error {
	access := d.GetPermissions()
	if access == "" {
		access = defaultAccess
	}
	at := d.GetContainerPath()
	if at == "" {
		at = d.GetHostPath()
	}
	// A link is followed here and not below a directory, which holds many
	// names for one device.
	source, err := filepath.EvalSymlinks(d.GetHostPath())
	if err != nil {
		return invalid(field+".host_path", "%v", err)
	}
	info, err := os.Lstat(source)
	if err != nil {
		return invalid(field+".host_path", "%v", err)
	}
	if info.IsDir() {
		if err := s.addDir(ctx, source, filepath.Clean(at), access); err != nil {
			return invalid(field+".host_path", "%v", err)
		}
		return nil
	}
	if info.Mode()&fs.ModeDevice == 0 {
		return invalid(field+".host_path", "%s is no device", quote(d.GetHostPath()))
	}
	return s.add(filepath.Clean(at), source, info, access)
}

// add takes one device node. What is no device is left out.
func (s *deviceSet) add(path, source string, info fs.FileInfo, access string) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeDevice == 0 {
		return nil
	}
	if len(s.devices) >= maxDevices {
		return errTooManyDevices
	}
	kind := "b"
	if info.Mode()&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	mode := info.Mode().Perm()
	uid, gid := st.Uid, st.Gid
	s.devices = slices.DeleteFunc(s.devices, func(d specs.LinuxDevice) bool { return d.Path == path })
	s.devices = append(s.devices, specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor, FileMode: &mode, UID: &uid, GID: &gid})
	if s.sources == nil {
		s.sources = make(map[string]string)
	}
	s.sources[path] = source
	s.rules = append(s.rules, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access})
	return nil
}

// notInDev are names below /dev that hold no devices of the machine or that a
// container has of its own.
var notInDev = []string{"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"}

// addDir takes all devices below a directory, in order of their names.
func (s *deviceSet) addDir(ctx context.Context, dir, at, access string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // unplugged meanwhile
		}
		if err != nil {
			return err
		}
		if path != dir && slices.Contains(notInDev, d.Name()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 {
			return nil
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		below, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return s.add(filepath.Join(at, below), path, info, access)
	})
}
