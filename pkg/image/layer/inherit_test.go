package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// special is a directory whose metadata nothing has by default.
func special(name string) entry {
	return dir(name).with(func(h *tar.Header) {
		h.Mode, h.Uid, h.Gid = 0o1777, 7, 8
	}).xattr("user.note", "x")
}

func TestImplied(t *testing.T) {
	for name, test := range map[string]struct {
		entries []entry
		want    []string
		opaque  bool
	}{
		"nothing":              {nil, []string{"."}, false},
		"all listed":           {[]entry{dir("./"), dir("a"), file("a/f", "")}, nil, false},
		"parents":              {[]entry{dir("."), file("a/b/f", "")}, []string{"a", "a/b"}, false},
		"whiteout only":        {[]entry{file("a/.wh.f", "")}, []string{".", "a"}, false},
		"opaque":               {[]entry{file("a/.wh..wh..opq", "")}, []string{".", "a"}, false},
		"opaque root":          {[]entry{file(".wh..wh..opq", "")}, []string{"."}, true},
		"listed later":         {[]entry{dir("."), file("a/b/f", ""), dir("a")}, []string{"a/b"}, false},
		"replaced":             {[]entry{dir("."), file("a/b/f", ""), file("a", "")}, nil, false},
		"replaced and listed":  {[]entry{dir("."), file("a/b/f", ""), file("a", ""), dir("a"), dir("a/b")}, nil, false},
		"replaced and implied": {[]entry{dir("."), file("a/b/f", ""), file("a", ""), dir("a"), file("a/b/f", "")}, []string{"a/b"}, false},
		"through a symlink":    {[]entry{dir("."), dir("b"), symlink("a", "b"), file("a/c/f", "")}, []string{"b/c"}, false},
		"now a symlink":        {[]entry{dir("."), file("a/b/f", ""), symlink("a", "c"), dir("c"), dir("c/b")}, nil, false},
		"whiteout before":      {[]entry{dir("."), file(".wh.a", ""), file("a/f", "")}, nil, false},
		"whiteout after":       {[]entry{dir("."), file("a/f", ""), file(".wh.a", "")}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			r, err := s.apply(t.Context(), pack(t, test.entries...), Options{})
			must(t, err)
			if !slices.Equal(r.Implied, test.want) || r.OpaqueRoot != test.opaque {
				t.Errorf("implied %q, opaque root %v", r.Implied, r.OpaqueRoot)
			}
			s.check(t)
		})
	}
}

func TestImpliedIsBounded(t *testing.T) {
	s := newSandbox(t)
	var entries []entry
	for i := range maxImplied + 10 {
		entries = append(entries, file(fmt.Sprint(i, "/f"), ""))
	}
	r, err := s.apply(t.Context(), pack(t, entries...), Options{})
	must(t, err)
	if len(r.Implied) != maxImplied+1 { // and the root
		t.Errorf("%d directories", len(r.Implied))
	}
	s = newSandbox(t)
	r, err = s.apply(t.Context(), pack(t, file(strings.Repeat("x/", 200)+"f", "")), Options{})
	must(t, err)
	if len(r.Implied) != 201 {
		t.Errorf("%d directories", len(r.Implied))
	}
}

// stack applies layers, lowest first.
func stack(t *testing.T, layers ...[]entry) []Stacked {
	t.Helper()
	requireRoot(t)
	var stacked []Stacked
	for _, entries := range layers {
		d := filepath.Join(t.TempDir(), "layer")
		must(t, os.Mkdir(d, 0o700))
		r, err := Apply(t.Context(), bytes.NewReader(pack(t, entries...)), d, Options{})
		must(t, err)
		stacked = append(stacked, Stacked{Dir: d, Implied: r.Implied})
	}
	return stacked
}

// inherited describes a directory in a layer: "tmp" is as special made it,
// "default" is as Apply makes it.
func inherited(t *testing.T, elem ...string) string {
	t.Helper()
	st := lstat(t, elem...)
	got := fmt.Sprintf("%o %d:%d %d %q", st.Mode&0o7777, st.Uid, st.Gid, st.Mtim.Sec, xattrs(t, filepath.Join(elem...))["user.note"])
	switch got {
	case fmt.Sprintf("1777 7:8 %d %q", testTime.Unix(), "x"):
		return "special"
	}
	if strings.HasPrefix(got, "755 0:0 ") && strings.HasSuffix(got, ` ""`) {
		return "default"
	}
	return got
}

func TestInherit(t *testing.T) {
	below := []entry{special("a"), special("a/b"), special("a/b/c")}
	use := []entry{file("a/b/c/f", "")}
	for name, test := range map[string]struct {
		middle [][]entry
		want   [3]string // of a, a/b, a/b/c in a layer above, that has only a file
	}{
		"from next below":   {nil, [3]string{"special", "special", "special"}},
		"from far below":    {[][]entry{{file("x", "")}, {file("a/x", "")}, use}, [3]string{"special", "special", "special"}},
		"topmost counts":    {[][]entry{{dir("a").with(func(h *tar.Header) { h.Mode = 0o700 })}}, [3]string{fmt.Sprintf("700 0:0 %d %q", testTime.Unix(), ""), "special", "special"}},
		"whiteout":          {[][]entry{{file(".wh.a", "")}}, [3]string{"default", "default", "default"}},
		"whiteout inside":   {[][]entry{{file("a/.wh.b", "")}}, [3]string{"special", "default", "default"}},
		"opaque":            {[][]entry{{file("a/.wh..wh..opq", "")}}, [3]string{"special", "default", "default"}},
		"opaque root":       {[][]entry{{file(".wh..wh..opq", "")}}, [3]string{"default", "default", "default"}},
		"opaque and again":  {[][]entry{{file("a/.wh..wh..opq", ""), special("a/b")}}, [3]string{"special", "special", "default"}},
		"hidden and anew":   {[][]entry{{file(".wh.a", ""), file("a/b/f", "")}}, [3]string{"default", "default", "default"}},
		"a file":            {[][]entry{{file("a", "")}}, [3]string{"default", "default", "default"}},
		"a symlink":         {[][]entry{{dir("z"), special("z/b"), file(".wh.a", "")}, {symlink("a", "z")}}, [3]string{"default", "default", "default"}},
		"an absolute link":  {[][]entry{{symlink("a", "/tmp")}}, [3]string{"default", "default", "default"}},
		"a file and anew":   {[][]entry{{file("a", "")}, {special("a")}}, [3]string{"special", "default", "default"}},
		"whiteout and anew": {[][]entry{{file(".wh.a", "")}, {special("a"), special("a/b")}}, [3]string{"special", "special", "default"}},
	} {
		t.Run(name, func(t *testing.T) {
			layers := stack(t, append(append([][]entry{below}, test.middle...), use)...)
			fds := countFDs(t)
			must(t, Inherit(t.Context(), layers))
			if n := countFDs(t); n != fds {
				t.Errorf("%d fds before, %d after", fds, n)
			}
			top := layers[len(layers)-1].Dir
			got := [3]string{inherited(t, top, "a"), inherited(t, top, "a/b"), inherited(t, top, "a/b/c")}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A layer in use keeps what it has, and what it has not listed is no example
// even where it was given something.
func TestInheritFixed(t *testing.T) {
	layers := stack(t, []entry{special("a")}, []entry{file("a/f", "")}, []entry{file("a/g", "")})
	layers[1].Fixed = true
	must(t, os.Chmod(filepath.Join(layers[1].Dir, "a"), 0o711))
	must(t, Inherit(t.Context(), layers))
	if st := lstat(t, layers[1].Dir, "a"); st.Mode&0o7777 != 0o711 {
		t.Errorf("changed a layer in use: %o", st.Mode)
	}
	if got := inherited(t, layers[2].Dir, "a"); got != "special" {
		t.Error(got)
	}
	if err := Inherit(t.Context(), []Stacked{{Dir: layers[0].Dir, Implied: []string{"../x"}}}); err == nil {
		t.Error("took a path out of the layer")
	}
}

// The root is a directory as the others are.
func TestInheritRoot(t *testing.T) {
	layers := stack(t, []entry{special("./")}, []entry{file("f", "")}, []entry{file(".wh..wh..opq", "")})
	must(t, Inherit(t.Context(), layers))
	for _, l := range layers {
		if got := inherited(t, l.Dir); got != "special" {
			t.Errorf("%s: %s", l.Dir, got)
		}
	}
	// Capabilities and what belongs to overlayfs are not handed on.
	layers = stack(t, []entry{dir("a")}, []entry{file("a/f", "")})
	below := filepath.Join(layers[0].Dir, "a")
	must(t, unix.Setxattr(below, "trusted.overlay.redirect", []byte("/x"), 0))
	must(t, unix.Setxattr(below, "user.overlay.opaque", []byte("y"), 0))
	must(t, os.Chtimes(below, time.Time{}, time.Unix(5, 0)))
	must(t, Inherit(t.Context(), layers))
	above := filepath.Join(layers[1].Dir, "a")
	if st := lstat(t, above); st.Mtim.Sec != 5 || len(xattrs(t, above)) != 0 {
		t.Errorf("mtime %d, attributes %v", st.Mtim.Sec, xattrs(t, above))
	}
}
