package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
)

// SearchResult is a repository that a search has found. Most registries know no
// more of one than its name.
type SearchResult struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int64  `json:"star_count"`
	Official    bool   `json:"is_official"`
}

// maxResults bounds a search.
const maxResults = 100

// Search finds repositories whose name has part in it: with the search of Docker
// Hub, in any other registry by going through its catalogue.
func (s *Session) Search(ctx context.Context, part string, limit int) ([]SearchResult, error) {
	if limit <= 0 || limit > maxResults {
		limit = maxResults
	}
	e, err := s.endpoint(docker.HostCapabilityPull)
	if err != nil {
		return nil, err
	}
	if e.host.Host == "registry-1.docker.io" {
		return s.searchHub(ctx, e, part, limit)
	}
	var found []SearchResult
	err = s.Catalog(ctx, func(repository string) bool {
		if strings.Contains(repository, part) {
			if e.domain == "docker.io" {
				repository = strings.TrimPrefix(repository, "library/")
			}
			found = append(found, SearchResult{Name: repository})
		}
		return len(found) < limit
	})
	if errors.Is(err, errdefs.ErrNotFound) || errors.Is(err, errdefs.ErrUnauthenticated) || errors.Is(err, errdefs.ErrPermissionDenied) {
		return nil, fmt.Errorf("registry %s shows no catalogue to search: %w", e.domain, err)
	}
	slices.SortFunc(found, func(a, b SearchResult) int { return strings.Compare(a.Name, b.Name) })
	return found, err
}

func (s *Session) searchHub(ctx context.Context, e *endpoint, part string, limit int) ([]SearchResult, error) {
	query := url.Values{"q": {part}, "n": {strconv.Itoa(limit)}}
	response, err := s.do(ctx, e, apiRequest{method: http.MethodGet, url: "https://index.docker.io/v1/search?" + query.Encode()})
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, s.refused(ctx, "search", response)
	}
	var page struct {
		Results []SearchResult `json:"results"`
	}
	err = json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&page)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return nil, s.classify(ctx, fmt.Errorf("search: %w", err))
	}
	return page.Results, nil
}
