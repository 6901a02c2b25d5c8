package layer

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// See https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#whiteouts.
const (
	whiteoutPrefix = ".wh."
	aufsPrefix     = whiteoutPrefix + whiteoutPrefix
	opaqueMarker   = aufsPrefix + ".opq"
)

// maxPath is the longest path the kernel takes, without its NUL.
const maxPath = unix.PathMax - 1

// nameKind is what an entry's name says, before its type is looked at.
type nameKind int

const (
	namePlain    nameKind = iota
	nameRoot              // the layer's root directory itself
	nameWhiteout          // base is the name to hide
	nameOpaque            // parent is the directory to make opaque
	nameIgnored           // aufs bookkeeping
)

// entryName is an entry's path relative to the layer's root, in clean form.
type entryName struct {
	kind   nameKind
	parent string // "" is the root
	base   string // one component, neither empty nor "." nor ".."
}

// parseName splits a name, as a path in a file system whose root is the layer:
// it may begin with any number of "/" or "..".
func parseName(name string, maxDepth int) (entryName, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return entryName{}, invalidf("name contains a zero byte")
	}
	if len(name) > maxPath {
		return entryName{}, invalidf("name is longer than %d bytes", maxPath)
	}
	clean := path.Clean("/" + name)[1:]
	if clean == "" {
		return entryName{kind: nameRoot}, nil
	}
	if depth := strings.Count(clean, "/") + 1; depth > maxDepth {
		return entryName{}, invalidf("name has %d components, more than %d", depth, maxDepth)
	}
	parent, base := splitPath(clean)
	if strings.Contains(parent, whiteoutPrefix) {
		for component := range strings.SplitSeq(parent, "/") {
			if strings.HasPrefix(component, aufsPrefix) {
				return entryName{kind: nameIgnored}, nil
			}
			if strings.HasPrefix(component, whiteoutPrefix) {
				return entryName{}, invalidf("name goes through whiteout %s", quote(component))
			}
		}
	}
	n := entryName{parent: parent, base: base}
	hidden, found := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case !found:
	case base == opaqueMarker:
		n.kind = nameOpaque
	case strings.HasPrefix(base, aufsPrefix):
		n.kind = nameIgnored
	case hidden == "" || hidden == "." || hidden == "..":
		return entryName{}, invalidf("whiteout %s names no file", quote(base))
	default:
		n.kind, n.base = nameWhiteout, hidden
	}
	return n, nil
}

// splitPath splits a clean relative path before its last component.
func splitPath(p string) (parent, base string) {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "", p
	}
	return p[:i], p[i+1:]
}

// joinPath is the reverse of splitPath.
func joinPath(parent, base string) string {
	if parent == "" {
		return base
	}
	return parent + "/" + base
}
