package nri

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// generator is what the library's generate package changes a spec with.
type generator struct{ spec *specs.Spec }

func (g *generator) Spec() *specs.Spec { return g.spec }

func (g *generator) process() *specs.Process { return made(&g.spec.Process) }
func (g *generator) linux() *specs.Linux     { return made(&g.spec.Linux) }
func (g *generator) hooks() *specs.Hooks     { return made(&g.spec.Hooks) }
func (g *generator) resources() *specs.LinuxResources {
	return made(&g.linux().Resources)
}
func (g *generator) cpu() *specs.LinuxCPU       { return made(&g.resources().CPU) }
func (g *generator) memory() *specs.LinuxMemory { return made(&g.resources().Memory) }

// made makes what a pointer should point to.
func made[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

func put(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

func (g *generator) AddAnnotation(key, value string) { put(&g.spec.Annotations, key, value) }
func (g *generator) RemoveAnnotation(key string)     { delete(g.spec.Annotations, key) }

func (g *generator) AddProcessEnv(name, value string) {
	p := g.process()
	p.Env = slices.DeleteFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	p.Env = append(p.Env, name+"="+value)
}
func (g *generator) ClearProcessEnv()             { g.process().Env = nil }
func (g *generator) SetProcessArgs(args []string) { g.process().Args = args }
func (g *generator) SetProcessOOMScoreAdj(n int)  { g.process().OOMScoreAdj = &n }

func (g *generator) AddPreStartHook(h specs.Hook) {
	//nolint:staticcheck // NRI still has them.
	g.hooks().Prestart = append(g.hooks().Prestart, h)
}

func (g *generator) AddPostStartHook(h specs.Hook) {
	g.hooks().Poststart = append(g.hooks().Poststart, h)
}

func (g *generator) AddPostStopHook(h specs.Hook) {
	g.hooks().Poststop = append(g.hooks().Poststop, h)
}

func (g *generator) Mounts() []specs.Mount  { return g.spec.Mounts }
func (g *generator) ClearMounts()           { g.spec.Mounts = nil }
func (g *generator) AddMount(m specs.Mount) { g.spec.Mounts = append(g.spec.Mounts, m) }
func (g *generator) RemoveMount(dest string) {
	g.spec.Mounts = slices.DeleteFunc(slices.Clone(g.spec.Mounts), func(m specs.Mount) bool { return m.Destination == dest })
}

func (g *generator) AddDevice(d specs.LinuxDevice) {
	g.RemoveDevice(d.Path)
	g.linux().Devices = append(g.linux().Devices, d)
}

func (g *generator) RemoveDevice(path string) {
	l := g.linux()
	l.Devices = slices.DeleteFunc(slices.Clone(l.Devices), func(d specs.LinuxDevice) bool { return d.Path == path })
}

func (g *generator) AddLinuxResourcesDevice(allow bool, kind string, major, minor *int64, access string) {
	r := g.resources()
	r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access})
}

func (g *generator) AddLinuxResourcesHugepageLimit(pageSize string, limit uint64) {
	r := g.resources()
	for i := range r.HugepageLimits {
		if r.HugepageLimits[i].Pagesize == pageSize {
			r.HugepageLimits[i].Limit = limit
			return
		}
	}
	r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: pageSize, Limit: limit})
}

func (g *generator) AddLinuxResourcesUnified(key, value string) {
	put(&g.resources().Unified, key, value)
}

func (g *generator) AddLinuxSysctl(key, value string)    { put(&g.linux().Sysctl, key, value) }
func (g *generator) RemoveLinuxSysctl(key string)        { delete(g.linux().Sysctl, key) }
func (g *generator) SetLinuxCgroupsPath(path string)     { g.linux().CgroupsPath = path }
func (g *generator) SetLinuxResourcesCPUCpus(v string)   { g.cpu().Cpus = v }
func (g *generator) SetLinuxResourcesCPUMems(v string)   { g.cpu().Mems = v }
func (g *generator) SetLinuxResourcesCPUPeriod(v uint64) { g.cpu().Period = &v }
func (g *generator) SetLinuxResourcesCPUQuota(v int64)   { g.cpu().Quota = &v }
func (g *generator) SetLinuxResourcesCPUShares(v uint64) { g.cpu().Shares = &v }
func (g *generator) SetLinuxResourcesCPURealtimePeriod(v uint64) {
	g.cpu().RealtimePeriod = &v
}

func (g *generator) SetLinuxResourcesCPURealtimeRuntime(v int64) {
	g.cpu().RealtimeRuntime = &v
}
func (g *generator) SetLinuxResourcesMemoryLimit(v int64) { g.memory().Limit = &v }
func (g *generator) SetLinuxResourcesMemorySwap(v int64)  { g.memory().Swap = &v }

func (g *generator) SetLinuxRootPropagation(propagation string) error {
	g.linux().RootfsPropagation = propagation
	return nil
}

// namespaceTypes are those of the OCI spec by the names it gives them.
func namespaceTypes() []specs.LinuxNamespaceType {
	return []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
	}
}

func (g *generator) AddOrReplaceLinuxNamespace(name, path string) error {
	if err := g.RemoveLinuxNamespace(name); err != nil {
		return err
	}
	g.linux().Namespaces = append(g.linux().Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(name), Path: path})
	return nil
}

func (g *generator) RemoveLinuxNamespace(name string) error {
	kind := specs.LinuxNamespaceType(name)
	if !slices.Contains(namespaceTypes(), kind) {
		return fmt.Errorf("namespace %q is not known: %w", name, errdefs.ErrInvalidArgument)
	}
	l := g.linux()
	l.Namespaces = slices.DeleteFunc(slices.Clone(l.Namespaces), func(n specs.LinuxNamespace) bool { return n.Type == kind })
	return nil
}
