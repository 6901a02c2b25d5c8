package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestChecksum(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "d/a"), "1")
	write(t, filepath.Join(dir, "d/b.txt"), "2")
	sum := func(s selection) string {
		t.Helper()
		got, err := checksum(t.Context(), dir, s)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	all := selection{path: "/d"}
	less := selection{path: "/d", exclude: []string{"*.txt"}}
	wild := selection{path: "/d/*.txt", wildcard: true}
	first := []string{sum(all), sum(less), sum(wild)}
	if err := os.Chtimes(filepath.Join(dir, "d/a"), time.Now(), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if sum(all) != first[0] {
		t.Error("a time counts")
	}
	write(t, filepath.Join(dir, "d/b.txt"), "3")
	if sum(all) == first[0] || sum(less) != first[1] || sum(wild) == first[2] {
		t.Error("a change counts where it should not, or does not where it should")
	}
	// A link counts as what is inside of the tree: nothing, here.
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	before := sum(selection{path: "/l", follow: true})
	write(t, filepath.Join(dir, "etc/passwd"), "inside")
	if sum(selection{path: "/l", follow: true}) == before {
		t.Error("a link does not lead to the file inside of the tree")
	}
}

func TestNormalize(t *testing.T) {
	at := time.Unix(5, 0)
	a, b := digest.FromString("a"), digest.FromString("b")
	for name, c := range map[string]struct {
		layers  []built
		history []ocispec.History
		want    string // of the history: L with a layer, e without
		ids     int
	}{
		"plain":            {[]built{{a, at}, {b, at}}, []ocispec.History{{}, {EmptyLayer: true}, {}}, "LeL", 2},
		"an empty layer":   {[]built{{a, at}, {"", at}}, []ocispec.History{{}, {}}, "Le", 1},
		"no history below": {[]built{{a, at}, {b, at}}, []ocispec.History{{}}, "LL", 2},
		"too much history": {[]built{{a, at}}, []ocispec.History{{}, {}}, "Le", 1},
		"scratch":          {nil, []ocispec.History{{EmptyLayer: true}}, "e", 0},
	} {
		ids, history := normalize(c.layers, c.history)
		got := ""
		for _, h := range history {
			if h.EmptyLayer {
				got += "e"
			} else {
				got += "L"
			}
		}
		if got != c.want || len(ids) != c.ids {
			t.Errorf("%s: %s and %d layers, want %s and %d", name, got, len(ids), c.want, c.ids)
		}
	}
}

func TestCheckExpansion(t *testing.T) {
	for text, ok := range map[string]bool{
		"FROM x\nENV A=1\nENV B=$A$A${A}":                                     true,
		"FROM x\nENV A=0123456789\n" + strings.Repeat("ENV A=$A$A$A\n", 20):   false,
		"ARG A=0123456789\n" + strings.Repeat("ARG A=${A}${A}${A}${A}\n", 20): false,
		strings.Repeat("ENV PATH=$PATH:/x\n", 100):                            true,
	} {
		if err := checkExpansion([]byte(text), nil); (err == nil) != ok {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestCacheMounts(t *testing.T) {
	m, err := openCacheMounts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(string) error { return nil }
	use := func(s pb.CacheSharingOpt) *cacheMount {
		t.Helper()
		c, err := m.use(t.Context(), "id", s, nothing)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, two := use(pb.CacheSharingOpt_SHARED), use(pb.CacheSharingOpt_SHARED)
	if one.path != two.path {
		t.Error("shared mounts differ")
	}
	private := use(pb.CacheSharingOpt_PRIVATE)
	if private.path == one.path {
		t.Error("a private mount is another's")
	}
	got := make(chan *cacheMount)
	go func() {
		c, err := m.use(t.Context(), "id", pb.CacheSharingOpt_LOCKED, nothing)
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	for _, c := range []*cacheMount{one, two} {
		select {
		case <-got:
			t.Fatal("a locked mount was given out while it was in use")
		default:
		}
		if err := c.release(); err != nil {
			t.Error(err)
		}
	}
	if locked := <-got; locked.path != one.path {
		t.Error("the locked mount is another one")
	} else if _, err := m.prune(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	} else if _, err := os.Stat(locked.path); err != nil {
		t.Errorf("prune took what is in use: %v", err)
	}
}
