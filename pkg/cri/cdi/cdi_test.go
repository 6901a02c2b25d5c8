package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const gpu = `
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits:
  env: [ALL=1]
devices:
- name: "0"
  containerEdits:
    env: [GPU=0]
    deviceNodes: [{path: /dev/gpu0, hostPath: /dev/null, permissions: rw}]
    mounts: [{hostPath: /etc, containerPath: /gpu, options: [ro, bind]}]
    hooks: [{hookName: createRuntime, path: /bin/true}]
- name: "1"
  containerEdits: {env: [GPU=1]}
`

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func emptySpec() *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Env: []string{"GPU=none"}}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
}

func TestInject(t *testing.T) {
	first, second := t.TempDir(), filepath.Join(t.TempDir(), "later")
	r := New([]string{first, second})
	spec := emptySpec()
	if err := r.Inject(spec, []string{"vendor.com/gpu=0"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("device of no file: %v", err)
	}
	write(t, first, "gpu.yaml", gpu)
	if err := r.Inject(spec, []string{"vendor.com/gpu=0"}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(spec.Process.Env, []string{"GPU=0", "ALL=1"}) {
		t.Errorf("environment is %v", spec.Process.Env)
	}
	if d := spec.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/gpu0" || d[0].Major != 1 || d[0].Minor != 3 {
		t.Errorf("devices are %+v", d)
	}
	if rules := spec.Linux.Resources.Devices; len(rules) != 1 || !rules[0].Allow || rules[0].Access != "rw" {
		t.Errorf("rules are %+v", rules)
	}
	if len(spec.Mounts) != 1 || spec.Mounts[0].Destination != "/gpu" || spec.Hooks == nil || len(spec.Hooks.CreateRuntime) != 1 {
		t.Errorf("mounts %+v, hooks %+v", spec.Mounts, spec.Hooks)
	}
	// A later directory, one that was not there, overrides.
	if err := os.Mkdir(second, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, second, "gpu.json", `{"cdiVersion":"0.6.0","kind":"vendor.com/gpu","devices":[{"name":"1","containerEdits":{"env":["GPU=override"]}}]}`)
	spec = emptySpec()
	if err := r.Inject(spec, []string{"vendor.com/gpu=1"}); err != nil || !slices.Contains(spec.Process.Env, "GPU=override") {
		t.Errorf("override: %v, %v", spec.Process.Env, err)
	}
	spec = emptySpec()
	if err := r.Inject(spec, []string{"vendor.com/gpu=0", "vendor.com/gpu=9"}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "vendor.com/gpu=9") || spec.Mounts != nil {
		t.Errorf("one of two unknown: %v", err)
	}
	// A broken file is named to those who miss a device, and hurts nobody else.
	write(t, first, "broken.yaml", "kind: [")
	if err := r.Inject(spec, []string{"other.com/x=1"}); err == nil || !strings.Contains(err.Error(), "broken.yaml") {
		t.Errorf("broken file: %v", err)
	}
	if err := r.Inject(emptySpec(), []string{"vendor.com/gpu=0"}); err != nil {
		t.Errorf("beside a broken file: %v", err)
	}
	if err := os.Remove(filepath.Join(first, "gpu.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := r.Inject(emptySpec(), []string{"vendor.com/gpu=0"}); err == nil {
		t.Error("the device of a file that is gone was found")
	}
	none := New(nil)
	if err := none.Inject(emptySpec(), nil); err != nil {
		t.Error(err)
	}
	if err := none.Inject(emptySpec(), []string{"vendor.com/gpu=0"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("switched off: %v", err)
	}
}

func TestInjectWithUserNamespace(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "gpu.yaml", gpu)
	spec := emptySpec()
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}}
	if err := New([]string{dir}).Inject(spec, []string{"vendor.com/gpu=0"}); err != nil {
		t.Fatal(err)
	}
	if len(spec.Linux.Devices) != 0 || len(spec.Linux.Resources.Devices) != 1 {
		t.Errorf("devices are %+v, rules %+v", spec.Linux.Devices, spec.Linux.Resources.Devices)
	}
	last := spec.Mounts[len(spec.Mounts)-1]
	if last.Destination != "/dev/gpu0" || last.Source != "/dev/null" || last.Type != "bind" {
		t.Errorf("mounts are %+v", spec.Mounts)
	}
}

func TestRequested(t *testing.T) {
	names, err := Requested(&runtimeapi.ContainerConfig{
		CDIDevices: []*runtimeapi.CDIDevice{{Name: "vendor.com/gpu=1"}, {Name: "vendor.com/gpu=0"}},
		Annotations: map[string]string{
			"cdi.k8s.io/plugin": "vendor.com/gpu=0,vendor.com/net=2", "tags.cncf.io/container-device-interface": "a.b/c=d",
			"tags.cncf.io/container-device-interface/x": "a.b/c=e", "tags.cncf.io/container-device-interfaces": "nonsense", "x": "y",
		},
	})
	want := []string{"vendor.com/gpu=1", "vendor.com/gpu=0", "vendor.com/net=2", "a.b/c=d", "a.b/c=e"}
	if err != nil || !slices.Equal(names, want) {
		t.Errorf("devices are %v, %v", names, err)
	}
	for _, bad := range []string{"", "gpu", "vendor.com/gpu", "vendor.com/gpu=", "../x/y=z", "vendor.com/gpu=a b", "vendor.com/gpu=0,"} {
		for field, config := range map[string]*runtimeapi.ContainerConfig{
			"config.CDI_devices[0].name": {CDIDevices: []*runtimeapi.CDIDevice{{Name: bad}}},
			"config.annotations[":        {Annotations: map[string]string{"cdi.k8s.io/a": bad}},
		} {
			if _, err := Requested(config); !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), field) {
				t.Errorf("%q in %s: %v", bad, field, err)
			}
		}
	}
}

func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "gpu.yaml", gpu)
	r := New([]string{dir})
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 20 {
				write(t, t.TempDir(), "x", "x")
				if err := r.Inject(emptySpec(), []string{"vendor.com/gpu=1"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		write(t, dir, "gpu.yaml", gpu)
	}
	wait.Wait()
}
