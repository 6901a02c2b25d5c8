package selinux

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// fakePolicy knows the types container_t, spc_t and container_file_t.
type fakePolicy struct {
	next     int
	reserved []string // levels
	files    map[string]string
	done     []string // relabelled
	fail     error
}

func (p *fakePolicy) allocate() (process, mount string) {
	p.next++
	l := fmt.Sprintf("s0:c%d,c%d", p.next, p.next+1)
	p.reserved = append(p.reserved, l)
	return "system_u:system_r:container_t:" + l, "system_u:object_r:container_file_t:" + l
}
func (p *fakePolicy) privileged() string { return "system_u:object_r:container_file_t:s0:c1022,c1023" }
func (p *fakePolicy) reserve(l string) error {
	if slices.Contains(p.reserved, level(l)) {
		return selinux.ErrMCSAlreadyExists
	}
	p.reserved = append(p.reserved, level(l))
	return nil
}
func (p *fakePolicy) release(l string) {
	p.reserved = slices.DeleteFunc(p.reserved, func(s string) bool { return s == level(l) })
}
func (p *fakePolicy) check(l string) error {
	if !slices.Contains([]string{"container_t", "spc_t", "container_file_t"}, part(l, typePart)) || !strings.HasPrefix(level(l), "s0") {
		return unix.EINVAL
	}
	return nil
}
func (p *fakePolicy) fileLabel(path string) (string, error) { return p.files[path], nil }
func (p *fakePolicy) setFileLabel(path, l string) error {
	p.files[path] = l
	return p.fail
}
func (p *fakePolicy) relabel(path, l string) error {
	p.done = append(p.done, path)
	return p.setFileLabel(path, l)
}

func newFake() (*Host, *fakePolicy) {
	p := &fakePolicy{files: map[string]string{}}
	return newHost(p), p
}

const (
	process = "system_u:system_r:container_t:s0:c1,c2"
	mount   = "system_u:object_r:container_file_t:s0:c1,c2"
)

func TestAllocate(t *testing.T) {
	for _, tc := range []struct {
		name       string
		o          Options
		unconfined bool
		want       Labels
		level      string // reserved afterwards
		fails      bool
	}{
		{name: "nothing asked", want: Labels{process, mount}, level: "s0:c1,c2"},
		{name: "level", o: Options{Level: "s0:c7,c9"}, want: Labels{"system_u:system_r:container_t:s0:c7,c9", "system_u:object_r:container_file_t:s0:c7,c9"}, level: "s0:c7,c9"},
		{name: "type", o: Options{Type: "spc_t"}, want: Labels{"system_u:system_r:spc_t:s0:c1,c2", mount}, level: "s0:c1,c2"},
		{name: "user and role", o: Options{User: "u", Role: "r"}, want: Labels{"u:r:container_t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2"}, level: "s0:c1,c2"},
		{name: "among the host's processes", unconfined: true, want: Labels{Mount: "system_u:object_r:container_file_t:s0:c1022,c1023"}},
		{name: "unknown type", o: Options{Type: "nonsense_t"}, fails: true},
		{name: "unknown level", o: Options{Level: "high"}, fails: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, p := newFake()
			got, err := h.Allocate("pod", tc.o, tc.unconfined)
			if tc.fails != errors.Is(err, errdefs.ErrInvalidArgument) || got != tc.want {
				t.Errorf("labels are %+v, %v", got, err)
			}
			if strings.Join(p.reserved, " ") != tc.level {
				t.Errorf("reserved are %q", p.reserved)
			}
			h.Release("pod")
			if len(p.reserved)+len(h.pods) > 0 {
				t.Errorf("still reserved: %q, %v", p.reserved, h.pods)
			}
		})
	}
}

func TestContainer(t *testing.T) {
	h, _ := newFake()
	pod := Labels{process, mount}
	for _, tc := range []struct {
		name       string
		pod        Labels
		o          Options
		unconfined bool
		want       Labels
		fails      bool
	}{
		{name: "as the pod", pod: pod, want: pod},
		{name: "type", pod: pod, o: Options{Type: "spc_t"}, want: Labels{"system_u:system_r:spc_t:s0:c1,c2", mount}},
		{name: "level", pod: pod, o: Options{Level: "s0"}, want: Labels{"system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"}},
		{name: "privileged", pod: pod, unconfined: true, want: Labels{Mount: mount}},
		{name: "pod without", pod: Labels{Mount: "m"}, o: Options{Type: "spc_t"}, want: Labels{Mount: "m"}},
		{name: "unknown", pod: pod, o: Options{Type: "x_t"}, fails: true},
		{name: "no levels", pod: Labels{"u:r:container_t", "u:r:container_file_t"}, o: Options{Level: "s0"}, fails: true},
		{name: "no label", pod: Labels{"x", "y"}, o: Options{Type: "spc_t"}, fails: true},
	} {
		got, err := h.Container(tc.pod, tc.o, tc.unconfined)
		if tc.fails != errors.Is(err, errdefs.ErrInvalidArgument) || !tc.fails && got != tc.want {
			t.Errorf("%s: labels are %+v, %v", tc.name, got, err)
		}
	}
}

// Two pods may ask for one level; it is free when both are gone, however often one
// of them is released. After a restart a level that a pod has is given to no other.
func TestLevelOfTwoPods(t *testing.T) {
	h, p := newFake()
	o := Options{Level: "s0:c7,c9"}
	a, errA := h.Allocate("a", o, false)
	_, errB := h.Allocate("b", o, false)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	for _, unconfined := range []bool{false, true} {
		if _, err := h.Allocate("a", Options{}, unconfined); !errdefs.IsAlreadyExists(err) {
			t.Errorf("second labels of one pod: %v", err)
		}
	}
	for range 2 {
		h.Release("a")
		if len(p.reserved) != 1 {
			t.Errorf("reserved are %q while one pod is left", p.reserved)
		}
	}
	h.Release("b")
	if len(p.reserved) > 0 {
		t.Errorf("still reserved: %q", p.reserved)
	}
	h, p = newFake()
	if err := h.Reserve("a", a); err != nil || len(p.reserved) != 1 {
		t.Errorf("reserved after a restart are %q, %v", p.reserved, err)
	}
	h.Release("a")
	if len(p.reserved) > 0 {
		t.Errorf("still reserved: %q", p.reserved)
	}
}

func TestRelabel(t *testing.T) {
	h, p := newFake()
	pod := Labels{process, mount}
	for range 2 {
		if err := h.Relabel("/vol", pod); err != nil {
			t.Error(err)
		}
	}
	if len(p.done) != 1 || p.files["/vol"] != mount {
		t.Errorf("relabelled %q as %q", p.done, p.files["/vol"])
	}
	for _, l := range []Labels{{}, {Mount: mount}, {"u:r:spc_t:s0", mount}} {
		if err := h.Relabel("/other", l); err != nil || len(p.done) != 1 {
			t.Errorf("%+v: relabelled %q, %v", l, p.done, err)
		}
	}
	p.fail = fmt.Errorf("nfs: %w", unix.ENOTSUP)
	if err := h.Relabel("/nfs", pod); err != nil {
		t.Errorf("no labels there: %v", err)
	}
	p.fail = unix.EPERM
	if err := errors.Join(h.Relabel("/etc", pod), h.Label("/f", mount)); !errors.Is(err, unix.EPERM) {
		t.Errorf("error is %v", err)
	}
}

// A machine without SELinux costs and does nothing.
func TestWithout(t *testing.T) {
	var h *Host
	l, err := h.Allocate("pod", Options{Level: "s0"}, false)
	c, containerErr := h.Container(l, Options{Type: "x"}, true)
	if err := errors.Join(err, containerErr, h.Reserve("pod", l), h.Relabel("/", l), h.Label("/", mount)); err != nil || l != (Labels{}) || c != l {
		t.Errorf("labels are %+v, %+v, %v", l, c, err)
	}
	h.Release("pod")
}
