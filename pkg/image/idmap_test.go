package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// inUserNS runs a test with a user namespace that exists meanwhile.
func inUserNS(t *testing.T, length uint32, test func(*linux.UserNS)) {
	t.Helper()
	ids := linux.IDMappings{UIDs: []linux.IDMap{{HostID: 200000, Length: length}}, GIDs: []linux.IDMap{{HostID: 300000, Length: length}}}
	err := linux.InNewUserNS([]string{"/bin/sleep", "3600"}, ids, 0, func(pid int) error {
		test(&linux.UserNS{Path: fmt.Sprintf("/proc/%d/ns/user", pid), IDMappings: ids})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func wantOwner(t *testing.T, path, want string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); got != want {
		t.Errorf("%s belongs to %s, not to %s", path, got, want)
	}
}

// A rootfs in a user namespace shows mapped owners, in both ways in which the
// kernel may want the layers, and leaves one mount.
func TestMappedRootfs(t *testing.T) {
	for _, how := range []idmapSupport{idmapDetached, idmapAttached} {
		for _, legacy := range []bool{false, true} {
			t.Run(fmt.Sprint(how, " legacy ", legacy), func(t *testing.T) {
				requireRoot(t)
				f := newFakeRegistry(t)
				img := f.push("app", ocispec.Image{}, []fakeLayer{
					headerLayer(owned("./", 0o1777, 7), owned("d/", 0o750, 1000), owned("d/f", 0o600, 1000)),
					headerLayer(owned("g", 0o600, 0)),
				}, "latest")
				s := open(t, t.TempDir())
				s.legacyMount = legacy
				pull(t, s, f.host()+"/app")
				inUserNS(t, 65536, func(userns *linux.UserNS) {
					if err := s.ProbeIDMap(t.Context(), userns); err != nil {
						t.Skipf("the kernel or the file system cannot: %v", err)
					}
					if how == idmapDetached && s.idmap == idmapAttached {
						t.Skip("the kernel wants layers attached")
					}
					s.idmap = how
					target := mountRootfs(t, s, "c1", img.id, RootfsOptions{UserNS: userns})
					for dir, want := range map[string]int{s.config.Root: 0, target: 1} {
						if points, err := linux.MountPoints(dir); err != nil || len(points) != want {
							t.Errorf("mounts are %q, %v", points, err)
						}
					}
					wantOwner(t, target, "200007:300007")
					wantOwner(t, target+"/d/f", "201000:301000")
					wantOwner(t, target+"/g", "200000:300000")
					if err := os.Chmod(target+"/d/f", 0o640); err != nil { // a copy up
						t.Fatal(err)
					}
					upper := filepath.Join(s.rootfsDir("c1"), rootfsUpper)
					wantOwner(t, upper+"/d/f", "201000:301000")
					wantOwner(t, upper, "200007:300007")
					if info, err := os.Stat(target); err != nil || info.Mode()&os.ModeSticky == 0 || info.Mode().Perm() != 0o777 {
						t.Errorf("mode of the root is %v, %v", info.Mode(), err)
					}
					// A layer is shared by pods of other namespaces and of none.
					wantOwner(t, mountRootfs(t, s, "c2", img.id, RootfsOptions{})+"/d/f", "1000:1000")
					wantOwner(t, mountRootfs(t, s, "c3", img.id, RootfsOptions{ReadOnly: true, UserNS: userns})+"/d/f", "201000:301000")
				})
			})
		}
	}
}

// What cannot be mapped is refused, and leaves no mount.
func TestMappedRootfsRefused(t *testing.T) {
	requireRoot(t)
	f := newFakeRegistry(t)
	img := f.push("app", ocispec.Image{}, []fakeLayer{headerLayer(owned("./", 0o755, 500))}, "latest")
	s := open(t, t.TempDir())
	pull(t, s, f.host()+"/app")
	if err := s.PrepareRootfs(t.Context(), "c", img.id); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	inUserNS(t, 100, func(userns *linux.UserNS) {
		if err := s.MountRootfs(t.Context(), "c", target, RootfsOptions{UserNS: userns}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("without a probe the error is %v", err)
		}
		if err := s.ProbeIDMap(t.Context(), userns); err != nil {
			t.Skip(err)
		}
		if err := s.MountRootfs(t.Context(), "c", target, RootfsOptions{UserNS: userns}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("root directory of an unmapped user: error is %v", err)
		}
		gone := &linux.UserNS{Path: "/proc/1/nonsense", IDMappings: userns.IDMappings}
		if err := s.ProbeIDMap(t.Context(), gone); err == nil {
			t.Error("probed with no user namespace")
		}
		// A crash between the attachment and the mount.
		s.idmap = idmapAttached
		dir := s.mappedDir("c")
		if err := errors.Join(os.Mkdir(dir, 0o700), linux.Bind(s.config.Root, dir)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.UnmountRootfs(t.Context(), "c", target), s.RemoveRootfs(t.Context(), "c")); err != nil {
			t.Error(err)
		}
	})
}
