package image

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cri-node/cri-node/pkg/image/layer"
)

// escapedPath is a path that may hold any byte, fit for JSON.
type escapedPath string

// MarshalText escapes what is not plain ASCII, as URLs do.
func (p escapedPath) MarshalText() ([]byte, error) {
	return []byte((&url.URL{Path: string(p)}).EscapedPath()), nil
}

// UnmarshalText is the reverse.
func (p *escapedPath) UnmarshalText(text []byte) error {
	plain, err := url.PathUnescape(string(text))
	*p = escapedPath(plain)
	return err
}

// stackOrder lists the layers of an image, highest first, as overlayfs takes
// them. It refuses one directory twice, and need not have it: what a layer
// brings when it comes again lower down is all hidden by the first.
func stackOrder(layers []digest.Digest) []digest.Digest {
	var order []digest.Digest
	for _, d := range slices.Backward(layers) {
		if !slices.Contains(order, d) {
			order = append(order, d)
		}
	}
	return order
}

// inherit gives directories that a staged layer does not list the metadata
// that they have further down in the image. The caller holds s.commits and
// references to the layers, lowest first.
func (s *Store) inherit(ctx context.Context, layers []digest.Digest) error {
	stack, committed := s.stack(layers)
	if stack == nil {
		return nil
	}
	for i, d := range committed {
		record, err := loadLayer(s.layerDir(d))
		if err != nil {
			return fmt.Errorf("load layer %s: %w", d, err)
		}
		stack[i].Implied = record.implied()
	}
	slices.Reverse(stack)
	return layer.Inherit(ctx, stack)
}

// stack lists the layers of an image, highest first, and which of them are
// committed and have implied directories, by index. There is nothing to do,
// and no stack, where no staged layer has any.
func (s *Store) stack(layers []digest.Digest) (stack []layer.Stacked, committed map[int]digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	todo := false
	committed = map[int]digest.Digest{}
	for i, d := range stackOrder(layers) {
		l := s.layers[d]
		if l.state == layerCommitted {
			if l.hasImplied {
				committed[i] = d
			}
			stack = append(stack, layer.Stacked{Dir: filepath.Join(s.layerDir(d), layerDiff), Fixed: true})
			continue
		}
		todo = todo || len(l.implied) > 0
		stack = append(stack, layer.Stacked{Dir: filepath.Join(l.dir, layerDiff), Implied: l.implied})
	}
	if !todo {
		return nil, nil
	}
	return stack, committed
}

// inheritUpper gives the root of a writable layer, which is the root of the
// whole, what the image says of it.
func (s *Store) inheritUpper(ctx context.Context, upper string, layers []digest.Digest) error {
	dir := s.rootLayer(layers)
	if dir == "" {
		return nil
	}
	return layer.Inherit(ctx, []layer.Stacked{{Dir: dir, Fixed: true}, {Dir: upper, Implied: []string{"."}}})
}

// rootLayer finds the highest layer that lists its root directory.
func (s *Store) rootLayer(layers []digest.Digest) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range stackOrder(layers) {
		if l := s.layers[d]; l != nil && !l.rootImplied {
			return filepath.Join(s.layerDir(d), layerDiff)
		}
	}
	return ""
}

// newLayerUsage is the record of a layer that was just unpacked.
func newLayerUsage(d digest.Digest, r applied) layerUsage {
	u := layerUsage{DiffID: d, Bytes: r.Bytes, Inodes: r.Inodes, OpaqueRoot: r.OpaqueRoot, TarSize: r.tarSize}
	for _, p := range r.Implied {
		u.Implied = append(u.Implied, escapedPath(p))
	}
	return u
}

func (u layerUsage) implied() []string {
	var paths []string
	for _, p := range u.Implied {
		paths = append(paths, string(p))
	}
	return paths
}

// describe fills in what a record says of a layer.
func (l *layerEntry) describe(u layerUsage) {
	l.usage = layer.Usage{Bytes: u.Bytes, Inodes: u.Inodes}
	l.opaqueRoot = u.OpaqueRoot
	l.tarSize = u.TarSize
	l.hasImplied = len(u.Implied) > 0
	l.rootImplied = slices.Contains(u.Implied, ".")
}
