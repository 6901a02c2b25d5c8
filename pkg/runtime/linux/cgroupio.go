package linux

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readBlkio reads what the throttling of v1 counts, which every I/O scheduler
// has; the files of bfq count only under bfq.
func readBlkio(dir string) []DeviceUsage {
	devices := map[[2]uint32]*DeviceUsage{}
	for file, pick := range map[string]func(*DeviceUsage, string) *uint64{
		"/blkio.throttle.io_service_bytes_recursive": func(d *DeviceUsage, op string) *uint64 {
			switch op {
			case "Read":
				return &d.ReadBytes
			case "Write":
				return &d.WriteBytes
			case "Sync":
				d.HasAsync = true
				return &d.SyncBytes
			case "Async":
				return &d.AsyncBytes
			case "Discard":
				return &d.DiscardBytes
			}
			return nil
		},
		"/blkio.throttle.io_serviced_recursive": func(d *DeviceUsage, op string) *uint64 {
			switch op {
			case "Read":
				return &d.Reads
			case "Write":
				return &d.Writes
			}
			return nil
		},
	} {
		content, err := os.ReadFile(dir + file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(content)) {
			f := strings.Fields(line)
			if len(f) != 3 { // the sum of all has two
				continue
			}
			d := findDevice(devices, f[0])
			if d == nil {
				continue
			}
			if to := pick(d, f[1]); to != nil {
				*to, _ = strconv.ParseUint(f[2], 10, 64)
			}
		}
	}
	return sortDevices(devices)
}

// readIOStat reads io.stat of v2.
func readIOStat(dir string) []DeviceUsage {
	content, err := os.ReadFile(dir + "/io.stat")
	if err != nil {
		return nil
	}
	devices := map[[2]uint32]*DeviceUsage{}
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		d := findDevice(devices, f[0])
		if d == nil {
			continue
		}
		for _, field := range f[1:] {
			key, value, _ := strings.Cut(field, "=")
			to := map[string]*uint64{
				"rbytes": &d.ReadBytes, "wbytes": &d.WriteBytes, "dbytes": &d.DiscardBytes, "rios": &d.Reads, "wios": &d.Writes,
			}[key]
			if to != nil {
				*to, _ = strconv.ParseUint(value, 10, 64)
			}
		}
	}
	return sortDevices(devices)
}

// findDevice finds or adds the device of "major:minor".
func findDevice(devices map[[2]uint32]*DeviceUsage, name string) *DeviceUsage {
	major, minor, _ := strings.Cut(name, ":")
	x, err := strconv.ParseUint(major, 10, 32)
	y, err2 := strconv.ParseUint(minor, 10, 32)
	if errors.Join(err, err2) != nil {
		return nil
	}
	key := [2]uint32{uint32(x), uint32(y)}
	if devices[key] == nil {
		devices[key] = &DeviceUsage{Major: key[0], Minor: key[1]}
	}
	return devices[key]
}

func sortDevices(devices map[[2]uint32]*DeviceUsage) []DeviceUsage {
	var list []DeviceUsage
	for _, d := range devices {
		list = append(list, *d)
	}
	slices.SortFunc(list, func(a, b DeviceUsage) int {
		return cmp.Or(cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor))
	})
	return list
}

// DeviceOf returns the block device a path lies on, as "major:minor" and by its
// name below /dev, which is the same as the first where there is none.
func DeviceOf(path string) (major, minor uint32, name string, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	major, minor = unix.Major(st.Dev), unix.Minor(st.Dev)
	return major, minor, DeviceName(major, minor), nil
}

// DeviceName is what a block device is called: /dev/sda, or 8:0 where sysfs
// does not know it.
func DeviceName(major, minor uint32) string {
	number := fmt.Sprintf("%d:%d", major, minor)
	content, err := os.ReadFile("/sys/dev/block/" + number + "/uevent")
	if err != nil {
		return number
	}
	for line := range strings.Lines(string(content)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	return number
}
