package spec

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func id(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

func TestUser(t *testing.T) {
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	tests := []struct {
		name  string
		image string
		sc    *runtimeapi.LinuxContainerSecurityContext
		want  User
		err   string
	}{
		{name: "nothing", want: User{0, 0, []uint32{0, 1, 10}}},
		{name: "image id", image: "1000", want: User{1000, 1000, []uint32{1000, 50000}}},
		{name: "image id and group", image: "1000:7", want: User{1000, 7, []uint32{7, 50000}}},
		{name: "image name", image: "alice", want: User{1000, 1000, []uint32{1000, 50000}}},
		{name: "image name and group", image: "alice:staff", want: User{1000, 50000, []uint32{50000}}},
		{name: "image unknown id", image: "4242", want: User{4242, 0, []uint32{0}}},
		{name: "image unknown name", image: "bob", err: `"bob" is not in the image`},
		{name: "image unknown group", image: "alice:none", err: `group "none" is not`},
		{name: "image broken line", image: "broken", err: "line is broken"},
		{name: "image short line", image: "short", err: "line is broken"},
		{name: "image group beyond range", image: "alice:big", err: "line is broken"},
		{name: "run_as_user", image: "bob", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(1000)}, want: User{1000, 1000, []uint32{1000, 50000}}},
		{name: "run_as_user not in image", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(9), SupplementalGroups: []int64{5}}, want: User{9, 0, []uint32{0, 5}}},
		{name: "run_as_user 0 over image", image: "alice", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(0)}, want: User{0, 0, []uint32{0, 1, 10}}},
		{name: "run_as_group", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(1000), RunAsGroup: id(3)}, want: User{1000, 3, []uint32{3, 50000}}},
		{name: "run_as_username", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "daemon"}, want: User{1, 1, []uint32{1}}},
		{name: "merge", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(1000), SupplementalGroups: []int64{1234}}, want: User{1000, 1000, []uint32{1000, 1234, 50000}}},
		{name: "strict", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(1000), SupplementalGroups: []int64{1234}, SupplementalGroupsPolicy: strict}, want: User{1000, 1000, []uint32{1000, 1234}}},
		{name: "most", sc: &runtimeapi.LinuxContainerSecurityContext{RunAsUser: id(1<<31 - 1), SupplementalGroupsPolicy: strict}, want: User{1<<31 - 1, 0, []uint32{0}}},
	}
	// What has been taken for root, or could be: none of it may be a user.
	for _, s := range []string{
		"4294967296", "2147483648", "99999999999999999999999", "-1", "+0", "0x0", "00", "01", "1e3", " 0", "0 ", "٠", "0:", ":0", ":", "1:2:3", "0b0", "0o0",
		"1_0", "1.0", "-", "+", "", "a b", "a\nb", "a:b:c", "alice:", "alice:-1", "alice:4294967296", "../x", "\x00", "½",
	} {
		if s == "" {
			continue // is root by definition
		}
		tests = append(tests, struct {
			name  string
			image string
			sc    *runtimeapi.LinuxContainerSecurityContext
			want  User
			err   string
		}{name: "hostile " + s, image: s, err: "image config.User"})
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			in.Image.Config.User = tc.image
			if tc.sc != nil {
				in.Config.Linux.SecurityContext = tc.sc
			}
			out, err := Container(t.Context(), in)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || !errdefs.IsInvalidArgument(err) {
					t.Fatalf("error is %v, want an invalid argument with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			u := out.Spec.Process.User
			if out.User.UID != tc.want.UID || out.User.GID != tc.want.GID || !slices.Equal(out.User.Groups, tc.want.Groups) {
				t.Errorf("user is %+v, want %+v", out.User, tc.want)
			}
			if u.UID != tc.want.UID || u.GID != tc.want.GID || !slices.Equal(u.AdditionalGids, tc.want.Groups) || u.Username != "" {
				t.Errorf("user in the spec is %+v, want %+v", u, tc.want)
			}
		})
	}
}

// TestNameThatStartsWithDigit is a name all the same.
func TestNameThatStartsWithDigit(t *testing.T) {
	in := testInput(t)
	writeFile(t, in.Rootfs, "etc/passwd", "7zip:x:77:78::/:\n")
	in.Image.Config.User = "7zip"
	if u := build(t, in).User; u.UID != 77 || u.GID != 78 {
		t.Errorf("user is %+v", u)
	}
}

func TestHostileAccountFiles(t *testing.T) {
	secret := writeFile(t, t.TempDir(), "passwd", "alice:x:666:666::/:\n")
	tests := []struct {
		name string
		make func(t *testing.T, root, path string)
		user string
		want uint32
		err  string
	}{
		{"link inside", func(t *testing.T, root, path string) {
			writeFile(t, root, "store/accounts", "alice:x:5:5::/:\n")
			symlink(t, "/store/accounts", path)
		}, "alice", 5, ""},
		{"link to the host", func(t *testing.T, _, path string) { symlink(t, secret, path) }, "alice", 0, "is not in the image"},
		{"link with dots", func(t *testing.T, _, path string) { symlink(t, "../../../../../../.."+secret, path) }, "alice", 0, "is not in the image"},
		{"link to itself", func(t *testing.T, _, path string) { symlink(t, "passwd", path) }, "0", 0, "image /etc/passwd"},
		{"fifo", func(t *testing.T, _, path string) { must(t, unix.Mkfifo(path, 0o644)) }, "0", 0, "no regular file"},
		{"directory", func(t *testing.T, _, path string) { must(t, os.Mkdir(path, 0o755)) }, "0", 0, "no regular file"},
		{"device", func(t *testing.T, _, path string) {
			if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
				t.Skip(err)
			}
		}, "0", 0, "no regular file"},
		{"huge", func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, nil, 0o644))
			must(t, os.Truncate(path, 5<<30))
		}, "0", 0, "larger than"},
		{"missing", func(*testing.T, string, string) {}, "0", 0, ""},
		{"not text", func(t *testing.T, _, path string) {
			must(t, os.WriteFile(path, []byte("\xff\x00:\n::::\nalice:x:1:\nalice"), 0o644))
		}, "alice", 0, "line is broken"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			path := filepath.Join(in.Rootfs, "etc/passwd")
			must(t, os.Remove(path))
			tc.make(t, in.Rootfs, path)
			in.Image.Config.User = tc.user
			start := time.Now()
			out, err := Container(t.Context(), in)
			if time.Since(start) > 10*time.Second {
				t.Error("took too long")
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error is %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if out.User.UID != tc.want {
				t.Errorf("uid is %d, want %d", out.User.UID, tc.want)
			}
		})
	}
}

func TestTooManyGroups(t *testing.T) {
	in := testInput(t)
	var b strings.Builder
	for i := range maxGroups + 2 {
		b.WriteString("g:x:" + itoa(i+1) + ":root\n")
	}
	writeFile(t, in.Rootfs, "etc/group", b.String())
	if _, err := Container(t.Context(), in); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("error is %v", err)
	}
}

func TestUserInStatus(t *testing.T) {
	got := User{1000, 5, []uint32{5, 7}}.CRI().GetLinux()
	if got.GetUid() != 1000 || got.GetGid() != 5 || !slices.Equal(got.GetSupplementalGroups(), []int64{5, 7}) {
		t.Errorf("user is %v", got)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	must(t, os.Symlink(target, path))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAddGroups(t *testing.T) {
	files := accounts{group: []byte("staff:x:50:\naudio:x:29:\nbroken:x:-1:\n")}
	got, err := files.addGroups([]uint32{29, 1000}, []string{"staff", "audio", "7"})
	if err != nil || !slices.Equal(got, []uint32{7, 29, 50, 1000}) {
		t.Errorf("groups are %v, %v", got, err)
	}
	for _, name := range []string{"nobodys", "broken", "", "-1", "4294967296", "0x10"} {
		if got, err := files.addGroups(nil, []string{name}); err == nil {
			t.Errorf("%q is taken: %v", name, got)
		}
	}
}
