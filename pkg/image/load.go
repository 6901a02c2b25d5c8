package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// LoadOptions say how to load an archive.
type LoadOptions struct {
	// Platform, such as linux/arm64, is chosen instead of the machine's.
	Platform string
	// OnProgress, if set, is told from one goroutine at a time.
	OnProgress func(Progress)
}

// Loaded is an image that came out of an archive.
type Loaded struct {
	ID string
	// Names are those the archive gave it.
	Names []string
}

// Load brings the images of an archive into the store: one that docker save
// wrote, or an OCI layout in a tar, plain, gzip or zstd. No image of it becomes
// visible before all their layers are there and verified. r must end when ctx
// does.
func (s *Store) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]Loaded, error) {
	done, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	a, err := s.readArchive(ctx, r)
	if err != nil {
		return nil, err
	}
	defer a.file.Close()
	images, err := s.archivedImages(ctx, a, o.Platform)
	if err != nil {
		return nil, err
	}
	l := &load{store: s, progress: newReporter(o.OnProgress)}
	defer l.release()
	for _, img := range images {
		if err := l.layers(ctx, img); err != nil {
			return nil, err
		}
	}
	var loaded []Loaded
	for _, img := range images {
		made, err := s.Register(ctx, img.config, img.names...)
		if err != nil {
			return loaded, err
		}
		refs, err := parseTags(img.names)
		if err != nil {
			return loaded, err
		}
		// An OCI layout lists an image once for each name.
		if i := slices.IndexFunc(loaded, func(l Loaded) bool { return l.ID == made.ID }); i >= 0 {
			loaded[i].Names = append(loaded[i].Names, refs...)
			continue
		}
		loaded = append(loaded, Loaded{ID: made.ID, Names: refs})
	}
	return loaded, nil
}

// load is one Load under way.
type load struct {
	store    *Store
	progress *reporter
	held     []func()
}

func (l *load) release() {
	for _, release := range l.held {
		release()
	}
}

// layers brings the layers of an image into the store, the lowest first.
func (l *load) layers(ctx context.Context, img archived) error {
	if _, err := parseTags(img.names); err != nil {
		return badArchive("name of an image: %v", err)
	}
	p, err := localImage(img.config)
	if err != nil {
		return badArchive("%v", err)
	}
	diffIDs := p.config.RootFS.DiffIDs
	if len(diffIDs) != len(img.layers) {
		return badArchive("image config names %d layers, the archive %d", len(diffIDs), len(img.layers))
	}
	for i, d := range diffIDs {
		if release, err := l.store.holdLayers([]digest.Digest{d}); err == nil {
			l.held = append(l.held, release)
			l.progress.tell(Progress{Layer: d, Status: statusExists})
			continue
		}
		r, err := img.layers[i](ctx)
		if err != nil {
			return err
		}
		made, err := l.store.AddLayer(ctx, &toldReader{SectionReader: r, told: func(at int64) {
			l.progress.tell(Progress{Layer: d, Status: "Loading layer", Current: at, Total: r.Size()})
		}}, diffIDs[:i])
		if err != nil {
			return fmt.Errorf("load layer %s: %w", d, err)
		}
		l.held = append(l.held, made.Release)
		if made.DiffID != d {
			return badArchive("a layer has diff id %s, the image config says %s", made.DiffID, d)
		}
		l.progress.tell(Progress{Layer: d, Status: "Loaded", Current: r.Size(), Total: r.Size()})
	}
	return nil
}

// toldReader tells how far it was read.
type toldReader struct {
	*io.SectionReader
	at   atomic.Int64
	told func(int64)
}

func (t *toldReader) Read(p []byte) (int, error) {
	n, err := t.SectionReader.Read(p)
	t.told(t.at.Add(int64(n)))
	return n, err
}
