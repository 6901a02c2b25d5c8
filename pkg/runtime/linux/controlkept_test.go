package linux

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestUndoing(t *testing.T) {
	for _, test := range []struct {
		name, before, now string
		want              []string
	}{
		{"nothing changed", "0-1\n", "0-1\n", nil},
		{"value", "0-1\n", "0\n", []string{"0-1\n"}},
		{"no limit", "max\n", "4096\n", []string{"max\n"}},
		{"empty cpuset", "\n", "0\n", []string{"\n"}},
		{"device that had none", "", "8:0 rbps=1 wbps=max riops=max wiops=2\n", []string{"8:0 rbps=max wbps=max riops=max wiops=max\n"}},
		{"device that had some", "8:0 rbps=1 wbps=2\n", "8:0 rbps=3 wbps=2\n8:16 rbps=1 wbps=max\n", []string{"8:0 rbps=1 wbps=2\n", "8:16 rbps=max wbps=max\n"}},
		{"weight of a device", "default 100\n", "default 100\n8:0 200\n", []string{"default 100\n", "8:0 default\n"}},
	} {
		if got := undoing(test.before, test.now); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// What was never set is put back in the kernel: a cpuset, and a limit of version 2
// or of pids, whichever the machine has.
func TestKeepControls(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c, err := DetectCgroups()
	if err != nil {
		t.Fatal(err)
	}
	cgroup := fmt.Sprintf("/cri-node-keep-%d", os.Getpid())
	if err := c.Create(cgroup); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(cgroup); err != nil {
			t.Error(err)
		}
	})
	names := []string{"cpuset.cpus", "pids.max", "hugetlb.2MB.max", "none.at.all", "../x.y", "plain"}
	kept, err := c.KeepControls(cgroup, names)
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) == 0 {
		t.Skip("this machine has no controller to try with")
	}
	for _, k := range kept {
		value := "7"
		if strings.HasSuffix(k.file, "cpuset.cpus") {
			value = "0"
		}
		if err := writeControl(k.file, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := kept.Restore(); err != nil {
		t.Fatal(err)
	}
	for _, k := range kept {
		if got, err := os.ReadFile(k.file); err != nil || string(got) != k.value {
			t.Errorf("%s is %q, %v, and was %q", filepath.Base(k.file), got, err, k.value)
		}
	}
	if kept, err := c.KeepControls(cgroup+"-none", names); len(kept) != 0 || err != nil {
		t.Errorf("a cgroup that is not there has %v, %v", kept, err)
	}
}

// A cgroup without the controller has the cpuset of the nearest one that has it.
func TestEffectiveCpuset(t *testing.T) {
	root := t.TempDir()
	c := &Cgroups{unified: true, root: root}
	if err := os.MkdirAll(filepath.Join(root, "pods", "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := func(cgroup, cpus, mems string) {
		t.Helper()
		gotCPUs, gotMems, err := c.EffectiveCpuset(cgroup)
		if err != nil || gotCPUs != cpus || gotMems != mems {
			t.Errorf("%s has %q and %q, %v, want %q and %q", cgroup, gotCPUs, gotMems, err, cpus, mems)
		}
	}
	want("/pods/a/b", "", "")
	for file, value := range map[string]string{
		"cpuset.cpus.effective": "0-7\n", "cpuset.mems.effective": "0-1\n", "pods/cpuset.cpus.effective": "2-3\n",
	} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want("/pods/a/b", "2-3", "0-1")
	want("/", "0-7", "0-1")
	want("/gone/for/good", "0-7", "0-1")
	want("", "", "")
	c = &Cgroups{trees: map[string]string{"cpuset": root}}
	want("/pods/a/b", "", "")
}
