package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-node/cri-node/pkg/runtime/linux"
)

// Image is what the store knew of one image at one moment. It is shared:
// callers must not change it.
type Image struct {
	// ID is "sha256:" and the digest of the config.
	ID string
	// Tags and Digests are the full names the image was pulled by, sorted.
	Tags    []string
	Digests []string
	// Size is what the image takes on disk, shared layers included.
	Size uint64
	// Artifact is what an OCI artifact holds, which is no image that could be
	// run; nil for an image. The ID of one is the digest of its manifest.
	Artifact *Artifact
	// Config is the image config as it came; empty for an artifact.
	Config ocispec.Image
	// Manifest is the digest of the manifest the image was made from.
	Manifest digest.Digest
	// Layers are the diff IDs, lowest first.
	Layers []digest.Digest
	// Pinned says that garbage collection should leave the image alone.
	Pinned bool
	// UID is the user to run as where the config has a number, else Username
	// is what the config has, without the group.
	UID      *int64
	Username string
	// PulledAt is when the image came, or last got a name.
	PulledAt time.Time
}

// imageRecord is what is kept of an image, in images/<hex>.json.
type imageRecord struct {
	ID       digest.Digest   `json:"id"`
	Manifest digest.Digest   `json:"manifest"`
	Names    []name          `json:"names"`
	Blobs    []blobRef       `json:"blobs"`
	Layers   []digest.Digest `json:"layers"`
	PulledAt time.Time       `json:"pulledAt"`
	// Origins say where layers are in the form they have in the manifest.
	Origins []origin `json:"origins,omitempty"`
	// Compressed are blobs of layers that are kept as they came.
	Compressed []blobRef `json:"compressed,omitempty"`
	// Artifact: the content is in the manifest, which is also the ID.
	Artifact bool `json:"artifact,omitempty"`
}

// name is a tag or digest reference. Of two images with one name, which a
// crash may leave, the one with the higher sequence has it.
type name struct {
	Ref      string `json:"ref"`
	Sequence uint64 `json:"sequence"`
}

// blobs are all files of an image in the directory of blobs.
func (r *imageRecord) blobs() []blobRef {
	return append(slices.Clip(r.Blobs), r.Compressed...)
}

type blobRef struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// stored is an image in memory.
type stored struct {
	record   imageRecord
	config   ocispec.Image
	artifact *Artifact // nil for an image
}

// view is an immutable picture of all images, so that readers take no lock.
type view struct {
	byName map[string]*Image
	ids    []string // hex, sorted
	list   []*Image // in the order of ids
}

// updateView makes readers see the present state. The caller holds s.mu.
func (s *Store) updateView() {
	v := &view{byName: map[string]*Image{}}
	for _, st := range s.images {
		v.list = append(v.list, s.snapshot(st))
	}
	slices.SortFunc(v.list, func(a, b *Image) int { return cmp.Compare(a.ID, b.ID) })
	for _, img := range v.list {
		v.ids = append(v.ids, digest.Digest(img.ID).Encoded())
		for _, n := range img.Tags {
			v.byName[n] = img
		}
		for _, n := range img.Digests {
			v.byName[n] = img
		}
	}
	s.view.Store(v)
}

func (s *Store) snapshot(st *stored) *Image {
	img := &Image{
		ID:       st.record.ID.String(),
		Artifact: st.artifact,
		Config:   st.config,
		Manifest: st.record.Manifest,
		Layers:   st.config.RootFS.DiffIDs,
		PulledAt: st.record.PulledAt,
	}
	for _, n := range st.record.Names {
		if strings.Contains(n.Ref, "@") {
			img.Digests = append(img.Digests, n.Ref)
		} else {
			img.Tags = append(img.Tags, n.Ref)
		}
	}
	sort.Strings(img.Tags)
	sort.Strings(img.Digests)
	for _, d := range st.record.Layers {
		img.Size += uint64(s.layers[d].usage.Bytes)
	}
	for _, b := range st.record.blobs() {
		img.Size += uint64(b.Size)
	}
	img.Pinned = pinned(s.config.PinnedImages, append(slices.Clone(img.Tags), img.Digests...))
	img.UID, img.Username = parseUser(st.config.Config.User)
	return img
}

// maxUID is the largest user id; the one above means "no change" to the kernel.
const maxUID = 1<<32 - 2

// parseUser splits the user of an image config. A number the kernel does not
// take stays a name, so that nobody mistakes it for a user that is not root.
func parseUser(user string) (*int64, string) {
	user, _, _ = strings.Cut(user, ":")
	uid, err := strconv.ParseUint(user, 10, 32)
	if err != nil || uid > maxUID {
		return nil, user
	}
	id := int64(uid)
	return &id, ""
}

// List returns all images, sorted by ID. It touches memory only.
func (s *Store) List() []*Image { return slices.Clone(s.view.Load().list) }

// Resolve finds an image by ID, with or without "sha256:", by a unique prefix
// of at least 3 digits of it, or by any of its names in any spelling. It
// touches memory only. The error is ErrNotFound or ErrInvalidArgument.
func (s *Store) Resolve(ref string) (*Image, error) {
	v := s.view.Load()
	if id, ok := parseID(ref); ok {
		if i, found := slices.BinarySearch(v.ids, id.Encoded()); found && v.list[i].ID == id.String() {
			return v.list[i], nil
		}
		if stack, ok := s.stacks.Load(id.String()); ok {
			return stack.(*Image), nil //nolint:forcetypeassert // nothing else is in it
		}
		return nil, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
	}
	named, err := ParseReference(ref)
	if err == nil {
		if img := v.byName[named.String()]; img != nil {
			return img, nil
		}
	}
	if hex, ok := parseIDPrefix(ref); ok {
		i, _ := slices.BinarySearch(v.ids, hex)
		switch {
		case i == len(v.ids) || !strings.HasPrefix(v.ids[i], hex):
		case i+1 < len(v.ids) && strings.HasPrefix(v.ids[i+1], hex):
			return nil, fmt.Errorf("%q is the beginning of several image ids: %w", ref, errdefs.ErrInvalidArgument)
		default:
			return v.list[i], nil
		}
	} else if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
}

// Remove takes away all names of the image that ref means, and the image with
// them. When it returns, nobody sees the image any more, whoever removed it.
// Layers that a rootfs stands on stay until that goes; what the others took of the
// disk is free by then, for kubelet looks at once whether it has to evict a pod all
// the same. Only the end of ctx leaves that to the collector. An image that does
// not exist is a success.
func (s *Store) Remove(ctx context.Context, ref string) error {
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.removeImage(ref); err != nil {
		return err
	}
	// The collector goes on with what this cannot delete, and logs why.
	_ = s.emptyTrash(ctx)
	return nil
}

// removeImage moves what only this image needs to the trash.
func (s *Store) removeImage(ref string) error {
	s.names.Lock()
	defer s.names.Unlock()
	img, err := s.Resolve(ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	id := digest.Digest(img.ID)
	if s.imageByID(id) == nil {
		return nil // a stack, which is no image and goes when it is released
	}
	if err := os.Remove(s.recordPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	// The record is gone for this process, so the image has to be as well,
	// also where the sync then fails.
	err = linux.SyncDir(s.path(dirImages))
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.images[id]
	delete(s.images, id)
	s.updateView()
	s.unrefImage(st)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	return nil
}

func (s *Store) recordPath(id digest.Digest) string { return s.path(dirImages, id.Encoded()+".json") }

// refImage takes the references of an image. The caller holds s.mu.
func (s *Store) refImage(st *stored) {
	for _, d := range st.record.Layers {
		s.refLayer(d)
	}
	for _, b := range st.record.blobs() {
		s.refBlob(b.Digest, b.Size)
	}
}

func (s *Store) unrefImage(st *stored) {
	for _, d := range st.record.Layers {
		s.unrefLayer(d, false)
	}
	for _, b := range st.record.blobs() {
		s.unrefBlob(b.Digest)
	}
}

// publish makes an image visible, or adds names and blobs to one that is, and
// takes the names from other images. The record of the image goes first: after
// a crash in between, the sequence tells whose the name is. The caller holds a
// reference to all content.
func (s *Store) publish(next *stored, refs []string) error {
	s.names.Lock()
	defer s.names.Unlock()
	old := s.imageByID(next.record.ID)
	if old != nil {
		next.record.join(old.record)
	}
	return s.enter(old, next, refs)
}

// join adds to a record of an image what an older one has.
func (r *imageRecord) join(old imageRecord) {
	r.Names = slices.Clone(old.Names)
	r.Blobs = joinBlobs(old.Blobs, r.Blobs)
	r.Compressed = joinBlobs(old.Compressed, r.Compressed)
	r.Origins = joinOrigins(r.Origins, old.Origins)
	if r.Manifest == "" {
		r.Manifest = old.Manifest
	}
}

func joinBlobs(first, second []blobRef) []blobRef {
	joined := slices.Clone(first)
	for _, b := range second {
		if !slices.Contains(joined, b) {
			joined = append(joined, b)
		}
	}
	return joined
}

// enter makes the next state of an image durable and visible. The caller holds
// s.names and a reference to all content.
func (s *Store) enter(old, next *stored, refs []string) error {
	for _, ref := range refs {
		s.sequence++
		next.record.Names = slices.DeleteFunc(next.record.Names, func(n name) bool { return n.Ref == ref })
		next.record.Names = append(next.record.Names, name{Ref: ref, Sequence: s.sequence})
	}
	if err := linux.SaveRecord(s.recordPath(next.record.ID), next.record, linux.SurvivePower); err != nil {
		return fmt.Errorf("save image %s: %w", next.record.ID, err)
	}
	var errs []error
	for _, r := range s.replace(old, next, refs) {
		errs = append(errs, linux.SaveRecord(s.recordPath(r.ID), r, linux.SurvivePower))
	}
	return errors.Join(errs...)
}

// amend changes the record of an image that is there, and gives it names. change
// must not write to slices of the record.
func (s *Store) amend(id digest.Digest, change func(*imageRecord), refs ...string) error {
	s.names.Lock()
	defer s.names.Unlock()
	old := s.imageByID(id)
	if old == nil {
		return fmt.Errorf("image %s: %w", id, errdefs.ErrNotFound)
	}
	next := &stored{record: old.record, config: old.config, artifact: old.artifact}
	next.record.Names = slices.Clone(old.record.Names)
	change(&next.record)
	return s.enter(old, next, refs)
}

// replace makes the new state of an image visible and returns the records of
// images that lost a name by it.
func (s *Store) replace(old, next *stored, refs []string) []imageRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refImage(next)
	if old != nil {
		s.unrefImage(old)
	}
	s.images[next.record.ID] = next
	losers := s.takeNames(next.record.ID, refs)
	s.updateView()
	return losers
}

func (s *Store) imageByID(id digest.Digest) *stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images[id]
}

// takeNames removes refs from all images but one, and returns the records that
// changed. The caller holds s.mu.
func (s *Store) takeNames(from digest.Digest, refs []string) []imageRecord {
	var changed []imageRecord
	for id, other := range s.images {
		if id == from {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(other.record.Names), func(n name) bool { return slices.Contains(refs, n.Ref) })
		if len(kept) == len(other.record.Names) {
			continue
		}
		next := &stored{record: other.record, config: other.config, artifact: other.artifact}
		next.record.Names = kept
		s.images[id] = next
		changed = append(changed, next.record)
	}
	return changed
}
