package containers

import (
	"errors"
	"strconv"

	"github.com/spf13/pflag"
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
func harmless() map[string]harmlessFlag {
	return map[string]harmlessFlag{
		"cgroupns":              {only: "private", why: "each container has a cgroup namespace of its own"},
		"isolation":             {only: "default", why: "others are for Windows"},
		"disable-content-trust": {boolean: true, why: "there is no such trust: signatures are checked as the daemon's configuration says"},
		"oom-kill-disable":      {boolean: true, only: "false", why: "the kernel has no such thing any more, on cgroup v2"},
	}
}

// RefusedFlagError is that of a flag of docker that means nothing here: it says
// what to do instead.
type RefusedFlagError string

func (e RefusedFlagError) Error() string { return string(e) }

// refusedFlag is a flag that explains why it is none.
type refusedFlag string

func (refusedFlag) String() string     { return "" }
func (refusedFlag) Type() string       { return "string" }
func (r refusedFlag) Set(string) error { return RefusedFlagError(r) }

// harmlessFlag is a flag that may have one value, or, if only is empty, any.
type harmlessFlag struct {
	boolean   bool
	only, why string
}

func (harmlessFlag) String() string { return "" }

func (h harmlessFlag) Type() string {
	if h.boolean {
		return "bool"
	}
	return "string"
}

func (h harmlessFlag) Set(value string) error {
	if h.boolean {
		yes, err := strconv.ParseBool(value)
		if err != nil {
			return err
		}
		value = strconv.FormatBool(yes)
	}
	if h.only != "" && value != h.only {
		return errors.New("it can only be " + h.only + ": " + h.why)
	}
	return nil
}

// addRefusedFlags adds the flags of docker that are refused with an explanation,
// or taken because they ask for nothing.
func addRefusedFlags(f *pflag.FlagSet) {
	for name, why := range refused() {
		refuse(f, name, why)
	}
	for name, h := range harmless() {
		flag := f.VarPF(h, name, "", h.why)
		flag.Hidden = true
		if h.boolean {
			flag.NoOptDefVal = "true"
		}
	}
}

// refuse adds a flag that says why there is none.
func refuse(f *pflag.FlagSet, name, why string) {
	flag := f.VarPF(refusedFlag("--"+name+" "+why), name, "", why)
	flag.Hidden = true
	flag.NoOptDefVal = " " // with or without a value
}
