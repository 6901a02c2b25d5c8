package containers

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/pkg/cli/argument"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// Request turns the options, an image and a command into what the daemon is
// asked for.
func (o *Options) Request(m Machine, image string, args []string) (*nodev1.CreateRequest, error) {
	r := &nodev1.CreateRequest{
		Name: o.Name,
		Pod: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{},
			Linux: &runtimeapi.LinuxPodSandboxConfig{
				CgroupParent:    o.CgroupParent,
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{Privileged: o.Privileged},
			},
		},
		Container: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{},
			Image:    &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: image},
			Args:     args,
			Stdin:    o.Interactive, Tty: o.TTY,
			// A person's container has one stdin: at its end the process is told.
			StdinOnce: o.Interactive && !o.Detach,
			Linux:     &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{}},
		},
		Handler:     o.Runtime,
		AutoRemove:  o.Remove,
		Init:        o.Init,
		StopSignal:  o.StopSignal,
		StopTimeout: o.StopTimeout,
		PidsLimit:   max(o.PidsLimit, 0),
		User:        o.User,
		GroupAdd:    o.GroupAdd,
	}
	// 1. What stands for itself; 2. what others depend on.
	for _, step := range []func(*nodev1.CreateRequest, Machine) error{
		o.process, o.metadata, o.restart, o.resources, o.mounts, o.devices, o.security, o.namespaces, o.network, o.ports, o.health,
	} {
		if err := step(r, m); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (o *Options) process(r *nodev1.CreateRequest, m Machine) (err error) {
	c := r.GetContainer()
	if o.EntrypointSet && o.Entrypoint == "" {
		r.EntrypointCleared = true
	} else if o.Entrypoint != "" {
		c.Command = []string{o.Entrypoint}
		// The image's CMD is for the image's entrypoint.
		r.EntrypointCleared = false
	}
	if o.Workdir != "" {
		if !path.IsAbs(o.Workdir) {
			return fmt.Errorf("the working directory %q is invalid, it needs to be an absolute path", o.Workdir)
		}
		c.WorkingDir = path.Clean(o.Workdir)
	}
	c.Envs, err = environment(m, o.EnvFiles, o.Env)
	return err
}

func (o *Options) metadata(r *nodev1.CreateRequest, m Machine) (err error) {
	c, pod := r.GetContainer(), r.GetPod()
	if c.Labels, err = pairs(m, "label", o.LabelFiles, o.Labels); err != nil {
		return err
	}
	if c.Annotations, err = pairs(m, "annotation", nil, o.Annotations); err != nil {
		return err
	}
	pod.Annotations = c.GetAnnotations()
	if r.Log, err = o.logBound(); err != nil {
		return err
	}
	switch o.LogDriver {
	case "", "json-file", "local", "k8s-file":
		return nil
	}
	return fmt.Errorf("log driver %q is not supported: logs are files that `cri-node logs` reads", o.LogDriver)
}

func (o *Options) restart(r *nodev1.CreateRequest, _ Machine) (err error) {
	if r.Restart, err = ParseRestart(o.Restart); err != nil {
		return err
	}
	if o.Remove && r.GetRestart().GetName() != "no" {
		return errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	return nil
}

func (o *Options) resources(r *nodev1.CreateRequest, _ Machine) (err error) {
	if r.Container.Linux.Resources, err = o.Resources(); err != nil {
		return err
	}
	if o.ShmSize != "" {
		if r.ShmSize, err = ParseBytes(o.ShmSize); err != nil {
			return fmt.Errorf("--shm-size: %w", err)
		}
		if r.GetShmSize() == 0 {
			return errors.New("--shm-size: the size must be greater than 0")
		}
	}
	for _, s := range o.Ulimits {
		u, err := ParseUlimit(s)
		if err != nil {
			return err
		}
		r.Ulimits = append(r.Ulimits, u)
	}
	return nil
}

// Resources are the limits, as `update` can change them as well.
func (o *Options) Resources() (*runtimeapi.LinuxContainerResources, error) {
	res := &runtimeapi.LinuxContainerResources{
		CpuShares: o.CPUShares, CpuPeriod: o.CPUPeriod, CpuQuota: o.CPUQuota,
		CpusetCpus: o.CpusetCPUs, CpusetMems: o.CpusetMems, OomScoreAdj: o.OOMScoreAdj,
	}
	var err error
	if o.CPUs != "" {
		if o.CPUQuota != 0 || o.CPUPeriod != 0 {
			return nil, errors.New("conflicting options: --cpus and --cpu-period or --cpu-quota cannot both be set")
		}
		if res.CpuQuota, err = ParseCPUs(o.CPUs); err != nil {
			return nil, err
		}
		if res.GetCpuQuota() > 0 {
			res.CpuPeriod = CPUPeriod
		}
	}
	if o.OOMScoreAdj < -1000 || o.OOMScoreAdj > 1000 {
		return nil, fmt.Errorf("--oom-score-adj %d is not in -1000..1000", o.OOMScoreAdj)
	}
	return res, o.memory(res)
}

// leastMemory is docker's minimum: with less no container starts.
const leastMemory = 6 << 20

func (o *Options) memory(res *runtimeapi.LinuxContainerResources) (err error) {
	if o.Memory != "" {
		if res.MemoryLimitInBytes, err = ParseBytes(o.Memory); err != nil {
			return fmt.Errorf("--memory: %w", err)
		}
		if m := res.GetMemoryLimitInBytes(); m > 0 && m < leastMemory {
			return errors.New("minimum memory limit allowed is 6MB")
		}
	}
	switch o.MemorySwap {
	case "":
	case "-1":
		res.MemorySwapLimitInBytes = -1
	default:
		if res.MemorySwapLimitInBytes, err = ParseBytes(o.MemorySwap); err != nil {
			return fmt.Errorf("--memory-swap: %w", err)
		}
		if res.GetMemoryLimitInBytes() == 0 && res.GetMemorySwapLimitInBytes() > 0 {
			return errors.New("you should always set the memory limit when using the memory swap limit: --memory")
		}
		if s := res.GetMemorySwapLimitInBytes(); s > 0 && s < res.GetMemoryLimitInBytes() {
			return errors.New("minimum memory swap limit should be larger than the memory limit: --memory-swap counts both")
		}
	}
	if o.MemoryReservation != "" {
		low, err := ParseBytes(o.MemoryReservation)
		if err != nil {
			return fmt.Errorf("--memory-reservation: %w", err)
		}
		res.Unified = map[string]string{"memory.low": fmt.Sprint(low)}
	}
	return nil
}

func (o *Options) mounts(r *nodev1.CreateRequest, m Machine) error {
	workdir, err := m.Getwd()
	if err != nil {
		return err
	}
	var all []Mount
	for _, s := range o.Volumes {
		mount, err := ParseVolume(s, workdir)
		if err != nil {
			return err
		}
		all = append(all, mount)
	}
	for _, s := range o.Mounts {
		mount, err := ParseMount(s, workdir)
		if err != nil {
			return err
		}
		all = append(all, mount)
	}
	for _, s := range o.Tmpfs {
		t, err := ParseTmpfs(s)
		if err != nil {
			return err
		}
		all = append(all, Mount{Tmpfs: t})
	}
	seen := make(map[string]bool)
	for _, mount := range all {
		if seen[mount.Destination()] {
			return fmt.Errorf("duplicate mount point: %s", mount.Destination())
		}
		seen[mount.Destination()] = true
		switch {
		case mount.Bind != nil:
			r.Container.Mounts = append(r.Container.Mounts, mount.Bind)
		case mount.Volume != nil:
			r.Volumes = append(r.Volumes, mount.Volume)
		default:
			r.Tmpfs = append(r.Tmpfs, mount.Tmpfs)
		}
		if mount.MustExist {
			if err := m.Exists(mount.Bind.GetHostPath()); err != nil {
				return fmt.Errorf("bind source path does not exist: %w", err)
			}
		}
	}
	return nil
}

func (o *Options) devices(r *nodev1.CreateRequest, _ Machine) error {
	for _, s := range o.Devices {
		if isCDI(s) {
			r.Container.CDIDevices = append(r.Container.CDIDevices, &runtimeapi.CDIDevice{Name: s})
			continue
		}
		d, err := ParseDevice(s)
		if err != nil {
			return err
		}
		r.Container.Devices = append(r.Container.Devices, d)
	}
	return nil
}

func (o *Options) health(r *nodev1.CreateRequest, _ Machine) error {
	h := o.Health
	if h.Disable {
		if h != (HealthOptions{Disable: true}) {
			return errors.New("--no-healthcheck conflicts with --health-* options")
		}
		r.Healthcheck = &nodev1.Healthcheck{Test: []string{"NONE"}}
		return nil
	}
	if h == (HealthOptions{}) {
		return nil
	}
	for name, d := range map[string]int64{
		"interval": int64(h.Interval), "timeout": int64(h.Timeout),
		"start-period": int64(h.StartPeriod), "start-interval": int64(h.StartInterval),
	} {
		if d < 0 {
			return fmt.Errorf("--health-%s cannot be negative", name)
		}
	}
	r.Healthcheck = &nodev1.Healthcheck{
		Interval: int64(h.Interval), Timeout: int64(h.Timeout),
		StartPeriod: int64(h.StartPeriod), StartInterval: int64(h.StartInterval), Retries: h.Retries,
	}
	if h.Command != "" {
		r.Healthcheck.Test = []string{"CMD-SHELL", h.Command}
	}
	return nil
}

// Warnings are what a person should know about options that are taken but do
// less than they say.
func (o *Options) Warnings() []string {
	var all []string
	if slices.Contains(o.Networks, "host") && len(o.Publish) > 0 {
		all = append(all, "WARNING: Published ports are discarded when using host network mode")
	}
	for _, s := range o.LogOptions {
		if key, _, _ := strings.Cut(s, "="); key != logMaxSize && key != logMaxFile {
			all = append(all, "WARNING: --log-opt "+s+" is ignored: it can be "+logMaxSize+" and "+logMaxFile)
		}
	}
	return all
}

// The options of logs that are taken.
const (
	logMaxSize = "max-size"
	logMaxFile = "max-file"
)

// logBound reads the options of the log; without a bound it is nil.
func (o *Options) logBound() (*nodev1.LogBound, error) {
	bound := &nodev1.LogBound{}
	for _, s := range o.LogOptions {
		key, value, err := argument.Pair("--log-opt", s)
		if err != nil {
			return nil, err
		}
		switch key {
		case logMaxSize:
			if value == "-1" {
				bound.MaxSize = -1
				continue
			}
			if bound.MaxSize, err = ParseBytes(value); err != nil || bound.GetMaxSize() == 0 {
				return nil, fmt.Errorf("--log-opt %s: %q is no size such as 10m", logMaxSize, value)
			}
		case logMaxFile:
			files, err := strconv.ParseUint(value, 10, 16)
			if err != nil || files == 0 {
				return nil, fmt.Errorf("--log-opt %s: %q is no number of files, 1 or more", logMaxFile, value)
			}
			bound.MaxFiles = uint32(files)
		}
	}
	switch {
	case bound.GetMaxSize() == 0 && bound.GetMaxFiles() > 0:
		return nil, fmt.Errorf("--log-opt %s needs --log-opt %s, such as %s=10m", logMaxFile, logMaxSize, logMaxSize)
	case bound.GetMaxSize() == 0:
		return nil, nil
	}
	return bound, nil
}
