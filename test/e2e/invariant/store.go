package invariant

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

var digestPattern = regexp.MustCompile(`sha256:([0-9a-f]{64})`)

// checkStore looks at the image store of a quiet node: nothing is half done,
// each blob is what its name says, and what the records of images and root file
// systems name is there, and nothing else. Each fact is something wrong.
func checkStore(c Config) ([]Fact, error) {
	store := filepath.Join(c.Root, "image")
	var wrong []Fact
	add := func(format string, args ...any) {
		wrong = append(wrong, Fact{Kind: Store, What: fmt.Sprintf(format, args...)})
	}
	for _, dir := range []string{"staging", "trash", "broken"} {
		names, err := list(store, dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			add("%s holds %s", dir, name)
		}
	}
	images, err := named(filepath.Join(store, "images", "*.json"))
	if err != nil {
		return nil, err
	}
	mounted, err := named(filepath.Join(store, "rootfs", "*", "*.json"))
	if err != nil {
		return nil, err
	}
	cached, err := named(filepath.Join(store, "holds", "*.json"))
	if err != nil {
		return nil, err
	}
	maps.Copy(mounted, cached)
	held := map[string]bool{}
	for _, where := range []string{"blobs/sha256", "layers"} {
		names, err := list(store, where)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			held[name] = true
			if !images[name] && !mounted[name] {
				add("nothing needs %s/%s", where, name)
			}
			if where == "layers" {
				continue
			}
			data, err := os.ReadFile(filepath.Join(store, where, name))
			if sum := sha256.Sum256(data); err == nil && hex.EncodeToString(sum[:]) != name {
				add("the content of blob %s is another", name)
			}
		}
	}
	maps.Copy(images, mounted)
	for _, digest := range slices.Sorted(maps.Keys(images)) {
		if !held[digest] {
			add("neither blob nor layer is there for %s", digest)
		}
	}
	return wrong, nil
}

// list returns the names in a directory of the store, which may not exist.
func list(store, dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(store, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// named returns the digests in the records that match the pattern, but for those
// that are part of a name: of an index of which only one manifest is kept, say.
func named(pattern string) (map[string]bool, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	digests := map[string]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, at := range digestPattern.FindAllSubmatchIndex(data, -1) {
			if at[0] == 0 || data[at[0]-1] != '@' {
				digests[string(data[at[2]:at[3]])] = true
			}
		}
	}
	return digests, nil
}
