package containers

import (
	"github.com/spf13/pflag"

	"github.com/cri-node/cri-node/pkg/cli/argument"
)

// refused are flags of docker that mean nothing here, and what to do instead.
func refused() map[string]string {
	const (
		addresses = "is not supported: the network gives addresses"
		throttle  = "is not supported: nothing here bounds what a container reads and writes"
		windows   = "is for Windows"
		gone      = "is not supported: the kernel has no such thing any more, on cgroup v2"
	)
	return map[string]string{
		"link":                "is not supported: give both containers the same --network NAME, and they know each other by name",
		"gpus":                "is not supported: --device VENDOR/CLASS=NAME gives a CDI device, such as --device nvidia.com/gpu=all",
		"ip":                  addresses,
		"ip6":                 addresses,
		"link-local-ip":       addresses,
		"mac-address":         addresses,
		"volume-driver":       "is not supported: volumes are directories of this machine",
		"storage-opt":         "is not supported: the root file system may grow as its disk does",
		"device-cgroup-rule":  "is not supported: name the device with --device",
		"blkio-weight":        throttle,
		"blkio-weight-device": throttle,
		"device-read-bps":     throttle,
		"device-read-iops":    throttle,
		"device-write-bps":    throttle,
		"device-write-iops":   throttle,
		"kernel-memory":       gone,
		"memory-swappiness":   gone,
		"cpu-rt-period":       gone,
		"cpu-rt-runtime":      gone,
		"cpu-count":           windows + ": --cpus bounds them",
		"cpu-percent":         windows + ": --cpus bounds them",
		"io-maxbandwidth":     windows,
		"io-maxiops":          windows,
		"use-api-socket":      "is not supported: -v mounts the daemon's socket, which makes a container root on this machine",
	}
}

// harmless are flags of docker with the values that ask for what is the case
// anyhow, and what is wrong with others.
func harmless() map[string]argument.Harmless {
	return map[string]argument.Harmless{
		"cgroupns":              {Only: "private", Why: "each container has a cgroup namespace of its own"},
		"isolation":             {Only: "default", Why: "others are for Windows"},
		"disable-content-trust": {Boolean: true, Why: "there is no such trust: signatures are checked as the daemon's configuration says"},
		"oom-kill-disable":      {Boolean: true, Only: "false", Why: "the kernel has no such thing any more, on cgroup v2"},
	}
}

// addRefusedFlags adds the flags of docker that are refused with an explanation,
// or taken because they ask for nothing.
func addRefusedFlags(f *pflag.FlagSet) {
	for name, why := range refused() {
		argument.Refuse(f, name, why)
	}
	for name, h := range harmless() {
		h.Add(f, name)
	}
}
