package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
)

const (
	pageSize = 1000
	maxPages = 100
)

// Tags lists the tags of the session's repository.
func (s *Session) Tags(ctx context.Context) ([]string, error) {
	e, err := s.endpoint(docker.HostCapabilityPull)
	if err != nil {
		return nil, err
	}
	var tags []string
	err = s.pages(ctx, e, e.url(url.Values{"n": {strconv.Itoa(pageSize)}}, e.repo, "tags", "list"), func(page []byte) (bool, error) {
		var list struct {
			Tags []string `json:"tags"`
		}
		err := json.Unmarshal(page, &list)
		tags = append(tags, list.Tags...)
		return true, err
	})
	return tags, err
}

// Catalog lists repositories of the registry until use says that it has seen
// enough.
func (s *Session) Catalog(ctx context.Context, use func(repository string) (more bool)) error {
	e, err := s.endpoint(docker.HostCapabilityPull)
	if err != nil {
		return err
	}
	return s.pages(ctx, e, e.url(url.Values{"n": {strconv.Itoa(pageSize)}}, "_catalog"), func(page []byte) (bool, error) {
		var list struct {
			Repositories []string `json:"repositories"`
		}
		if err := json.Unmarshal(page, &list); err != nil {
			return false, err
		}
		for _, r := range list.Repositories {
			if !use(r) {
				return false, nil
			}
		}
		return true, nil
	})
}

// Login asks the registry whether it takes the session's credentials.
func (s *Session) Login(ctx context.Context) error {
	e, err := s.endpoint(docker.HostCapabilityPull)
	if err != nil {
		return err
	}
	response, err := s.do(ctx, e, apiRequest{method: http.MethodGet, url: e.url(nil, "")})
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return s.refused(ctx, "log in to "+e.domain, response)
	}
	return s.discard(response)
}

var nextPage = regexp.MustCompile(`^\s*<([^>]+)>\s*;.*rel="?next"?`)

// pages follows the links of a list. They must stay at the registry.
func (s *Session) pages(ctx context.Context, e *endpoint, address string, use func([]byte) (bool, error)) error {
	for range maxPages {
		response, err := s.do(ctx, e, apiRequest{method: http.MethodGet, url: address})
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return s.refused(ctx, "list", response)
		}
		page, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
		if err := errors.Join(err, response.Body.Close()); err != nil {
			return s.classify(ctx, fmt.Errorf("list: %w", err))
		}
		if len(page) > maxAnswer {
			return fmt.Errorf("list of registry %s has more than %d bytes on a page: %w", e.host.Host, maxAnswer, errdefs.ErrResourceExhausted)
		}
		more, err := use(page)
		if err != nil {
			return fmt.Errorf("list of registry %s: %w: %w", e.host.Host, err, errdefs.ErrDataLoss)
		}
		next := nextPage.FindStringSubmatch(response.Header.Get("Link"))
		if !more || next == nil {
			return nil
		}
		u, err := response.Request.URL.Parse(next[1])
		if err != nil || u.Host != response.Request.URL.Host {
			return fmt.Errorf("list of registry %s goes on elsewhere: %w", e.host.Host, errdefs.ErrFailedPrecondition)
		}
		address = u.String()
	}
	return fmt.Errorf("list of registry %s has more than %d pages: %w", e.host.Host, maxPages, errdefs.ErrResourceExhausted)
}
