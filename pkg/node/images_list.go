package node

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/platforms"

	"github.com/cri-node/cri-node/pkg/image"
	"github.com/cri-node/cri-node/pkg/node/nodev1"
)

// List describes all images, the newest first. It does not touch the disk.
func (s *images) List(context.Context, *nodev1.ListImagesRequest) (*nodev1.ListImagesResponse, error) {
	users := map[string]int32{}
	for _, c := range s.config.Containers.List() {
		if _, ok := s.seen(c); ok {
			users[c.Status().ImageID]++
		}
	}
	response := &nodev1.ListImagesResponse{}
	for _, img := range s.config.Images.List() {
		m := &nodev1.Image{
			Id: img.ID, Tags: img.Tags, Digests: img.Digests, Size: int64(img.Size), Labels: img.Config.Config.Labels,
			Containers: users[img.ID], Pinned: img.Pinned, CreatedAt: createdAt(img),
		}
		if img.Config.OS != "" {
			m.Platform = platforms.Format(img.Config.Platform)
		}
		response.Images = append(response.Images, m)
	}
	slices.SortStableFunc(response.Images, func(a, b *nodev1.Image) int {
		return int(max(-1, min(1, b.GetCreatedAt()-a.GetCreatedAt())))
	})
	return response, nil
}

func createdAt(img *image.Image) int64 {
	if img.Config.Created == nil || img.Config.Created.Year() < 1970 {
		return 0
	}
	return nanoseconds(*img.Config.Created)
}

// imageInspection is an image in the form that docker has.
type imageInspection struct {
	ID            string `json:"Id"`
	RepoTags      []string
	RepoDigests   []string
	Parent        string
	Comment       string
	Created       string
	DockerVersion string
	Author        string
	Config        map[string]json.RawMessage
	Architecture  string
	Variant       string `json:",omitempty"`
	OS            string `json:"Os"`
	Size          int64
	VirtualSize   int64
	GraphDriver   struct{ Name string }
	RootFS        struct {
		Type   string
		Layers []string
	}
	Metadata struct{ LastTagTime string }
	// Manifest is the digest of the manifest, empty where it has none yet.
	Manifest string
	Pinned   bool
}

// Inspect describes an image.
func (s *images) Inspect(_ context.Context, r *nodev1.InspectImageRequest) (*nodev1.InspectImageResponse, error) {
	img, err := s.findImage(r.GetImage())
	if err != nil {
		return nil, err
	}
	if img.Artifact != nil {
		text, err := json.Marshal(map[string]any{
			"Id": img.ID, "RepoTags": familiars(img.Tags), "RepoDigests": familiars(img.Digests),
			"ArtifactType": img.Artifact.Type, "Files": img.Artifact.Files, "Size": img.Size,
		})
		return &nodev1.InspectImageResponse{Json: text}, err
	}
	raw, err := s.config.Images.ConfigBytes(img.ID)
	if err != nil {
		return nil, err
	}
	d, err := inspectImage(img, raw)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode image: %w", err)
	}
	return &nodev1.InspectImageResponse{Json: text}, nil
}

// inspectImage takes the configuration as it came, with all that strangers have
// put into it, and adds what people look for where it has nothing.
func inspectImage(img *image.Image, raw []byte) (*imageInspection, error) {
	var whole struct {
		Comment       string                     `json:"comment"`
		Author        string                     `json:"author"`
		DockerVersion string                     `json:"docker_version"`
		Config        map[string]json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(raw, &whole); err != nil {
		return nil, fmt.Errorf("parse config of image %s: %w", img.ID, err)
	}
	d := &imageInspection{
		ID: img.ID, RepoTags: familiars(img.Tags), RepoDigests: familiars(img.Digests),
		Comment: whole.Comment, Author: whole.Author, DockerVersion: whole.DockerVersion, Config: whole.Config,
		Architecture: img.Config.Architecture, Variant: img.Config.Variant, OS: img.Config.OS,
		Size: int64(img.Size), VirtualSize: int64(img.Size), Manifest: img.Manifest.String(), Pinned: img.Pinned,
	}
	if img.Config.Created != nil {
		d.Created = img.Config.Created.Format(time.RFC3339Nano)
	}
	if d.Comment == "" && len(img.Config.History) > 0 {
		d.Comment = img.Config.History[len(img.Config.History)-1].Comment
	}
	d.GraphDriver.Name = "overlay"
	d.RootFS.Type, d.RootFS.Layers = "layers", []string{}
	for _, l := range img.Layers {
		d.RootFS.Layers = append(d.RootFS.Layers, l.String())
	}
	d.Metadata.LastTagTime = rfc3339(img.PulledAt)
	if d.Config == nil {
		d.Config = map[string]json.RawMessage{}
	}
	for key, empty := range map[string]string{"Cmd": "null", "Entrypoint": "null", "Env": "[]", "Labels": "null", "User": `""`, "Volumes": "null", "WorkingDir": `""`} {
		if _, there := d.Config[key]; !there {
			d.Config[key] = json.RawMessage(empty)
		}
	}
	return d, nil
}

func familiars(refs []string) []string {
	names := []string{}
	for _, r := range refs {
		names = append(names, familiar(r))
	}
	return names
}

// History tells how an image came to be, the newest first.
func (s *images) History(_ context.Context, r *nodev1.HistoryRequest) (*nodev1.HistoryResponse, error) {
	img, err := s.findImage(r.GetImage())
	if err != nil {
		return nil, err
	}
	if img.Artifact != nil {
		return nil, invalid("%q is an artifact, which has no history", r.GetImage())
	}
	sizes := s.config.Images.LayerSizes(img.Layers)
	response := &nodev1.HistoryResponse{}
	for _, h := range img.Config.History {
		e := &nodev1.HistoryResponse_Entry{Id: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment, Empty: h.EmptyLayer}
		if h.Created != nil {
			e.CreatedAt = nanoseconds(*h.Created)
		}
		if !h.EmptyLayer && len(sizes) > 0 {
			e.Size, sizes = sizes[0], sizes[1:]
		}
		response.Entries = append(response.Entries, e)
	}
	for _, size := range sizes { // of which the history knows nothing
		response.Entries = append(response.Entries, &nodev1.HistoryResponse_Entry{Id: "<missing>", CreatedAt: createdAt(img), Size: size})
	}
	slices.Reverse(response.Entries)
	if len(response.Entries) > 0 {
		response.Entries[0].Id, response.Entries[0].Tags = img.ID, familiars(img.Tags)
	}
	return response, nil
}
