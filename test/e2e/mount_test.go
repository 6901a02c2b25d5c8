package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-node/cri-node/test/e2e/kubelet"
	"github.com/cri-node/cri-node/test/e2e/node"
)

// sharedMount is a tmpfs of the test, with shared propagation and a tmpfs in it.
func sharedMount(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	mount := func(target string) {
		if err := unix.Mount("tmpfs", target, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount(dir)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	mount(filepath.Join(dir, "sub"))
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mounting adds mounts to a container.
func mounting(mounts ...*runtimeapi.Mount) func(*runtimeapi.ContainerConfig) {
	return func(c *runtimeapi.ContainerConfig) { c.Mounts = append(c.Mounts, mounts...) }
}

// TestMounts binds directories, files, links and what does not exist.
func TestMounts(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		dir := sharedMount(e.T)
		e.must(os.Symlink(dir, dir+"-link"))
		e.Cleanup(func() { _ = os.Remove(dir + "-link") })
		p := e.runPod(handler)
		mounts := []*runtimeapi.Mount{
			{HostPath: dir, ContainerPath: "/mnt/dir"},
			{HostPath: dir + "/file", ContainerPath: "/mnt/file", Readonly: true},
			{HostPath: dir, ContainerPath: "/mnt/ro", Readonly: true},
			{HostPath: dir + "-link", ContainerPath: "/mnt/link"},
			{HostPath: dir + "/made/for/it", ContainerPath: "/mnt/made"},
			{HostPath: dir + "/file", ContainerPath: "/etc/hosts"},
			{HostPath: dir, ContainerPath: "/mnt/dir/sub/below"},
		}
		c := e.start(p, "c", []string{"sleep", "1000"}, mounting(mounts...))
		for _, tc := range []struct{ script, want string }{
			{"cat /mnt/dir/file /mnt/file /mnt/link/file /etc/hosts /mnt/dir/sub/below/file", strings.Repeat("content\n", 5)},
			{"echo x > /mnt/dir/new && cat /mnt/ro/new", "x\n"},
			{"touch /mnt/ro/x 2>&1", "touch: /mnt/ro/x: Read-only file system\n"},
			{"echo x 2>&1 >> /mnt/file || echo refused", "refused\n"},
			// A mount below a read-only one keeps its own mode.
			{"touch /mnt/ro/sub/x && echo ok", "ok\n"},
			{"touch /mnt/made/x && echo ok", "ok\n"},
		} {
			out, _, _ := e.node.Runtime.ExecSync(e.Context(), c.id, []string{"sh", "-c", tc.script + "; true"}, 0)
			if got := string(out); !strings.HasSuffix(got, tc.want) {
				e.Errorf("%s gives %q, want %q", tc.script, got, tc.want)
			}
		}
		if _, err := os.Stat(dir + "/made/for/it/x"); err != nil {
			e.Errorf("missing source: %v", err)
		}
		s := e.status(c.id)
		if len(s.Mounts) != len(mounts) {
			e.Fatalf("%d mounts in the status, want %d", len(s.Mounts), len(mounts))
		}
		for i, m := range s.Mounts {
			if m.HostPath != mounts[i].HostPath || m.ContainerPath != mounts[i].ContainerPath || m.Readonly != mounts[i].Readonly {
				e.Errorf("mount in the status is %v, want %v", m, mounts[i])
			}
		}
	})
}

// TestMountPropagation lets mounts through in the direction asked for.
func TestMountPropagation(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
		for _, tc := range []struct {
			mode    runtimeapi.MountPropagation
			in, out bool
		}{
			{runtimeapi.MountPropagation_PROPAGATION_PRIVATE, false, false},
			{runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, true, false},
			{runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, true, true},
		} {
			e.Run(tc.mode.String(), func(t *testing.T) {
				e := e.in(t)
				dir := sharedMount(t)
				for _, d := range []string{"from-host", "from-container"} {
					e.must(os.Mkdir(filepath.Join(dir, d), 0o755))
				}
				c := e.start(p, podName(t), []string{"sleep", "1000"}, mounting(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Propagation: tc.mode}),
					security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true }))
				e.must(unix.Mount("tmpfs", dir+"/from-host", "tmpfs", 0, "size=4k"))
				t.Cleanup(func() { _ = unix.Unmount(dir+"/from-host", unix.MNT_DETACH) })
				inside := e.exec(c.id, "cat", "/proc/self/mountinfo")
				equal(e, "the host's mount is seen", strings.Contains(inside, " /mnt/from-host "), tc.in)
				e.exec(c.id, "mount", "-t", "tmpfs", "none", "/mnt/from-container")
				outside, err := os.ReadFile("/proc/self/mountinfo")
				e.must(err)
				equal(e, "the container's mount is seen", strings.Contains(string(outside), " "+dir+"/from-container "), tc.out)
				if tc.out {
					t.Cleanup(func() { _ = unix.Unmount(dir+"/from-container", unix.MNT_DETACH) })
				}
				equal(e, "propagation in the status", e.status(c.id).Mounts[0].Propagation, tc.mode)
				e.must(e.node.Runtime.RemoveContainer(t.Context(), c.id))
			})
		}
	})
}

// TestMountRecursiveReadOnly, where the handler says it can.
func TestMountRecursiveReadOnly(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		r, err := e.node.Runtime.Status(e.Context(), false)
		e.must(err)
		able := false
		for _, h := range r.RuntimeHandlers {
			able = able || h.Name == handler && h.Features.GetRecursiveReadOnlyMounts()
		}
		dir := sharedMount(e.T)
		p := e.runPod(handler)
		mount := &runtimeapi.Mount{HostPath: dir, ContainerPath: "/mnt", Readonly: true, RecursiveReadOnly: true}
		if !able {
			config := kubelet.Container{Name: "c", Image: shared.image, Command: []string{"true"}}.Config(p.config)
			mounting(mount)(config)
			if _, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config); !strings.HasPrefix(grpcstatus.Convert(err).Message(), "RROUnsupported") {
				e.Errorf("recursive read-only without the feature gives %v", err)
			}
			lacking(e.T, handler+"-rro", handler+" has no recursive read-only mounts")
		}
		c := e.start(p, "c", []string{"sleep", "1000"}, mounting(mount))
		out := e.exec(c.id, "sh", "-c", "touch /mnt/sub/x 2>&1; true")
		contains(e, "touch below", out, "Read-only file system")
		equal(e, "status", e.status(c.id).Mounts[0].RecursiveReadOnly, true)
		for _, bad := range []*runtimeapi.Mount{
			{HostPath: dir, ContainerPath: "/mnt", RecursiveReadOnly: true},
			{HostPath: dir, ContainerPath: "/mnt", Readonly: true, RecursiveReadOnly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		} {
			config := kubelet.Container{Name: "bad", Image: shared.image, Command: []string{"true"}}.Config(p.config)
			mounting(bad)(config)
			if _, err := e.node.Runtime.CreateContainer(e.Context(), p.id, config, p.config); err == nil {
				e.Errorf("created with %v", bad)
			}
		}
	})
}

// TestMountOptions takes rights away from a mount.
func TestMountOptions(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		r, err := e.node.Runtime.Status(e.Context(), false)
		e.must(err)
		equal(e, "feature", r.Features.GetMountOptions(), true)
		dir := sharedMount(e.T)
		e.must(os.WriteFile(dir+"/program", []byte("#!/bin/sh\necho ran\n"), 0o755))
		e.must(unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"}, mounting(
			&runtimeapi.Mount{HostPath: dir, ContainerPath: "/plain"},
			&runtimeapi.Mount{HostPath: dir, ContainerPath: "/none", MountOptions: []string{"noexec", "nodev", "nosuid", "noexec"}},
		))
		equal(e, "without options", e.exec(c.id, "sh", "-c", "/plain/program; echo x > /plain/null; echo $?"), "ran\n0\n")
		contains(e, "noexec", e.exec(c.id, "sh", "-c", "/none/program 2>&1; true"), "Permission denied")
		contains(e, "nodev", e.exec(c.id, "sh", "-c", "(echo x > /none/null) 2>&1; true"), "Permission denied")
		for line := range strings.Lines(e.exec(c.id, "cat", "/proc/self/mountinfo")) {
			if f := strings.Fields(line); f[4] == "/none" {
				contains(e, "mount", f[5], "nosuid", "nodev", "noexec")
			}
		}
		for _, option := range []string{"exec", "rw", "rshared", "NOEXEC", "", "noexec,suid"} {
			e.createRefused(p, codes.InvalidArgument, "config.mounts[0].mount_options[0]", mounting(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/x", MountOptions: []string{option}}))
		}
	})
}

// TestDeviceOwnership gives devices, those of a directory and behind a link too,
// to the user of the container.
func TestDeviceOwnership(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/devices/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "sub/b"} {
		if err := unix.Mknod(filepath.Join(dir, "devices", name), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("devices", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, owned := range []bool{false, true} {
		t.Run(fmt.Sprint(owned), func(t *testing.T) {
			e := ownNode(t, node.Options{Number: 34, Config: fmt.Sprintf("[runtime]\ndevice_ownership = %v\n", owned)})
			want := "0 0"
			if owned {
				want = "1000 99"
			}
			for handler := range shared.bin.Handlers {
				p := e.runPod(handler)
				r := e.sh(p, "c", "stat -c '%u %g' /dev/x/a /dev/x/sub/b; head -c 2 /dev/x/a | wc -c", asUser(1000), func(c *runtimeapi.ContainerConfig) {
					c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 99}
					c.Devices = []*runtimeapi.Device{{HostPath: dir + "/link", ContainerPath: "/dev/x", Permissions: "r"}}
				})
				read := map[bool]string{false: "0", true: "2"}[owned]
				equal(e, handler+": owners and bytes", r.stdout, want+"\n"+want+"\n"+read+"\n")
			}
		})
	}
}

// TestDevices gives a container the devices asked for and no others.
func TestDevices(t *testing.T) {
	eachHandler(t, func(e *env, handler string) {
		p := e.runPod(handler)
		c := e.start(p, "c", []string{"sleep", "1000"}, func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/kmsg", ContainerPath: "/dev/mine", Permissions: "r"}}
		})
		host, err := os.Stat("/dev/kmsg")
		e.must(err)
		rdev := host.Sys().(*syscall.Stat_t).Rdev
		equal(e, "device number", strings.TrimSpace(e.exec(c.id, "stat", "-c", "%t:%T", "/dev/mine")), fmt.Sprintf("%x:%x", unix.Major(rdev), unix.Minor(rdev)))
		for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx", "shm", "pts", "fd", "stdin"} {
			e.exec(c.id, "ls", "/dev/"+d)
		}
		if out := e.exec(c.id, "ls", "/dev"); strings.Contains(out, "kmsg") || strings.Contains(out, "vda") {
			e.Errorf("/dev holds %q", out)
		}
	})
}
