package image

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/cri-node/cri-node/pkg/image/registry"
)

// Tags lists the tags that a repository has in its registry.
func (s *Store) Tags(ctx context.Context, repository string, auth *Auth) ([]string, error) {
	named, err := ParseReference(repository)
	if err != nil {
		return nil, err
	}
	var tags []string
	err = s.ask(ctx, named, auth, func(session *registry.Session) (err error) {
		tags, err = session.Tags(ctx)
		return err
	})
	return tags, err
}

// Login asks a registry, a host and perhaps a port, whether it takes these
// credentials.
func (s *Store) Login(ctx context.Context, host string, auth *Auth) error {
	named, err := repositoryOn(host)
	if err != nil {
		return err
	}
	return s.ask(ctx, named, auth, func(session *registry.Session) error { return session.Login(ctx) })
}

// SearchResult is a repository in a registry.
type SearchResult = registry.SearchResult

// Search finds repositories whose name has a part in it. term may begin with a
// registry, "HOST/" alone lists all it has; else it is Docker Hub, or whatever
// is configured in its place.
func (s *Store) Search(ctx context.Context, term string, limit int, auth *Auth) ([]SearchResult, error) {
	host, part, found := strings.Cut(term, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, part = "docker.io", term
	}
	if part == "" && host == "docker.io" {
		return nil, fmt.Errorf("search term: is empty: %w", errdefs.ErrInvalidArgument)
	}
	named, err := repositoryOn(host)
	if err != nil {
		return nil, err
	}
	var results []SearchResult
	err = s.ask(ctx, named, auth, func(session *registry.Session) error {
		results, err = session.Search(ctx, part, limit)
		return err
	})
	if host != "docker.io" {
		for i := range results {
			results[i].Name = host + "/" + results[i].Name
		}
	}
	return results, err
}

// repositoryOn names something in a registry, to find out about the registry.
func repositoryOn(host string) (reference.Named, error) {
	named, err := ParseReference(host + "/none/none")
	if err != nil || reference.Domain(named) != host {
		return nil, fmt.Errorf("registry %.100q: want HOST or HOST:PORT: %w", host, errdefs.ErrInvalidArgument)
	}
	return named, nil
}

func (s *Store) ask(ctx context.Context, named reference.Named, auth *Auth, do func(*registry.Session) error) error {
	done, err := s.begin()
	if err != nil {
		return err
	}
	defer done()
	session, err := s.newSession(ctx, named, auth)
	if err != nil {
		return err
	}
	defer session.Close()
	return do(session)
}

// ConfigBytes reads the config of an image, given by ID, as it came.
func (s *Store) ConfigBytes(id string) ([]byte, error) {
	st, release, err := s.useImage(id)
	if err != nil {
		return nil, err
	}
	defer release()
	if st.artifact != nil {
		return nil, fmt.Errorf("%s is an artifact, which has no image config: %w", id, errdefs.ErrInvalidArgument)
	}
	b, err := os.ReadFile(s.blobPath(st.record.ID))
	if err != nil {
		return nil, fmt.Errorf("read config of image %s: %w", id, err)
	}
	if !json.Valid(b) {
		return nil, malformed("config of image %s is broken", id)
	}
	return b, nil
}

// LayerSizes are what the layers of an image take on disk, in its order.
func (s *Store) LayerSizes(layers []digest.Digest) []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	sizes := make([]int64, len(layers))
	for i, d := range layers {
		if l := s.layers[d]; l != nil && !slices.Contains(layers[:i], d) {
			sizes[i] = l.usage.Bytes
		}
	}
	return sizes
}
