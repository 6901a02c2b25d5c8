package layer

import (
	"archive/tar"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// OUT in a name or target stands for the absolute path of a directory outside
// the layer.
const out = "OUT"

// breakouts are layers that try to get out, or to confuse. Many ideas are those
// of containerd's TestBreakouts; all of them are run by FuzzApply too.
var breakouts = []struct {
	name    string
	entries []entry
	want    map[string]string // nil: an invalid argument
}{
	// Symlinks as parents: resolved with the layer as "/".
	{"symlink absolute", []entry{dir("etc"), symlink("l", "/etc"), file("/l/f", "x")},
		map[string]string{"etc": "dir", "l": "link /etc", "etc/f": "file x"}},
	{"symlink up and out", []entry{dir("etc"), dir("dummy"), symlink("l", "/dummy/../../../etc"), file("l/f", "x")},
		map[string]string{"etc": "dir", "dummy": "dir", "l": "link /dummy/../../../etc", "etc/f": "file x"}},
	{"symlink to symlink", []entry{dir("etc"), dir("a"), symlink("a/e", "/etc"), symlink("l", "./a/e"), file("l/f", "x")},
		map[string]string{"etc": "dir", "a": "dir", "a/e": "link /etc", "l": "link ./a/e", "etc/f": "file x"}},
	{"symlink relative", []entry{dir("a/b"), symlink("a/b/l", "../../a/../a/c"), file("a/b/l/f", "x"), symlink("a/b/m", "../b/l/.."), file("a/b/m/g", "y")},
		map[string]string{"a": "dir", "a/b": "dir", "a/b/l": "link ../../a/../a/c", "a/c": "dir", "a/c/f": "file x", "a/b/m": "link ../b/l/..", "a/g": "file y"}},
	{"symlink outside", []entry{symlink("l", out), file("l/f", "x"), file("l/secret", "x")}, map[string]string{}},
	{"symlink outside relative", []entry{symlink("l", "../outside"), file("l/secret", "x")},
		map[string]string{"l": "link ../outside", "outside": "dir", "outside/secret": "file x"}},
	{"symlink to root", []entry{symlink("l", "/"), file("l/f", "x")}, map[string]string{"l": "link /", "f": "file x"}},
	{"symlink to dots", []entry{symlink("l", "../.."), file("l/l/l/f", "x")}, map[string]string{"l": "link ../..", "f": "file x"}},
	{"symlink loop", []entry{symlink("a", "b"), symlink("b", "a"), file("a/f", "x")}, nil},
	{"symlink to itself", []entry{symlink("a", "a"), file("a/f", "x")}, nil},
	{"symlink to file as parent", []entry{file("f", "x"), symlink("l", "f"), file("l/g", "y")}, nil},
	{"symlink through procfs", []entry{symlink("l", "/proc/self/fd/3"), file("l/f", "x")},
		map[string]string{"l": "link /proc/self/fd/3", "proc": "dir", "proc/self": "dir", "proc/self/fd": "dir",
			"proc/self/fd/3": "dir", "proc/self/fd/3/f": "file x"}},
	{"symlink dead", []entry{symlink("l", "/dne/../etc"), file("l/f", "x")},
		map[string]string{"l": "link /dne/../etc", "dne": "dir", "etc": "dir", "etc/f": "file x"}},
	{"symlink steps", []entry{dir("a"), symlink("l", strings.Repeat("a/../", 800)), symlink("m", strings.Repeat("l/", 39)), file("m/f", "x")}, nil},
	{"symlink amplification", []entry{symlink("a", "b/b/b/b/b/b/b/b"), symlink("b", "c/c/c/c/c/c/c/c"), symlink("c", "."), file("a/f", "x")}, nil},
	{"symlink without target", []entry{symlink("l", "")}, nil},

	// Last components: replaced, never followed.
	{"file over symlink", []entry{symlink("l", out+"/secret"), file("l", "x")}, map[string]string{"l": "file x"}},
	{"directory over symlink", []entry{dir("etc"), symlink("l", "etc"), dir("l"), file("l/f", "x")},
		map[string]string{"etc": "dir", "l": "dir", "l/f": "file x"}},
	{"directory over outside symlink", []entry{symlink("l", out), dir("l"), file("l/secret", "x")},
		map[string]string{"l": "dir", "l/secret": "file x"}},
	{"symlink over directory", []entry{dir("etc"), dir("l"), file("l/old", "x"), symlink("l", "/etc"), file("l/f", "y")},
		map[string]string{"etc": "dir", "l": "link /etc", "etc/f": "file y"}},
	{"directory and symlink and back", []entry{dir("l"), file("l/1", ""), symlink("l", out), file("l/secret", ""), dir("l"), file("l/2", "")},
		map[string]string{}},
	{"symlink moved under a cached path", []entry{dir("a"), dir("b"), symlink("l", "a"), file("l/1", ""), symlink("l", "b"), file("l/2", "")},
		map[string]string{"a": "dir", "b": "dir", "l": "link b", "a/1": "file ", "b/2": "file "}},
	{"parent of a cached path replaced", []entry{dir("a/b/c"), file("a/b/c/1", ""), dir("d/b/c"), symlink("a", "d"), file("a/b/c/2", "")},
		map[string]string{"a": "link d", "d": "dir", "d/b": "dir", "d/b/c": "dir", "d/b/c/2": "file "}},
	{"file over directory with contents", []entry{file("a/b/c/d", "x"), file("a", "y")}, map[string]string{"a": "file y"}},
	{"file as parent", []entry{file("a", "x"), file("a/b", "y")}, nil},
	{"fifo over symlink", []entry{symlink("l", out+"/secret"), node(tar.TypeFifo, "l", 0, 0)}, map[string]string{"l": "fifo"}},
	{"device over symlink", []entry{symlink("l", out+"/secret"), node(tar.TypeChar, "l", 1, 3)}, map[string]string{"l": "char 1:3"}},
	{"file over fifo", []entry{node(tar.TypeFifo, "f", 0, 0), file("f", "x")}, map[string]string{"f": "file x"}},
	{"file over device", []entry{node(tar.TypeBlock, "f", 8, 0), file("f", "x")}, map[string]string{"f": "file x"}},

	// Names.
	{"dots above root", []entry{file("../../../../f", "x"), file("a/../../g", "y")}, map[string]string{"f": "file x", "g": "file y"}},
	{"outside by name", []entry{file("../outside/secret", "x"), file("/../outside/dir/file", "x")},
		map[string]string{"outside": "dir", "outside/secret": "file x", "outside/dir": "dir", "outside/dir/file": "file x"}},
	{"odd spellings", []entry{file("//a", "1"), file("./b", "2"), file("c/./d", "3")},
		map[string]string{"a": "file 1", "b": "file 2", "c": "dir", "c/d": "file 3"}},
	{"lexical dots beat symlinks", []entry{symlink("l", out), file("l/../f", "x")}, map[string]string{"l": "link " + out, "f": "file x"}},
	{"root as directory", []entry{dir("./"), dir("/"), dir("a/.."), file("f", "x")}, map[string]string{"f": "file x"}},
	{"root as symlink", []entry{symlink(".", out)}, nil},
	{"root as symlink, slash", []entry{symlink("/", out)}, nil},
	{"root as symlink, empty", []entry{symlink("", out)}, nil},
	{"root as symlink, parent", []entry{symlink("..", out)}, nil},
	{"root as symlink, back", []entry{symlink("a/..", out)}, nil},
	{"root as file", []entry{file(".", "x")}, nil},
	{"root as hard link", []entry{file("f", ""), hardlink("/", "f")}, nil},
	{"root as device", []entry{node(tar.TypeChar, "x/..", 1, 3)}, nil},
	{"name not UTF-8", []entry{file("\xff\xfe", "x")}, map[string]string{"\xff\xfe": "file x"}},
	{"component too long", []entry{file(strings.Repeat("a", 256), "x")}, nil},
	{"name too long", []entry{file(strings.Repeat("a/", 2048)+"b", "x")}, nil},
	{"name too deep", []entry{file(strings.Repeat("a/", DefaultMaxDepth)+"b", "x")}, nil},

	// Hard links.
	{"hard link", []entry{file("etc/p", "in"), hardlink("l", "/etc/p")}, map[string]string{"etc": "dir", "etc/p": "file in", "l": "file in"}},
	{"hard link above root", []entry{file("etc/p", "in"), hardlink("l", "../../../etc/p")}, map[string]string{"etc": "dir", "etc/p": "file in", "l": "file in"}},
	{"hard link through symlink", []entry{file("etc/p", "in"), dir("b"), symlink("b/d", "../../../etc"), hardlink("b/l", "/b/d/p")},
		map[string]string{"etc": "dir", "etc/p": "file in", "b": "dir", "b/d": "link ../../../etc", "b/l": "file in"}},
	{"hard link outside", []entry{hardlink("l", out+"/secret")}, nil},
	{"hard link outside relative", []entry{hardlink("l", "../outside/secret")}, nil},
	{"hard link outside through symlink", []entry{symlink("s", out), hardlink("l", "s/secret")}, nil},
	{"hard link to outside symlink", []entry{symlink("s", out+"/secret"), hardlink("l", "s"), file("l", "x")},
		map[string]string{"s": "link " + out + "/secret", "l": "file x"}},
	{"hard link to symlink", []entry{symlink("s", "../etc/p"), hardlink("l", "s")}, map[string]string{"s": "link ../etc/p", "l": "link ../etc/p"}},
	{"hard link with mode to outside symlink", []entry{symlink("s", out+"/secret"),
		hardlink("l", "s").with(func(h *tar.Header) { h.Mode, h.Uid = 0o777, 1000 })},
		map[string]string{"s": "link " + out + "/secret", "l": "link " + out + "/secret"}},
	{"hard link replaced", []entry{file("a", "1"), hardlink("b", "a"), file("b", "2")}, map[string]string{"a": "file 1", "b": "file 2"}},
	{"hard link twice", []entry{file("a", "1"), hardlink("b", "a"), hardlink("b", "a")}, map[string]string{"a": "file 1", "b": "file 1"}},
	{"hard link to missing", []entry{hardlink("a", "b")}, nil},
	{"hard link to missing directory", []entry{hardlink("a", "b/c")}, nil},
	{"hard link to later", []entry{hardlink("a", "b"), file("b", "")}, nil},
	{"hard link to itself", []entry{file("a", ""), hardlink("a", "./a")}, nil},
	{"hard link to itself through symlink", []entry{file("a/b", ""), symlink("s", "a"), hardlink("s/b", "a/b")}, nil},
	{"hard link to directory", []entry{dir("a"), hardlink("b", "a")}, nil},
	{"hard link to root", []entry{hardlink("b", "/")}, nil},
	{"hard link to nothing", []entry{hardlink("b", "")}, nil},
	{"hard link to device", []entry{node(tar.TypeChar, "a", 1, 3), hardlink("b", "a")}, nil},
	{"hard link to whiteout", []entry{file(".wh.a", ""), hardlink("b", "a")}, nil},
	{"hard link over its own directory", []entry{file("a/b", ""), hardlink("a", "a/b")}, nil},

	// Whiteouts.
	{"whiteout", []entry{file(".wh.a", ""), file("b/.wh.c", "")}, map[string]string{"a": "whiteout", "b": "dir", "b/c": "whiteout"}},
	{"whiteout as hard link", []entry{hardlink(".wh.a", ".wh..wh.aufs")}, map[string]string{"a": "whiteout"}},
	{"whiteout with data", []entry{file(".wh.a", strings.Repeat("x", 5000)), file("b", "y")}, map[string]string{"a": "whiteout", "b": "file y"}},
	{"whiteout twice", []entry{file(".wh.a", ""), file(".wh.a", "")}, map[string]string{"a": "whiteout"}},
	{"whiteout after file", []entry{file("a", "x"), file(".wh.a", "")}, map[string]string{"a": "file x"}},
	{"whiteout before file", []entry{file(".wh.a", ""), file("a", "x")}, map[string]string{"a": "file x"}},
	{"whiteout after directory", []entry{file("a/b", "x"), file(".wh.a", "")}, map[string]string{"a": "opaque", "a/b": "file x"}},
	{"whiteout before directory", []entry{file(".wh.a", ""), dir("a"), file("a/b", "x")}, map[string]string{"a": "opaque", "a/b": "file x"}},
	{"whiteout before implied directory", []entry{file(".wh.a", ""), file("a/b", "x")}, map[string]string{"a": "opaque", "a/b": "file x"}},
	{"whiteout of symlink", []entry{dir("etc"), symlink("l", "etc"), file(".wh.l", "")}, map[string]string{"etc": "dir", "l": "link etc"}},
	{"whiteout through symlink", []entry{dir("etc"), symlink("l", "/etc"), file("l/.wh.p", "")},
		map[string]string{"etc": "dir", "l": "link /etc", "etc/p": "whiteout"}},
	{"whiteout outside through symlink", []entry{symlink("l", "../outside"), file("l/.wh.secret", "")},
		map[string]string{"l": "link ../outside", "outside": "dir", "outside/secret": "whiteout"}},
	{"whiteout of a relative path", []entry{file("dne/../.wh.etc", "")}, map[string]string{"etc": "whiteout"}},
	{"whiteout of nothing", []entry{file(".wh.", "")}, nil},
	{"whiteout of the directory", []entry{file("etc/.wh..", "")}, nil},
	{"whiteout of the root", []entry{file(".wh..", "")}, nil},
	{"whiteout of the parent", []entry{file("etc/.wh...", "")}, nil},
	{"whiteout of the root's parent", []entry{file(".wh...", "")}, nil},
	{"whiteout as parent", []entry{file(".wh.../x", "")}, nil},
	{"whiteout with a name as parent", []entry{file(".wh.etc/x", "")}, nil},
	{"whiteout as directory", []entry{dir(".wh.a")}, nil},
	{"whiteout as symlink", []entry{symlink(".wh.a", out)}, nil},
	{"opaque", []entry{file("a/1", ""), file("a/.wh..wh..opq", ""), file("a/2", "")},
		map[string]string{"a": "opaque", "a/1": "file ", "a/2": "file "}},
	{"opaque, directory later", []entry{file("a/.wh..wh..opq", ""), dir("a"), file("a/2", "")}, map[string]string{"a": "opaque", "a/2": "file "}},
	{"opaque as directory", []entry{dir("a/.wh..wh..opq")}, nil},
	{"opaque as symlink", []entry{symlink("a/.wh..wh..opq", out)}, nil},
	{"opaque through outside symlink", []entry{symlink("l", "../outside"), file("l/.wh..wh..opq", "")},
		map[string]string{"l": "link ../outside", "outside": "opaque"}},
	{"aufs bookkeeping", []entry{file(".wh..wh.aufs", "x"), dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), dir(".wh..wh.orph")},
		map[string]string{}},
	{"smuggled whiteout", []entry{node(tar.TypeChar, "a", 0, 0)}, nil},
	{"smuggled whiteout, cut off", []entry{node(tar.TypeChar, "a", 1<<12, 0)}, nil},
	{"smuggled whiteout, minor cut off", []entry{node(tar.TypeChar, "a", 0, 1<<20)}, nil},
	{"block device 0:0", []entry{node(tar.TypeBlock, "a", 0, 0)}, map[string]string{"a": "block 0:0"}},

	// Types and metadata.
	{"devices", []entry{node(tar.TypeChar, "dev/null", 1, 3), node(tar.TypeBlock, "dev/sda", 8, 0), node(tar.TypeFifo, "p", 0, 0), node(tar.TypeChar, "big", 4095, 1<<20-1)},
		map[string]string{"dev": "dir", "dev/null": "char 1:3", "dev/sda": "block 8:0", "p": "fifo", "big": "char 4095:1048575"}},
	{"contiguous file", []entry{{header(tar.TypeCont, "a", 0o644), ""}}, nil},
	{"vendor type", []entry{{header('V', "a", 0o644), ""}}, nil},
	{"owner -1", []entry{file("a", "").with(func(h *tar.Header) { h.Uid = 1<<32 - 1 })}, nil},
	{"group too large", []entry{file("a", "").with(func(h *tar.Header) { h.Gid = 1 << 32 })}, nil},
	{"owner -1 of root", []entry{dir("/").with(func(h *tar.Header) { h.Uid = 1<<32 - 1 })}, nil},
	{"broken capability", []entry{file("a", "").xattr(capabilityXattr, "garbage")}, nil},
	{"global header", []entry{
		{tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"path": out + "/secret", "uid": "77"}}, ""},
		file("a", "x")}, map[string]string{"a": "file x"}},
}

// at puts the real path in the place of OUT.
func at(outside string, entries []entry) []entry {
	moved := make([]entry, len(entries))
	for i, e := range entries {
		e.Name = strings.ReplaceAll(e.Name, out, outside)
		e.Linkname = strings.ReplaceAll(e.Linkname, out, outside)
		moved[i] = e
	}
	return moved
}

func TestBreakouts(t *testing.T) {
	for _, test := range breakouts {
		t.Run(test.name, func(t *testing.T) {
			s := newSandbox(t)
			usage, err := s.apply(t.Context(), pack(t, at(s.outside, test.entries)...), Options{})
			s.check(t)
			if test.want == nil {
				if !errdefs.IsInvalidArgument(err) {
					t.Fatalf("got error %v, want an invalid argument", err)
				}
				last := test.entries[len(test.entries)-1].Name
				if last != "" && !strings.Contains(err.Error(), quote(last)) && !strings.Contains(err.Error(), quote(test.entries[0].Name)) {
					t.Errorf("error names no entry: %v", err)
				}
				return
			}
			must(t, err)
			if got := inodes(t, s.layer); usage.Inodes != got {
				t.Errorf("usage says %d inodes, there are %d", usage.Inodes, got)
			}
			if len(test.want) == 0 {
				return // depends on where the test runs; check has seen that nothing left the layer
			}
			want := map[string]string{}
			for p, what := range test.want {
				want[p] = strings.ReplaceAll(what, out, s.outside)
			}
			if diff := cmp.Diff(want, tree(t, s.layer)); diff != "" {
				t.Errorf("layer (-want +got):\n%s", diff)
			}
		})
	}
}
