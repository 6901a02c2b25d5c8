package image

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// holdRecord keeps layers that no image has: what a build wants to find again.
type holdRecord struct {
	Layers []digest.Digest `json:"layers"`
	// Boot is when the layers were written, as long as nobody has synced them:
	// after another boot they are not to be trusted.
	Boot string `json:"boot,omitempty"`
}

// holdPath is the record of a hold.
func (s *Store) holdPath(id string) string { return s.path(dirHolds, id+".json") }

// Hold keeps layers, all of which must be there, until Release is called with
// the same id; a hold of that id that is there already is replaced. It outlives
// the daemon. Until Sync it does not outlive a machine that dies.
func (s *Store) Hold(ctx context.Context, id string, layers []digest.Digest) error {
	if !validRootfsID(id) {
		return fmt.Errorf("hold id %.80q: %w", id, errdefs.ErrInvalidArgument)
	}
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	boot, err := linux.BootID()
	if err != nil {
		return err
	}
	record := holdRecord{Layers: uniqueDigests(layers), Boot: boot}
	s.holding.Lock()
	defer s.holding.Unlock()
	if err := s.refAll(record.Layers); err != nil {
		return fmt.Errorf("hold %s: %w", id, err)
	}
	if err := linux.SaveRecord(s.holdPath(id), record, linux.SurviveProcess); err != nil {
		s.unrefAll(record.Layers)
		return fmt.Errorf("hold %s: %w", id, err)
	}
	s.unrefAll(s.holds[id].Layers)
	s.holds[id] = record
	return nil
}

// Release ends a hold. One that does not exist is a success.
func (s *Store) Release(ctx context.Context, id string) error {
	if !validRootfsID(id) {
		return fmt.Errorf("hold id %.80q: %w", id, errdefs.ErrInvalidArgument)
	}
	s.holding.Lock()
	defer s.holding.Unlock()
	if err := os.Remove(s.holdPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release hold %s: %w", id, err)
	}
	s.unrefAll(s.holds[id].Layers)
	delete(s.holds, id)
	return nil
}

// Holds are the ids of all holds, sorted.
func (s *Store) Holds() []string {
	s.holding.Lock()
	defer s.holding.Unlock()
	return slices.Sorted(maps.Keys(s.holds))
}

// SyncHolds makes all that is held outlive the machine.
func (s *Store) SyncHolds(ctx context.Context) error {
	s.holding.Lock()
	defer s.holding.Unlock()
	var fresh []string
	for id, h := range s.holds {
		if h.Boot != "" {
			fresh = append(fresh, id)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := s.syncRoot(); err != nil {
		return fmt.Errorf("sync held layers: %w", err)
	}
	for _, id := range fresh {
		h := holdRecord{Layers: s.holds[id].Layers}
		if err := linux.SaveRecord(s.holdPath(id), h, linux.SurviveProcess); err != nil {
			return fmt.Errorf("save hold %s: %w", id, err)
		}
		s.holds[id] = h
	}
	return nil
}

// LayerSize is what a layer that somebody holds takes on disk.
func (s *Store) LayerSize(d digest.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.layers[d]; l != nil {
		return l.usage.Bytes
	}
	return 0
}

// refAll takes references to layers that are there, or to none.
func (s *Store) refAll(layers []digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range layers {
		if l := s.layers[d]; l == nil || l.state != layerCommitted {
			return fmt.Errorf("layer %s: %w", d, errdefs.ErrNotFound)
		}
	}
	for _, d := range layers {
		s.refLayer(d)
	}
	return nil
}

func (s *Store) unrefAll(layers []digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range layers {
		s.unrefLayer(d, false)
	}
}

// recoverHolds enters the holds whose layers are all there, and forgets the
// others: they are a cache.
func (s *Store) recoverHolds(ctx context.Context) error {
	entries, err := os.ReadDir(s.path(dirHolds))
	if err != nil {
		return err
	}
	boot, err := linux.BootID()
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := s.path(dirHolds, e.Name())
		id, ok := cutRecord(e.Name())
		var h holdRecord
		if ok {
			h, _, err = linux.LoadRecord[holdRecord](path)
		}
		if ok && err == nil && (h.Boot == "" || h.Boot == boot) {
			err = s.refAll(h.Layers)
		}
		if !ok || err != nil || h.Boot != "" && h.Boot != boot {
			klog.FromContext(ctx).Info("Forgetting layers that a build had kept", "record", e.Name(), "reason", err)
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		s.holds[id] = h
	}
	return nil
}

// cutRecord is the id of a record with this file name.
func cutRecord(name string) (id string, ok bool) {
	const suffix = ".json"
	if linux.IsTemporary(name) || len(name) <= len(suffix) || name[len(name)-len(suffix):] != suffix {
		return "", false
	}
	return name[:len(name)-len(suffix)], true
}

// Stack makes layers, lowest first, look like an image that no list shows: by
// the id it returns, PrepareRootfs makes root file systems of them. They are
// held until release is called. It is gone with the daemon.
func (s *Store) Stack(layers []digest.Digest, config ocispec.Image) (id string, release func(), err error) {
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: slices.Clone(layers)}
	held := uniqueDigests(layers)
	if err := s.refAll(held); err != nil {
		return "", nil, fmt.Errorf("stack layers: %w", err)
	}
	id = digest.FromString(rand.Text()).String()
	img := &Image{ID: id, Config: config, Layers: config.RootFS.DiffIDs}
	img.UID, img.Username = parseUser(config.Config.User)
	s.stacks.Store(id, img)
	return id, func() {
		if _, here := s.stacks.LoadAndDelete(id); here {
			s.unrefAll(held)
		}
	}, nil
}

// RawConfig is the config of an image, given by ID, as it came: with what the
// specification has no fields for.
func (s *Store) RawConfig(id string) ([]byte, error) {
	img, err := s.Resolve(id)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.blobPath(digest.Digest(img.ID)))
	if err != nil {
		return nil, fmt.Errorf("read config of image %s: %w", img.ID, err)
	}
	return b, nil
}
